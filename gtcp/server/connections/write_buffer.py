"""The replies of one connection on their way to the peer.

Nothing here waits. What the kernel does not take stays in the buffer, and a write watcher continues
when the socket is writable. Meanwhile the connection is not read from, which bounds the buffer.
"""

from __future__ import annotations

import socket
from select import POLLOUT
from time import monotonic
from typing import Any, Protocol

from gevent import get_hub

from gtcp.transport.sockets import WRITE, Stream, new_poller

NOTHING = memoryview(b"")

#: Bytes that the kernel may have taken and not sent when a line follows a long one.
UNSENT_BYTES = 65536

TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)

#: Replies of blocked handlers are collected for one ``send`` per loop iteration, up to so many.
MAX_COLLECTED = 100


class Owner(Protocol):
    """The connection that a buffer belongs to."""

    def on_write_blocked(self) -> None:
        """The kernel takes no more at the moment."""

    def on_writable(self) -> None:
        """The buffer is empty again."""

    def close(self) -> None:
        """The connection is broken."""


class WriteBuffer:
    """Replies that one connection has not sent yet. Belongs to its hub.

    Attributes:
        lines: complete lines, without their newlines, for the next ``flush``.
        blocked_since: when the kernel stopped taking data, monotonic seconds; else None.
    """

    __slots__ = (
        "_flush_due", "_owner", "_sock", "_unsent", "_unsent_limited", "_watcher", "blocked_since",
        "lines",
    )  # fmt: skip

    def __init__(self, sock: Stream, owner: Owner) -> None:
        self.lines: list[bytes] = []
        self.blocked_since: float | None = None
        self._sock = sock
        self._owner: Owner | None = owner  # None when closed
        self._unsent = NOTHING
        self._unsent_limited = False  # see `wait_until_sent`
        self._flush_due = False
        self._watcher: Any = None
        if hasattr(sock, "on_unsent"):  # TLS, which sends answers of its own
            sock.on_unsent = self._block

    @property
    def empty(self) -> bool:
        """Whether the kernel has taken all replies."""
        return not (self.lines or self._unsent)

    def flush(self) -> None:
        """Send the lines, unless earlier ones are blocked."""
        lines = self.lines
        if not lines or self.blocked_since is not None or self._owner is None:
            return
        data = b"\n".join(lines) + b"\n"
        lines.clear()
        self._send(data, self._owner)

    def flush_soon(self) -> None:
        """Send the lines together with those that are added in the same loop iteration."""
        if len(self.lines) >= MAX_COLLECTED:
            self.flush()
        elif not self._flush_due and self._owner is not None:
            self._flush_due = True
            get_hub().loop.run_callback(self._flush_due_lines)

    def wait_until_sent(self) -> None:
        """Count as blocked until the kernel has sent most of what it has taken.

        What the kernel takes of a long line while the peer reads nothing is kept there. Of the next
        line it would take a part only, and the rest would be kept here.
        """
        if self._owner is None or self.blocked_since is not None:
            return
        self._count_as_writable_below(UNSENT_BYTES)
        poller = new_poller()
        poller.register(self._sock.fileno(), POLLOUT)
        if poller.poll(0):
            self._count_as_writable_below(0)  # the default
        else:
            self._unsent_limited = True
            self._block()

    def _count_as_writable_below(self, unsent_bytes: int) -> None:
        """Have the socket count as writable while less is unsent; not for unix sockets."""
        if TCP_NOTSENT_LOWAT is not None and self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, unsent_bytes)

    def half_close(self) -> bool:
        """Shut down the sending side; return False when the connection is broken."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Send nothing any more, and forget what was not sent."""
        self._owner = None
        if hasattr(self._sock, "on_unsent"):
            self._sock.on_unsent = None
        self.lines.clear()
        self._unsent = NOTHING
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def _flush_due_lines(self) -> None:
        self._flush_due = False
        self.flush()

    def _send(self, data: bytes | memoryview, owner: Owner) -> None:
        try:
            sent = self._sock.send(data)
            if sent == len(data):
                return
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            owner.close()
            return
        self._unsent = memoryview(data)[sent:]
        self._block()

    def _block(self) -> None:
        """Wait until the kernel takes more data: of the buffer, or of TLS itself."""
        if self._owner is None or self.blocked_since is not None:
            return
        self.blocked_since = monotonic()
        if self._watcher is None:
            self._watcher = get_hub().loop.io(self._sock.fileno(), WRITE)
        self._watcher.start(self._on_writable)
        self._owner.on_write_blocked()

    def _on_writable(self) -> None:
        rest, self._unsent = self._unsent, NOTHING
        if self._unsent_limited:
            self._unsent_limited = False
            self._count_as_writable_below(0)
        self._watcher.stop()
        self.blocked_since = None
        if self._owner is not None:
            self._send(rest, self._owner)
        if self.blocked_since is None:
            self.flush()
        if self.blocked_since is None and self._owner is not None:
            self._owner.on_writable()
