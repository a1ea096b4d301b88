"""The pytest plugin; pytest loads it where gtcp is installed.

The fixtures import what they need, since every pytest run loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gtcp.server.commands.handler import Commands
    from gtcp.server.server import Server
    from gtcp.server.settings import Settings
    from gtcp.testing.proxy import FaultProxy
    from gtcp.testing.running import Running


@pytest.fixture
def gtcp_server() -> Iterator[Callable[..., Running]]:
    """Start a real server: ``gtcp_server(commands, settings=None)``.

    The arguments are those of ``gtcp.testing.running``. It listens on a free loopback port, runs in
    a thread of its own, and is stopped after the test.

    Returns:
        Callable: starts a server and returns a ``Running``, which has its ``address``.
    """
    from gtcp.testing.running import running

    with ExitStack() as stack:

        def start(commands: Server | Commands, settings: Settings | None = None) -> Running:
            return stack.enter_context(running(commands, settings))

        yield start


@pytest.fixture
def gtcp_proxy() -> Iterator[Callable[[str], FaultProxy]]:
    """Put a fault proxy in front of a server: ``gtcp_proxy(server.address)``.

    Returns:
        Callable: starts a proxy and returns a ``FaultProxy``, which is closed after the test.
    """
    from gtcp.testing.proxy import FaultProxy

    with ExitStack() as stack:
        yield lambda address: stack.enter_context(FaultProxy(address))
