"""The pytest plugin; pytest finds it by itself where gtcp is installed.

Imports stand in the fixtures, since every pytest run loads this module.
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
    """Start a real server: ``gtcp_server(commands)`` returns what has its ``address``.

    Takes a ``Commands`` table or a ``Server``, and ``settings=`` if need be. It listens on a
    free loopback port, runs in a thread of its own, and is stopped after the test.
    """
    from gtcp.testing.running import running

    with ExitStack() as stack:

        def start(commands: Server | Commands, settings: Settings | None = None) -> Running:
            return stack.enter_context(running(commands, settings))

        yield start


@pytest.fixture
def gtcp_proxy() -> Iterator[Callable[[str], FaultProxy]]:
    """Put a proxy before a server: ``gtcp_proxy(server.address)``; closed after the test."""
    from gtcp.testing.proxy import FaultProxy

    with ExitStack() as stack:
        yield lambda address: stack.enter_context(FaultProxy(address))
