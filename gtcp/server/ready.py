"""Which connections have something to read, and what it is.

All of them are in one epoll, whose own descriptor the event loop watches. So a wake-up is one
callback, however many connections are ready: all are read, then a runner serves one after the
other. A watcher for each would be a callback and two greenlet switches for each, and reading
and serving in turns would throw each other's code out of the processor's caches.

Where the system has no epoll, each connection has a watcher after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from gtcp.sockets import READ, original

if TYPE_CHECKING:
    from gtcp.server.connection import Connection
epoll: Any = original("select", "epoll")

#: Connections served in one turn: others, timers and signals wait for so many at most.
AT_ONCE = 64

#: How much is read at once: one connection holds up the others by this much at most.
RECV_BYTES = 65536

#: A connection and what it has received.
Arrival = tuple["Connection", bytes]


Serve = Callable[[list[Arrival], float], None]


class Ready:
    """The connections that are read from. Belongs to one hub.

    Args:
        serve: called in the hub with what has come, and when: monotonic seconds.

    Attributes:
        connections: those that are read from, by descriptor.
    """

    def __init__(self, serve: Serve) -> None:
        self.connections: dict[int, Connection] = {}
        self._serve = serve

    def add(self, fd: int, connection: Connection) -> None:
        """Read from this connection from now on."""
        self.connections[fd] = connection

    def remove(self, fd: int) -> None:
        """Read from it no more, if it is read from; call it before the descriptor is closed."""
        self.connections.pop(fd, None)

    def close(self) -> None:
        """Watch nothing any more."""

    def _turn(self, ready: Iterable[tuple[int, int]]) -> None:
        arrivals: list[Arrival] = []
        for fd, _events in ready:
            connection = self.connections[fd]
            try:
                data = connection.recv(RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                connection.close()
            else:
                arrivals.append((connection, data))
        self._serve(arrivals, monotonic())


class _Epoll(Ready):
    """One epoll for all of them."""

    def __init__(self, serve: Serve) -> None:
        super().__init__(serve)
        self._epoll: Any = epoll()
        self._watcher = get_hub().loop.io(self._epoll.fileno(), READ)
        self._watcher.start(self._wake)

    def add(self, fd: int, connection: Connection) -> None:
        super().add(fd, connection)
        self._epoll.register(fd, READ)

    def remove(self, fd: int) -> None:
        if fd in self.connections:
            super().remove(fd)
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()

    def _wake(self) -> None:
        self._turn(self._epoll.poll(0, AT_ONCE))


class _Watchers(Ready):
    """A watcher of the event loop for each of them."""

    def __init__(self, serve: Serve) -> None:
        super().__init__(serve)
        self._watchers: dict[int, Any] = {}

    def add(self, fd: int, connection: Connection) -> None:
        super().add(fd, connection)
        watcher = self._watchers[fd] = get_hub().loop.io(fd, READ)
        watcher.start(self._turn, ((fd, READ),))

    def remove(self, fd: int) -> None:
        if fd in self.connections:
            super().remove(fd)
            watcher = self._watchers.pop(fd)
            watcher.stop()
            watcher.close()


def make_ready(serve: Serve) -> Ready:
    """What suits the system."""
    return _Watchers(serve) if epoll is None else _Epoll(serve)
