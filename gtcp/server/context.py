"""What the connections of a server share, and who of them is counted where."""

from __future__ import annotations

import logging
from collections import Counter
from math import inf
from typing import TYPE_CHECKING

from gtcp.address import host_of
from gtcp.server.accesslog import AccessLog
from gtcp.server.logger import SERVER
from gtcp.server.runners import Runners
from gtcp.server.settings import Settings
from gtcp.server.table import Table
from gtcp.server.throttled import Throttled

if TYPE_CHECKING:
    from gtcp.server.connection import Connection

log = logging.getLogger(SERVER)


class Context:
    """Commands, settings, runners, and the connections themselves. Belongs to one hub.

    Attributes:
        strangers: where it is logged what peers did that they should not.
        owing: the connections whose peer has begun a line, or takes no replies.
        hosts: open connections by peer host.
        entering: sockets that have not shown yet who they are.
        handled_before: requests taken by connections that are closed.
    """

    def __init__(self, table: Table, settings: Settings) -> None:
        self.table = table
        self.settings = settings
        self.runners = Runners(
            table,
            settings.max_in_flight,
            settings.max_in_flight_per_connection,
            access=AccessLog() if settings.access_log else None,
        )
        self.strangers = Throttled(log)
        self.connections: set[Connection] = set()
        self.owing: set[Connection] = set()
        self.hosts: Counter[str] = Counter()
        limit = settings.max_connections
        self.max_connections = inf if limit is None else limit
        self.entering = 0
        self.handled_before = 0

    @property
    def handled(self) -> int:
        """Requests taken so far."""
        return self.handled_before + sum(each.handled for each in self.connections)

    def gone(self, connection: Connection) -> None:
        """Count a connection out that has closed."""
        self.connections.discard(connection)
        self.owing.discard(connection)
        self.handled_before += connection.handled
        self.one_less_of(host_of(connection.address))

    def one_less_of(self, host: str) -> None:
        """Count a connection of this host out."""
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]

    def too_many(self, host: str) -> str:
        """Why a further connection of this host would be one too many; empty if it is not."""
        if len(self.connections) + self.entering >= self.max_connections:
            return "too many connections"
        limit = self.settings.max_connections_per_address
        if limit is not None and self.hosts[host] >= limit:
            return "too many connections from this address"
        return ""

    @property
    def busy(self) -> bool:
        """Whether a connection is open or a handler runs."""
        return bool(self.connections or self.runners.in_flight)
