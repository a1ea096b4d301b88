"""TCP and unix connections: the first address that answers wins.

With several addresses this is Happy Eyeballs (RFC 8305, section 5): an attempt that takes
longer than ``ATTEMPT_DELAY`` is joined by one to the next address, one that fails is followed by
the next immediately, and the first to connect ends the others. All of it happens in the calling
greenlet: no greenlet is spawned, and no watcher outlives it. Time limits are the caller's.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from select import POLLOUT
from time import monotonic

import gevent
from gevent.socket import wait_write

from gtcp.client.dialing.history import AddressHistory
from gtcp.client.dialing.resolve import Endpoint
from gtcp.transport.sockets import System, close_quietly

#: Seconds before the next address is tried too: "recommended" by RFC 8305, section 5.
ATTEMPT_DELAY = 0.25

#: Seconds before connecting to a unix socket whose accept queue is full is tried again.
UNIX_RETRY_DELAY = 0.01

#: How many addresses an error names.
MAX_NAMED = 4

NO_ANSWER = "no answer"


class Progress:
    """The progress of connecting, for the message of an error.

    Args:
        host: the host as the user wrote it.

    Attributes:
        resolving: whether the name is being resolved.
        failed: addresses that did not connect, and why; empty once one did.
    """

    __slots__ = ("failed", "resolving", "_host")

    def __init__(self, host: str) -> None:
        self.resolving = False
        self.failed: dict[Endpoint, str] = {}
        self._host = host

    def __str__(self) -> str:
        """Each address and why it failed; empty if it would only repeat the user's address."""
        if self.resolving:
            return "the name is still being resolved"
        if len(self.failed) == 1 and next(iter(self.failed)).sockaddr[0] == self._host:
            return ""
        named = [f"{each}: {why}" for each, why in list(self.failed.items())[:MAX_NAMED]]
        more = len(self.failed) - len(named)
        return "; ".join([*named, f"and {more} more"] if more else named)


def connect(
    endpoints: list[Endpoint], history: AddressHistory, progress: Progress
) -> socket.socket:
    """Return a connected, non-blocking socket.

    Args:
        endpoints: in the order in which they are to be tried; ``history`` may change it.

    Raises:
        OSError: no address connected; ``progress.failed`` says why.
    """
    if len(endpoints) == 1:
        return _connect_to(endpoints[0], progress)
    return _Race(history.ordered(endpoints), history, progress).run()


def connect_unix(path: str) -> socket.socket:
    """Return a connected, non-blocking unix socket.

    Raises:
        OSError, ValueError: it can't be connected.
    """
    attempt = _Attempt(Endpoint(socket.AF_UNIX, path))
    try:
        while not attempt.is_connected():
            gevent.sleep(UNIX_RETRY_DELAY)  # the system does not tell when there is room
    except BaseException:
        attempt.close()
        raise
    return attempt.sock


def _connect_to(endpoint: Endpoint, progress: Progress) -> socket.socket:
    """Connect to the only address."""
    progress.failed[endpoint] = NO_ANSWER  # unless something else becomes known
    try:
        attempt = _Attempt(endpoint)
        try:
            while not attempt.is_connected():
                wait_write(attempt.sock.fileno())
        except BaseException:
            attempt.close()
            raise
    except OSError as exc:
        progress.failed[endpoint] = exc.strerror or str(exc)
        raise
    progress.failed.clear()
    return attempt.sock


class _Attempt:
    """A socket that is being connected to one address."""

    __slots__ = ("endpoint", "sock")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sock = System(endpoint.family, socket.SOCK_STREAM)
        self.sock.setblocking(False)

    def is_connected(self) -> bool:
        """Begin to connect, or check whether it succeeded (once the socket is writable).

        Raises:
            OSError: it failed.
        """
        sock, (family, sockaddr) = self.sock, self.endpoint
        result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or sock.connect_ex(sockaddr)
        if result in (0, errno.EISCONN):
            return True
        if result in (errno.EINPROGRESS, errno.EALREADY):
            return False
        if result == errno.EAGAIN and family == socket.AF_UNIX:  # the accept queue is full
            return False
        raise OSError(result, os.strerror(result))

    def close(self) -> None:
        """Give up."""
        close_quietly(self.sock)


class _Race:
    """Attempts to connect to several addresses, of which one is to win.

    Args:
        endpoints: in the order in which they are tried.
    """

    def __init__(
        self, endpoints: list[Endpoint], history: AddressHistory, progress: Progress
    ) -> None:
        from gevent.select import poll  # here: most addresses are one

        self._queue = deque(endpoints)
        self._attempts: dict[int, _Attempt] = {}  # by descriptor, in the order of their start
        self._next_at = 0.0  # when the next one is due, monotonic seconds
        self._poll = poll()
        self._history = history
        self._progress = progress

    def run(self) -> socket.socket:
        """Return the socket that connected first; all others are closed then, or on an error.

        Raises:
            OSError: none connected.
        """
        winner = None
        try:
            while winner is None:
                winner = self._start_due() or self._wait()
        finally:
            # Also if a Timeout or a kill ended it. An attempt that a later one overtook, and
            # one that has no answer at the deadline, are not tried first the next time.
            overtaken = True
            for attempt in self._attempts.values():
                if attempt is winner:
                    overtaken = False
                    continue
                attempt.close()
                if overtaken:
                    self._failed(attempt.endpoint, NO_ANSWER)
        self._history.connected(winner.endpoint)
        self._progress.failed.clear()
        return winner.sock

    def _start_due(self) -> _Attempt | None:
        """Start the next attempt if it is due, and others while it fails or connects at once."""
        while self._queue and monotonic() >= self._next_at:
            endpoint = self._queue.popleft()
            try:
                attempt = _Attempt(endpoint)
            except OSError as exc:  # no such family here, or no descriptor left
                self._failed(endpoint, exc.strerror)
                continue
            self._attempts[attempt.sock.fileno()] = attempt
            self._poll.register(attempt.sock, POLLOUT)
            self._next_at = monotonic() + ATTEMPT_DELAY
            if self._is_connected(attempt):
                return attempt
        return None

    def _wait(self) -> _Attempt | None:
        """Wait until an attempt has ended, or the next one is due."""
        if not self._attempts:
            raise OSError(str(self._progress))
        delay = max(0.0, self._next_at - monotonic()) * 1000 if self._queue else None
        ready = {fd for fd, _events in self._poll.poll(delay)}
        for fd, attempt in list(self._attempts.items()):
            if fd in ready and self._is_connected(attempt):
                return attempt
        return None

    def _is_connected(self, attempt: _Attempt) -> bool:
        """Look at an attempt; one that failed is closed, and the next one due immediately."""
        try:
            return attempt.is_connected()
        except OSError as exc:
            self._poll.unregister(attempt.sock)
            del self._attempts[attempt.sock.fileno()]
            attempt.close()
            self._failed(attempt.endpoint, exc.strerror)
            self._next_at = 0.0
            return False

    def _failed(self, endpoint: Endpoint, why: str | None) -> None:
        self._progress.failed[endpoint] = why or "failed"
        self._history.failed(endpoint)
