"""The replies of one connection on their way to the peer.

Nothing here waits: what the kernel does not take is kept, and the event loop tells when it takes
more. Until then the connection is not read from, so that what is kept has a limit.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub, spawn
from greenlet import getcurrent

from gtcp.protocol import Failure, Request, Success, encode
from gtcp.server.outcome import encode_safely
from gtcp.sockets import WRITE

if TYPE_CHECKING:
    from gtcp.server.work import Work
    from gtcp.tls_socket import TlsSocket

#: Replies of handlers that do not wait are kept for one `send`, but no more than this.
MAX_QUEUED = 100

NOTHING = memoryview(b"")


class Owner(Protocol):
    """Whose replies they are."""

    def stalls(self) -> None:
        """The peer takes no more at the moment."""

    def goes_on(self) -> None:
        """The peer has taken all."""

    def close(self) -> None:
        """The peer can't be sent anything any more."""


class Outlet:
    """What one connection sends. Belongs to its hub.

    Attributes:
        longest_reply: how many bytes a reply may have.
        stalled: since when the peer takes no reply, monotonic seconds; None while it does.
    """

    __slots__ = (
        "_flush_due",
        "_lines",
        "_owner",
        "_paused",
        "_sock",
        "_unsent",
        "_writer",
        "longest_reply",
        "stalled",
    )

    def __init__(self, sock: socket.socket | TlsSocket, longest_reply: int, owner: Owner) -> None:
        self.longest_reply = longest_reply
        self.stalled: float | None = None
        self._sock = sock
        self._owner: Owner | None = owner  # None when it is closed
        self._lines: list[bytes] = []
        self._unsent = NOTHING
        self._flush_due = False
        self._paused: Any = None  # the runner that waits until the peer takes replies
        self._writer: Any = None

    @property
    def empty(self) -> bool:
        """Whether the kernel has all."""
        return not (self._lines or self._unsent)

    @property
    def paused(self) -> bool:
        """Whether a runner waits for the peer."""
        return self._paused is not None

    def say(self, reply: Success | Failure, request: Request[Any]) -> int:
        """Send the reply of a request that came alone and ran quickly; returns how long it is."""
        try:
            line = encode(reply)
            wrong = len(line) > self.longest_reply or line.find(b"\n") >= 0
        except BaseException:  # the result may hold objects whose code raises anything
            wrong = True
        if wrong:
            line = self.encode_anyhow(reply, request)
        line += b"\n"
        if self._lines or self._unsent:
            self._lines.append(line)
            self.flush()
        else:
            self._send(line)
        return len(line)

    def encode_anyhow(self, reply: Success | Failure, request: Request[Any]) -> bytes:
        """The line, without its newline, of a reply that can't be sent as it is."""
        return encode_safely(reply, request, self.longest_reply, spawn)[:-1]

    def say_all(self, work: Work) -> None:
        """Send what is said by a batch that has run, as far as its handlers have returned."""
        if self._lines or self._unsent:
            self.collect(work)
            self.flush()
        elif work.replies:
            self._send(work.said())
        work.items = ()

    def collect(self, work: Work) -> None:
        """Take over what a batch has to say so far, so that later replies come after it."""
        if work.replies:
            self._lines.append(work.said())

    def put(self, line: bytes) -> None:
        """Send a line with the next flush."""
        if self._owner is not None:
            self._lines.append(line)

    def queue(self, line: bytes) -> None:
        """Send a line together with those that are queued in the same turn of the loop."""
        if self._owner is None:
            return
        self._lines.append(line)
        if len(self._lines) >= MAX_QUEUED:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            get_hub().loop.run_callback(self.flush)

    def flush(self) -> None:
        """Send what is queued."""
        self._flush_due = False
        if self._lines and not self._unsent and self._owner is not None:
            data = b"".join(self._lines)
            self._lines.clear()
            self._send(data)

    def wait_until_taken(self) -> None:
        """Wait until the peer takes replies again or is given up; called by a runner."""
        self._paused = getcurrent()
        get_hub().switch()

    def wake(self) -> bool:
        """Have the runner go on that waits, soon; returns whether one does."""
        paused, self._paused = self._paused, None
        if paused is None:
            return False
        get_hub().loop.run_callback(paused.switch)
        return True

    def close(self) -> None:
        """Send nothing any more, and forget what has not been sent."""
        self.stop_watching()
        self._owner = None
        self._lines.clear()
        self._unsent = NOTHING
        self.wake()

    def stop_watching(self) -> None:
        """Do not look for whether the peer takes replies."""
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()

    def _send(self, data: bytes | memoryview) -> None:
        if self._owner is None:
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._owner.close()
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._stall(self._owner)

    def _stall(self, owner: Owner) -> None:
        self.stalled = monotonic()
        owner.stalls()
        if self._writer is None:
            self._writer = get_hub().loop.io(self._sock.fileno(), WRITE)
        self._writer.start(self._writable)

    def _writable(self) -> None:
        rest, self._unsent = self._unsent, NOTHING
        self._writer.stop()
        self.stalled = None
        self._send(rest)
        if self.stalled is None:
            self.flush()
        if self.stalled is None and self._owner is not None:
            self._owner.goes_on()
