"""The connection pool: picks a connection with room for a call, opens one, or waits for a place.

A connection carries many calls, so one is usually enough; another is opened only if all open ones
are full. Greenlets that find no connection wait for one that is being opened instead of opening one
each. A pool belongs to one hub: every OS thread has its own.

A greenlet that is woken up in the queue checks for room itself, and queues again if another call
took it. So a wake-up too many does no harm, and one for a greenlet that is being killed is passed
on to the next.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from gevent.event import AsyncResult

from gtcp.client.connections.connection import Connection
from gtcp.client.dialing.dial import Options, Trust, dial
from gtcp.client.dialing.history import AddressHistory
from gtcp.errors import CallTimeout, ClientClosed, ConnectError, GtcpError, PoolTimeout, Untrusted
from gtcp.protocol.messages import Outgoing, encode_request
from gtcp.transport.address import Address

#: Seconds before opening another connection is tried again, if it failed and others are open.
REOPEN_AFTER = 1.0

CLOSED = "the client is closed"


class Pool:
    """The connections of one client in one hub.

    Attributes:
        connections: the open ones, and those that are still waiting for last replies.
        opened: connections opened so far.
        waits: how often a call had to wait until a connection had room for it.
        left_to_parent: whether this is a forked child's copy of its parent's pool.
        idempotent: whether all calls may be retried although they may have run; see ``NamedPool``.
    """

    idempotent = False

    def __init__(
        self, address: Address, options: Options, trust: Trust | None, history: AddressHistory
    ) -> None:
        self.connections: list[Connection] = []
        self.left_to_parent = False
        self.opened = 0
        self.waits = 0
        self._address = address
        self._options = options
        self._trust = trust
        self._history = history
        self._opening: set[object] = set()  # a token for each connection being opened
        self._reopen_at = 0.0
        self._queue: deque[AsyncResult[None]] = deque()
        self._ended_counts = {"sent": 0, "dropped": 0}
        self._closed = ""  # or the reason

    def ready(self) -> Connection | None:
        """Return a connection with room for a call; None if one has to be opened or waited for."""
        if self._queue:
            return None
        if len(self.connections) == 1 and self._options.min_connections == 1:
            only = self.connections[0]
            count = len(only.waiting)
            if (
                only.usable
                and not only.writer.busy
                and count < self._options.max_in_flight
                and (count or only.check())
            ):
                return only
        return self._with_room()

    def still_ready(self, connection: Connection) -> bool:
        """Return whether this busy connection has room for another call, and no call waits."""
        return bool(connection.waiting) and not self._queue and self._has_room(connection)

    def get(self, deadline: float | None) -> Connection:
        """Return a connection with room for a call; open one or wait, if necessary.

        Raises:
            PoolTimeout: every connection was full until the deadline.
            CallTimeout: the deadline passed while one was being opened.
            ConnectError: none could be opened, or the client is closed.
        """
        connection = self.ready()
        while connection is None:
            if self._closed:
                raise ClientClosed(self._closed)
            if self._may_open():
                connection = self._opened(deadline)
            else:
                self._wait(deadline)
                connection = self._with_room()
        return connection

    def is_full(self) -> bool:
        """Return whether another call would wait until one of those in flight has ended."""
        if any(self._has_room(each) for each in self.connections):
            return False
        opening, limits = len(self._opening), self._options
        if self._count_usable() + opening < limits.max_connections:
            return False
        return len(self._queue) + opening >= opening * limits.max_in_flight

    def pinned(self, _key: str) -> Pool:
        """Return itself: there is only one host."""
        return self

    def get_for(
        self, cmdid: int, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> Connection:
        """Like ``get``, if none is ready; bad params raise before a connection is opened."""
        encode_request(Outgoing(cmdid, params=params, meta=meta))
        return self.get(deadline)

    def fill(self, deadline: float | None) -> None:
        """Open connections until there are ``min_connections``.

        Raises:
            ConnectError: one could not be opened, or the client is closed.
            CallTimeout: the deadline passed.
        """
        while self._count_usable() + len(self._opening) < self._options.min_connections:
            if self._closed:
                raise ClientClosed(self._closed)
            self._open(deadline)

    def close(self) -> None:
        """Close every connection; calls in flight raise ConnectionLost."""
        self._closed = CLOSED
        for connection in list(self.connections):
            connection.close()
        self._fail_queue(ClientClosed(CLOSED))

    def shut(self) -> None:
        """Accept no more calls, and end the connections without calls; for other threads."""
        self._closed = CLOSED
        for connection in list(self.connections):
            if not connection.waiting:
                connection.shut()

    def abandon(self, stop_watching: bool) -> None:
        """Drop all connections without writing anything; see ``Connection.abandon``."""
        self._closed = "the call was made in the process that this one was forked from"
        for connection in self.connections:
            connection.abandon(stop_watching)

    def counts(self) -> dict[str, int]:
        """Return what ``Client.stats`` shows of connections."""
        live = self.connections
        return {
            "connections": len(live),
            "in_flight": sum(len(each.waiting) for each in live),
            "opened": self.opened,
            "waits": self.waits,
            "sent": self._ended_counts["sent"] + sum(each.sent for each in live),
            "dropped": self._ended_counts["dropped"] + sum(each.dropped for each in live),
        }

    def counts_of_hosts(self) -> dict[str, dict[str, int]]:
        """Return nothing: there is only one host."""
        return {}

    def _with_room(self) -> Connection | None:
        """Return the connection with the fewest calls in flight; None to open one or wait."""
        best, fewest, usable = None, self._options.max_in_flight, 0
        for connection in self.connections:
            if connection.usable and not connection.writer.busy:
                usable += 1
                if len(connection.waiting) < fewest:
                    best, fewest = connection, len(connection.waiting)
        if best is None or (fewest and self._too_few(usable)):
            return None
        return best if best.check() else self._with_room()

    def _has_room(self, connection: Connection) -> bool:
        if not connection.usable or connection.writer.busy:
            return False
        return len(connection.waiting) < self._options.max_in_flight

    def _too_few(self, usable: int) -> bool:
        """Return whether there are fewer than ``min_connections``, and one may be opened now."""
        too_few = usable + len(self._opening) < self._options.min_connections
        return too_few and (not usable or monotonic() >= self._reopen_at)

    def _may_open(self) -> bool:
        usable = self._count_usable()
        if self._too_few(usable):
            return True
        if usable + len(self._opening) >= self._options.max_connections:
            return False
        if usable and monotonic() < self._reopen_at:
            return False
        # The calls in the queue will find room on the connections that are being opened.
        return len(self._queue) >= len(self._opening) * self._options.max_in_flight

    def _count_usable(self) -> int:
        return sum(each.usable for each in self.connections)

    def _opened(self, deadline: float | None) -> Connection | None:
        """Return a new connection; None if none can be opened, but others are open."""
        try:
            return self._open(deadline)
        except ConnectError:
            if self._closed or not self._count_usable():
                raise
            self._reopen_at = monotonic() + REOPEN_AFTER
            return self._with_room()

    def _open(self, deadline: float | None) -> Connection:
        token = object()
        try:
            return self._open_as(token, deadline)
        except BaseException:
            self._opening.discard(token)  # once more: see the end of gtcp.client.dialing.dial.dial
            raise

    def _open_as(self, token: object, deadline: float | None) -> Connection:
        connection: Connection | None = None
        try:
            self._opening.add(token)
            sock, received = dial(
                self._address, self._options, self._trust, self._history, deadline
            )
            connection = self._connection(sock)
            self.connections.append(connection)
            self.opened += 1
            connection.start()
        except ConnectError as exc:
            if len(self._opening) == 1 and not self._count_usable():
                self._fail_queue(exc)
            raise
        except BaseException:
            if connection is not None:
                connection.close()
            self._wake(1)  # the next call in the queue has to open one
            raise
        finally:
            self._opening.discard(token)
        if self._closed:
            connection.close()
            raise ClientClosed(self._closed)
        if received:
            self._look_at(connection, received)
        self._wake(self._options.max_in_flight - 1)
        return connection

    def _connection(self, sock: Any) -> Connection:
        return Connection(*self._arguments(sock))

    def _arguments(self, sock: Any) -> tuple[Any, ...]:
        """Return the arguments of a new connection."""
        options, name = self._options, str(self._address)
        limit, busy_poll = options.max_reply_bytes, options.busy_poll
        return sock, name, limit, busy_poll, self._ended, self._freed

    def _look_at(self, connection: Connection, received: bytes) -> None:
        """Take what the server sent during the handshake; raise ConnectError if it goes away."""
        connection.take(received)
        if not connection.usable:
            connection.retire()
            self._wake(1)
            raise ConnectError(f"{self._address}: the server goes away")

    def _wait(self, deadline: float | None) -> None:
        """Wait in the queue until there may be room, or another call has opened a connection."""
        place: AsyncResult[None] = AsyncResult()
        self.waits += 1
        try:
            self._queue.append(place)
            place.wait(None if deadline is None else max(0.0, deadline - monotonic()))
            if not place.ready():
                raise self._no_place()
        except BaseException:
            if place in self._queue:
                self._queue.remove(place)
            if place.ready():
                self._wake(1)  # pass the wake-up on to the next
            raise
        place.get()

    def _no_place(self) -> GtcpError:
        if self._count_usable():
            return PoolTimeout(f"{self._address}: every connection is full")
        return CallTimeout(f"{self._address}: the deadline passed", executed="no")

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._queue))):
            self._queue.popleft().set(None)

    def _freed(self) -> None:
        """Wake up as many waiting calls as there are free places."""
        if self._queue:
            limit = self._options.max_in_flight
            places = sum(limit - len(each.waiting) for each in self.connections if each.usable)
            self._wake(places + self._may_open())

    def _fail_queue(self, exc: GtcpError) -> None:
        """Fail the calls that waited for this connection, each with an exception of its own."""
        queue, self._queue = self._queue, deque()
        for place in queue:
            place.set_exception(_another(exc))

    def _ended(self) -> None:
        for connection in [each for each in self.connections if each.closed]:
            self._ended_counts["sent"] += connection.sent
            self._ended_counts["dropped"] += connection.dropped
            self.connections.remove(connection)
        self._freed()


def _another(exc: GtcpError) -> GtcpError:
    """Return an equal exception: one object raised in several greenlets mixes their tracebacks."""
    kind = type(exc) if isinstance(exc, ClientClosed | Untrusted) else ConnectError
    return kind(str(exc))
