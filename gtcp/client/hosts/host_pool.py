"""The connections to one of several hosts: they tell the balancer how calls end."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gtcp.client.connections.connection import Connection
from gtcp.client.connections.waiter import Waiter
from gtcp.client.hosts.balancer import Balancer, Member
from gtcp.client.pool import Pool
from gtcp.errors import CallTimeout, ConnectionLost, GtcpError, ProtocolError, ServerLeaving
from gtcp.protocol.messages import Reply

#: Calls of a connection whose latency is measured at the same time, at most.
MAX_SAMPLES = 4


class HostConnection(Connection):
    """A connection to one of several hosts: the balancer learns how its calls end.

    Attributes:
        pool: the host's.
    """

    def __init__(self, pool: HostPool, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pool = pool
        self._samples: dict[int, float] = {}  # when they were sent, by number

    def sample(self, now: float) -> None:
        """Measure the latency of the next call, unless enough are being measured."""
        samples = self._samples
        if len(samples) >= MAX_SAMPLES:
            oldest = next(iter(samples))
            if oldest in self.waiting:
                return
            del samples[oldest]  # it was given up, or had no reply
        samples[self.writer.count + 1] = now

    def _deliver(self, replies: list[Reply]) -> None:
        member, samples = self.pool.member, self._samples
        if samples:
            for reply in replies:
                if reply.id in samples:
                    member.took(samples.pop(reply.id), self._active)
        if member.failures and replies[-1].id is not None:
            member.answered()
        super()._deliver(replies)

    def _fail(self, number: int, waiter: Waiter, error: GtcpError) -> None:
        self.pool.failed(self._samples.pop(number, None), error, monotonic())
        super()._fail(number, waiter, error)

    def retire(self) -> None:
        """Take no more calls, and have the balancer avoid the host."""
        self.pool.balancer.avoid(self.pool.member, monotonic())
        super().retire()


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

    @property
    def max_in_flight(self) -> int:
        """Calls in flight that a connection may have."""
        return self._options.max_in_flight

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
        return HostConnection(self, *self._arguments(sock))
