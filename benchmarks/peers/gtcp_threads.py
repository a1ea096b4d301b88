"""gtcp: OS threads that share a client, in a process that is not patched."""

from benchmarks.peers.gtcp_greenlets import callers, serve

__all__ = ["callers", "serve"]

NAME = "gtcp, threads"
REQUIRES = ()
PATCHED = False
CALLERS = "threads"
