"""gtcp: the synchronous RPC where the deadline is real and no call is lost."""

from gtcp.client.client import Client
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
)
from gtcp.identity import Peer
from gtcp.protocol import Request
from gtcp.server.handler import BaseHandler, Commands
from gtcp.server.logger import BaseLogger
from gtcp.server.server import Server
from gtcp.server.settings import Settings, SettingsError

__version__ = "0.1.0"

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
    "spawn",
]
