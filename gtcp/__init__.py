"""gtcp: synchronous RPC with deadlines enforced on both sides and errors that say what ran.

The client and the server are imported when they are first used: a program that only calls does
not load the server, nor the other way round.
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
    Refused,
    RemoteError,
    RemoteTimeout,
    SettingsError,
)
from gtcp.protocol.messages import Request
from gtcp.shield import shield
from gtcp.transport.identity import Peer
from gtcp.version import __version__ as __version__

if TYPE_CHECKING:
    from gtcp.client.calls import DEFAULT, Default
    from gtcp.client.client import Client
    from gtcp.client.hosts.resolver import Host, Resolver
    from gtcp.client.middleware import ClientCall
    from gtcp.client.streams import ResultStream
    from gtcp.client.stub import Stub
    from gtcp.server.commands.handler import BaseHandler, Commands
    from gtcp.server.ops.json_format import JsonFormatter, RequestFilter
    from gtcp.server.ops.logger import BaseLogger
    from gtcp.server.server import Server
    from gtcp.server.settings import Settings


__all__ = [
    "DEFAULT",
    "BaseHandler",
    "BaseLogger",
    "CallTimeout",
    "Cancelled",
    "Client",
    "ClientCall",
    "CommandError",
    "Commands",
    "ConnectError",
    "ConnectionLost",
    "Default",
    "GtcpError",
    "Host",
    "JsonFormatter",
    "Peer",
    "PoolTimeout",
    "ProtocolError",
    "Refused",
    "RemoteError",
    "RemoteTimeout",
    "Request",
    "RequestFilter",
    "Resolver",
    "ResultStream",
    "Server",
    "Settings",
    "SettingsError",
    "Stub",
    "deadline",
    "shield",
    "spawn",
]

#: Where the names are that are imported when they are first used.
_HOMES = {
    "DEFAULT": "gtcp.client.calls",
    "BaseHandler": "gtcp.server.commands.handler",
    "BaseLogger": "gtcp.server.ops.logger",
    "Client": "gtcp.client.client",
    "ClientCall": "gtcp.client.middleware",
    "Commands": "gtcp.server.commands.handler",
    "Default": "gtcp.client.calls",
    "Host": "gtcp.client.hosts.resolver",
    "JsonFormatter": "gtcp.server.ops.json_format",
    "RequestFilter": "gtcp.server.ops.json_format",
    "Resolver": "gtcp.client.hosts.resolver",
    "ResultStream": "gtcp.client.streams",
    "Server": "gtcp.server.server",
    "Settings": "gtcp.server.settings",
    "Stub": "gtcp.client.stub",
}

if not TYPE_CHECKING:  # a type checker that saw it would take every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'gtcp' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
