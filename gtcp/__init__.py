"""gtcp: synchronous RPC with deadlines enforced on both sides and errors that say what ran.

The client and the server are imported when they are first used: who only calls does not load
the server, nor the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gtcp.deadline import deadline, spawn
from gtcp.errors import (
    CallTimeout,
    Cancelled,
    CommandError,
    ConnectError,
    ConnectionLost,
    GtcpError,
    PoolTimeout,
    ProtocolError,
    RemoteError,
    RemoteTimeout,
    SettingsError,
)
from gtcp.protocol.messages import Request
from gtcp.shield import shield
from gtcp.transport.identity import Peer

if TYPE_CHECKING:
    from gtcp.client.client import Client
    from gtcp.server.commands.handler import BaseHandler, Commands
    from gtcp.server.ops.logger import BaseLogger
    from gtcp.server.server import Server
    from gtcp.server.settings import Settings

__version__ = "0.2.0"

__all__ = [
    "BaseHandler",
    "BaseLogger",
    "CallTimeout",
    "Cancelled",
    "Client",
    "CommandError",
    "Commands",
    "ConnectError",
    "ConnectionLost",
    "GtcpError",
    "Peer",
    "PoolTimeout",
    "ProtocolError",
    "RemoteError",
    "RemoteTimeout",
    "Request",
    "Server",
    "Settings",
    "SettingsError",
    "deadline",
    "shield",
    "spawn",
]

#: Where the names are that are imported when they are first used.
_HOMES = {
    "BaseHandler": "gtcp.server.commands.handler",
    "BaseLogger": "gtcp.server.ops.logger",
    "Client": "gtcp.client.client",
    "Commands": "gtcp.server.commands.handler",
    "Server": "gtcp.server.server",
    "Settings": "gtcp.server.settings",
}

if not TYPE_CHECKING:  # a type checker that saw it would take every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'gtcp' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
