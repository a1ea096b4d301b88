"""Which connections have something to read, and what it is.

All of them are in one epoll, whose own descriptor the event loop watches. So a wake-up is one
callback, however many connections are ready: all are read, then a runner serves one after the
other, which is a turn. A watcher for each would be a callback and two greenlet switches for
each, and reading and serving by turns would throw each other's code out of the processor's caches.

Handlers that compute would make long turns. A turn ends after a while all the same, and what is
left of it waits in the backlog, behind which the loop goes round, so that timers are on time.
What comes as long as there is a backlog joins it.

When something came is not known, if there was no time to look. It is taken to have come when all
was last found that was there, so that a request which may be late is not run (and under load,
all but in vain).

Where the system has no epoll, each connection has a watcher after all; what they find is read in
the next round of the loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
from gevent import get_hub

from gtcp.protocol import count_lines
from gtcp.server.backlog import ROUND_SECONDS
from gtcp.sockets import READ, original

if TYPE_CHECKING:
    from gtcp.server.backlog import Backlog
    from gtcp.server.connection import Connection

epoll: Any = None
with contextlib.suppress(AttributeError):
    epoll = original("select", "epoll")

#: Connections served in one turn.
AT_ONCE = 64

#: Connections read from at once while there is a backlog.
READ_AT_ONCE = 1000

#: How much is read at once: one connection holds up the others by this much at most.
RECV_BYTES = 65536

#: Seconds of a slice: others, timers and signals wait for so long, and a handler.
SLICE_SECONDS = 0.005

#: Seconds after which the loop has slept, not just looked: what woke it has come this moment.
SLEPT = 0.0005

#: A connection and what it has received.
Arrival = tuple["Connection", bytes]


class Turn(msgspec.Struct, gc=False):
    """What has been read at once.

    Attributes:
        arrivals: what no runner has taken yet; shared by the runners that follow one another.
        large: of what they have taken, what takes so long that the others come first.
        arrived: when it came, or before; monotonic seconds.
        until: when the slice ends, monotonic seconds.
    """

    arrivals: Iterator[Arrival]
    arrived: float
    until: float
    large: list[Arrival] = []


#: Called in the hub to serve a turn; when its slice ends something may be left.
Serve = Callable[[Turn], None]


class Ready:
    """The connections that are read from. Belongs to one hub.

    Args:
        serve: serves what they have received.
        backlog: where that waits for its turn when there is no time for it.

    Attributes:
        connections: those that are read from, by descriptor.
    """

    def __init__(self, serve: Serve, backlog: Backlog) -> None:
        self.connections: dict[int, Connection] = {}
        self._serve = serve
        self._backlog = backlog
        self._found: dict[int, None] = {}  # descriptors found ready that have not been read
        self._more = False  # whether there were any when the loop looked last
        self._looks = self._looked = self._all_found = self._came = monotonic()
        hub: Any = get_hub()
        self._loop = hub.loop
        self._next_turn = self._loop.timer(0)  # as the backlog's
        self._around_looks = self._watch_looks()

    def add(self, fd: int, connection: Connection) -> None:
        """Read from this connection from now on."""
        self.connections[fd] = connection

    def remove(self, fd: int) -> None:
        """Read from it no more, if it is read from; call it before the descriptor is closed."""
        self.connections.pop(fd, None)
        self._found.pop(fd, None)

    def close(self) -> None:
        """Read and serve nothing any more."""
        self._found.clear()
        for watcher in (*self._around_looks, self._next_turn):
            watcher.stop()
            watcher.close()

    def abandon(self) -> None:
        """In a forked child: close what is the parent's, which goes on with it."""
        self.connections.clear()
        self.close()

    def _watch_looks(self) -> list[Any]:
        """Watchers on both sides of each look: behind callbacks, before all other watchers.

        None where gevent's loop is libuv, which has no such watchers.
        """
        try:
            before = self._loop.prepare(ref=False, priority=self._loop.MINPRI)
        except TypeError:
            return []
        before.start(self._note_before_look)
        after = self._loop.check(ref=False, priority=self._loop.MAXPRI)
        after.start(self._note_after_look)
        return [before, after]

    def _may_read(self) -> bool:
        """Whether nothing that was found before is still to be read."""
        if not self._around_looks:
            self._all_found = monotonic()
            self._more = bool(self._found)
        return not self._more

    def _note_before_look(self) -> None:
        """The loop is about to look for what is ready, and sleeps while nothing is."""
        self._looks = monotonic()

    def _note_after_look(self) -> None:
        """What is ready now has come after the last look, if that one was for all."""
        before, self._looked = self._looked, monotonic()
        if self._looked - self._looks > SLEPT:  # nothing was: it has come this moment
            self._all_found = self._looked
        elif not self._more:
            self._all_found = before
        self._more = bool(self._found)

    def _read_found(self) -> None:
        """Read from the next ones that were found ready, and serve them or have them wait."""
        ready = list(islice(self._found, READ_AT_ONCE if self._backlog else AT_ONCE))
        for fd in ready:
            del self._found[fd]
        self._read(ready)
        self._read_found_later()

    def _read_found_later(self) -> None:
        """In the next round of the loop."""
        if self._found and not self._next_turn.active:
            self._next_turn.start(self._read_found)

    def _read(self, ready: list[int]) -> None:
        if self._backlog:
            self._hold(ready)
        else:
            self._have_turn(list(self._arrivals(ready)))

    def _hold(self, ready: list[int]) -> None:
        """Read from them as long as a round may take; from the rest in the next one."""
        until = monotonic() + ROUND_SECONDS
        unread = iter(ready)
        for connection, data in self._arrivals(unread):
            connection.hold(data, self._came)
            if monotonic() >= until:
                break
        self._found = dict.fromkeys([*unread, *self._found])
        self._read_found_later()

    def _arrivals(self, ready: Iterable[int]) -> Iterator[Arrival]:
        for fd in ready:
            connection = self.connections[fd]
            try:
                data = connection.recv(RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                connection.close()
            else:
                connection.active = self._looked  # not idle, however long its turn takes
                yield connection, data

    def _have_turn(self, arrivals: list[Arrival]) -> None:
        began = monotonic()
        turn = Turn(iter(arrivals), self._came, began + SLICE_SECONDS)
        left: list[Arrival] = []
        try:
            self._serve(turn)
        finally:  # whatever happens, the rest has its turn
            left.extend((*turn.arrivals, *turn.large))
            if left:
                requests = _count_lines(arrivals) - _count_lines(left)
                self._backlog.note(monotonic() - began, max(1, requests))
            for connection, data in left:
                connection.hold(data, turn.arrived)


def _count_lines(arrivals: list[Arrival]) -> int:
    return sum(count_lines(data) for _connection, data in arrivals)


class _Epoll(Ready):
    """One epoll for all of them."""

    def __init__(self, serve: Serve, backlog: Backlog) -> None:
        super().__init__(serve, backlog)
        self._epoll: Any = epoll()
        self._watcher = self._loop.io(self._epoll.fileno(), READ)
        self._watcher.start(self._wake)

    def add(self, fd: int, connection: Connection) -> None:
        self._epoll.register(fd, READ)
        super().add(fd, connection)

    def remove(self, fd: int) -> None:
        if fd in self.connections:
            super().remove(fd)
            self._epoll.unregister(fd)

    def close(self) -> None:
        super().close()
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()

    def _wake(self) -> None:
        if not self._may_read():
            return
        self._came = self._all_found
        at_once = READ_AT_ONCE if self._backlog else AT_ONCE
        ready = self._epoll.poll(0, at_once + 1)
        if len(ready) <= at_once:
            self._read([fd for fd, _events in ready])
        else:
            # Found now, all of them: else it would never be certain when the last ones came.
            self._found = dict.fromkeys(fd for fd, _ in self._epoll.poll(0, len(self.connections)))
            self._read_found()


class _Watchers(Ready):
    """A watcher of the event loop for each of them."""

    def __init__(self, serve: Serve, backlog: Backlog) -> None:
        super().__init__(serve, backlog)
        self._watchers: dict[int, Any] = {}

    def add(self, fd: int, connection: Connection) -> None:
        super().add(fd, connection)
        watcher = self._watchers[fd] = self._loop.io(fd, READ)
        watcher.start(self._wake, fd)

    def remove(self, fd: int) -> None:
        if fd in self.connections:
            super().remove(fd)
            watcher = self._watchers.pop(fd)
            watcher.stop()
            watcher.close()

    def _wake(self, fd: int) -> None:
        if self._found:
            if self._more:  # those of an earlier look, which came before
                return
        elif self._may_read():
            self._came = self._all_found
        else:
            return
        self._found[fd] = None
        self._read_found_later()


def make_ready(serve: Serve, backlog: Backlog) -> Ready:
    """What suits the system."""
    return (_Watchers if epoll is None else _Epoll)(serve, backlog)
