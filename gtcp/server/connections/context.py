"""State shared by the connections of one server."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from math import inf
from time import monotonic
from typing import Any

from gevent import get_hub, spawn

from gtcp.jitter import uniform
from gtcp.server.commands.table import Table
from gtcp.server.connections.in_flight import InFlight
from gtcp.server.connections.overload import Durations
from gtcp.server.connections.scheduler import Scheduler
from gtcp.server.ops.access_log import AccessLog
from gtcp.server.ops.background_log import RateLimitedLog, do_not_print_refusals
from gtcp.server.ops.health import Health
from gtcp.server.ops.logger import SERVER
from gtcp.server.ops.metrics import Both, Metrics
from gtcp.server.settings import Settings
from gtcp.transport.address import host_of

log = logging.getLogger(SERVER)

#: Seconds between two looks for failures that were counted and have to be reported.
REPORT_SECONDS = 5.0

#: Refused connections that linger at a time, so that no reset destroys the refusal. Further ones
#: are closed at once.
MAX_REFUSED = 100


class Connections(Collection[Any]):
    """A live view of a server's open connections."""

    def __init__(self, connections: set[Any]) -> None:
        self._connections = connections

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._connections))

    def __len__(self) -> int:
        return len(self._connections)


class Context:
    """Commands, settings, scheduler and counters. Belongs to the hub that it is created in.

    Attributes:
        rate_limited_log: for lines that peers can cause at will.
        connections: the open connections.
        refused: connections that only wait for their peer to take a refusal; no limit counts them.
        watched: connections whose peer has to finish a line or to take replies in time.
        hosts: open connections by the host of the peer.
        entering: connections that have not passed the handshake.
        draining: whether the server stops: new connections get a goodbye and are closed.
        health: what others are told of the server.
        stopped: whether the drain is over: what still runs is killed.
        handled_before: requests of connections that are closed.
        metrics: what is counted, with the setting ``admin``; else None.
        operations: the admin port, with that setting; else None.
        began: when it was created, monotonic seconds.
        exposed: whether other hosts can reach the server.
        registered: the entry in ZooKeeper, with the setting ``register``.
        ignored_credit: grants of credit that were ignored: not a number of items, or for no stream.
    """

    def __init__(self, table: Table, settings: Settings, health: Health | None = None) -> None:
        self.table = table
        self.health = health or Health()
        self.settings = settings
        self.scheduler = Scheduler()
        self.durations = Durations()
        self.in_flight = InFlight(settings.max_in_flight, settings.max_in_flight_per_connection)
        self.operations: Any = None
        self.registered: Any = None
        self.began = monotonic()
        self.exposed = True
        self.metrics = Metrics(_names(table)) if settings.admin else None
        access_log = AccessLog(_names(table)) if settings.access_log else None
        self.access = _observer(access_log, self.metrics)
        self.rate_limited_log = RateLimitedLog(log)
        self.connections: set[Any] = set()
        self.watched: set[Any] = set()
        self.refused: set[Any] = set()
        self.hosts: Counter[str] = Counter()
        self.max_reply_bytes = settings.max_reply_bytes
        limit = settings.max_connections
        self.max_connections = inf if limit is None else limit
        self.entering = 0
        self.draining = self.stopped = False
        self.handled_before = self.ignored_credit = 0
        self._report_timer: Any = get_hub().loop.timer(REPORT_SECONDS, REPORT_SECONDS, ref=False)
        self._report_timer.start(self._report_failures)
        do_not_print_refusals()

    @property
    def handled(self) -> int:
        """Requests received so far."""
        return self.handled_before + sum(int(each.handled) for each in self.connections)

    @property
    def busy(self) -> bool:
        """Whether a connection is open or a handler is blocked."""
        return bool(self.connections or self.in_flight)

    @property
    def admitted(self) -> int:
        """Open connections, without those that are refused."""
        return len(self.connections) - len(self.refused)

    @property
    def may_linger(self) -> bool:
        """Whether another refused connection may linger."""
        return len(self.refused) < MAX_REFUSED

    @property
    def is_flooded(self) -> bool:
        """Whether there are so many connections that further ones are closed without a reply."""
        return self.admitted >= self.max_connections and not self.may_linger

    def opened(self, connection: Any) -> None:
        """Count a connection that has passed the handshake."""
        self.connections.add(connection)
        self.hosts[host_of(connection.address)] += 1

    def next_idle_timeout(self) -> float | None:
        """Return an idle timeout; it varies by 10 percent, so that connections opened together do
        not close together."""
        seconds = self.settings.idle_timeout
        return None if seconds is None else seconds * uniform(0.9, 1.1)

    def next_end_of_age(self) -> float:
        """Return when a connection opened now is old, monotonic seconds; infinite for never.

        It varies by 20 percent: connections opened together, as after a reload, are not opened
        together again.
        """
        seconds = self.settings.max_connection_age
        return inf if seconds is None else monotonic() + seconds * uniform(0.8, 1.2)

    def refuse(self, connection: Any) -> None:
        """Count a connection out that is refused: it must not keep others out."""
        self.refused.add(connection)
        self.one_less_of(host_of(connection.address))

    def closed(self, connection: Any) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        self.watched.discard(connection)
        self.handled_before += connection.handled
        if connection in self.refused:
            self.refused.discard(connection)
        else:
            self.one_less_of(host_of(connection.address))

    def one_less_of(self, host: str) -> None:
        """Count a connection of this host out."""
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]

    def too_many(self, host: str) -> str:
        """Return why another connection of this host exceeds a limit; empty if it does not."""
        if self.admitted + self.entering >= self.max_connections:
            return "too many connections"
        limit = self.settings.max_connections_per_address
        if limit is not None and self.hosts[host] >= limit:
            return "too many connections from this address"
        return ""

    def close(self) -> None:
        """Stop the timers and watchers."""
        self.stopped = True
        if self.operations is not None:
            self.operations.close()
        self.in_flight.close()
        self.scheduler.close()
        self._stop_reports()
        if self.access is not None:
            self.access.write()
        for command in self.table.commands.values():
            command.failures.report()

    def abandon(self) -> None:
        """Stop the timers and watchers in a forked child, where nothing may run."""
        if self.operations is not None:
            self.operations.abandon()
        self.in_flight.close()
        self.scheduler.abandon()
        self._stop_reports()
        if self.access is not None:
            self.access.abandon()

    def _stop_reports(self) -> None:
        self._report_timer.stop()
        self._report_timer.close()

    def _report_failures(self) -> None:
        now = monotonic()
        for command in self.table.commands.values():
            if command.failures.due(now):
                spawn(command.failures.report, now)


def _names(table: Table) -> dict[int, str]:
    return {cmdid: command.name for cmdid, command in table.commands.items()}


def _observer(access_log: AccessLog | None, metrics: Metrics | None) -> Any:
    """Return the observer of answered requests; None if there is none."""
    if access_log is not None and metrics is not None:
        return Both(metrics, access_log)
    return access_log or metrics
