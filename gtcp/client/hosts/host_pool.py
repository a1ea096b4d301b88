"""The connections to one of several hosts: they tell the balancer how calls end."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gtcp.client.connections.connection import Connection
from gtcp.client.hosts.balancer import Balancer, Member
from gtcp.client.pool import Pool
from gtcp.errors import CallTimeout, ConnectionLost, GtcpError, ProtocolError, ServerLeaving
from gtcp.protocol.messages import GOING_AWAY, Reply

#: With so many calls in flight on a connection, the time of one in so many is enough.
TIMED = 8


class HostConnection(Connection):
    """A connection to one of several hosts: the balancer learns how its calls end.

    Attributes:
        pool: the host's.
    """

    pool: HostPool
    reports = True

    def call(
        self,
        cmdid: int,
        params: Any,
        deadline: float | None,
        meta: dict[str, str] | None,
        raw: bool = False,
    ) -> Reply:
        """Like ``Connection.call``. If many calls are in flight, it times one in ``TIMED``."""
        timed = len(self.waiting) < TIMED or not self.writer.count % TIMED
        started = monotonic() if timed else None
        try:
            reply = Connection.call(self, cmdid, params, deadline, meta, raw)
        except GtcpError as exc:
            self.note(started, exc)
            raise
        if timed or reply.code or self.pool.member.failures:
            self.note(started, reply)
        return reply

    def note(self, started: float | None, outcome: Reply | GtcpError) -> None:
        """Tell the balancer of an outcome; see ``Connection.note``."""
        pool, now = self.pool, monotonic()
        if isinstance(outcome, GtcpError):
            pool.failed(started, outcome, now)
        elif outcome.code == GOING_AWAY:
            pool.balancer.avoid(pool.member, now)
        else:
            pool.member.succeeded(started, now)


class HostPool(Pool):
    """The connections to one of several hosts.

    Attributes:
        member: the host as the balancer sees it.
        balancer: learns how calls end.
        opening: whether a connection is being opened in the background.
    """

    member: Member
    balancer: Balancer
    opening = False

    def in_flight(self) -> int:
        """Return the number of calls in flight."""
        connections = self.connections
        if len(connections) == 1:
            return len(connections[0].waiting)
        return sum(len(each.waiting) for each in connections)

    def failed(self, started: float | None, error: GtcpError, now: float) -> None:
        """Tell the balancer that a call got no answer."""
        if isinstance(error, ServerLeaving):
            self.balancer.avoid(self.member, now)
        elif isinstance(error, ConnectionLost | ProtocolError) or (
            isinstance(error, CallTimeout) and error.executed != "no"
        ):
            self.member.took(started, now)
            self.balancer.failed(self.member, now)

    def retire(self) -> None:
        """Take no more calls; close each connection when its calls have ended."""
        for connection in list(self.connections):
            connection.retire()

    def _connection(self, sock: Any) -> Connection:
        connection = HostConnection(*self._arguments(sock))
        connection.pool = self
        return connection
