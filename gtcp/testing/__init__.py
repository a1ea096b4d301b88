"""For the tests of programs that use gtcp: a real server in a few lines, and a proxy that
breaks the network on command.

With pytest the fixtures ``gtcp_server`` and ``gtcp_proxy`` are there by themselves.
"""

from gtcp.testing.proxy import FaultProxy, Faults
from gtcp.testing.running import Running, running

__all__ = ["FaultProxy", "Faults", "Running", "running"]
