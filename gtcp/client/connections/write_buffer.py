"""Request lines on their way to the server, and which of them may have left.

Lines queued in one iteration of the event loop leave in one ``send``; a line by itself leaves at
once. Lines are numbered in the order in which they are queued, and the number is the request's id.
A line counts as handed over *before* the ``send`` that takes it, so an exception at any point (a
signal handler may raise one between any two instructions) never makes a request that left look
like one that did not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub

from gtcp.transport.sockets import WRITE

if TYPE_CHECKING:
    from gtcp.transport.sockets import Stream

NOTHING = memoryview(b"")


class Owner(Protocol):
    """The connection whose lines they are.

    Attributes:
        keeper: the greenlet that runs what the event loop calls; see ``connection.py``.
    """

    keeper: Any

    def on_written(self) -> None:
        """The kernel has taken lines that it did not take at first."""

    def on_write_error(self, exc: OSError) -> None:
        """The server takes no more."""


class WriteBuffer:
    """The lines that one connection sends. Belongs to its hub.

    Any exception but the documented ones leaves it unusable: the connection has to be closed.

    Attributes:
        handed_over: the number of the last line that may have left. After ``close`` it is exact:
            lines above it certainly did not leave whole.
        lines: what is queued; their numbers follow ``handed_over``.
        busy: whether a line is being queued or sent at this moment. Only a signal handler that
            interrupted it can see that; a call made there has to use another connection.
    """

    __slots__ = (
        "_chunk",
        "_closed",
        "_flush_due",
        "_loop",
        "_owner",
        "_sock",
        "_unsent",
        "_watcher",
        "busy",
        "handed_over",
        "lines",
    )

    def __init__(self, sock: Stream, owner: Owner) -> None:
        self.handed_over = 0
        self.busy = False
        self._sock = sock
        self._owner = owner
        self._loop: Any = get_hub().loop
        self.lines: list[bytes] = []
        self._chunk: list[bytes] = []  # the lines of a send that is not finished
        self._unsent = NOTHING  # what the kernel did not take of them
        self._flush_due = False
        self._closed = False
        self._watcher: Any = None

    @property
    def count(self) -> int:
        """Lines queued so far, which is the number of the last one."""
        return self.handed_over + len(self.lines)

    @property
    def written(self) -> int:
        """The number of the last line that the kernel has taken whole, and all before it."""
        return self.handed_over - len(self._chunk)

    @property
    def blocked(self) -> bool:
        """Whether the server has not taken all that was sent."""
        return bool(self._unsent)

    def send(self, line: bytes) -> None:
        """Send a line at once, unless others wait to be sent."""
        if self.lines or self._chunk or self._closed:
            self.queue(line)
        else:
            self.lines.append(line)
            self.flush()

    def queue(self, line: bytes) -> None:
        """Send a line together with the others of the same event loop iteration."""
        self.lines.append(line)
        if not self._flush_due:
            self._loop.run_callback(self._owner.keeper.switch, self.flush)
            self._flush_due = True

    def flush(self) -> None:
        """Send what is queued."""
        self._flush_due = False
        if self.lines and not self._chunk and not self._closed:
            self.busy = True
            lines = self._chunk = self.lines
            self.lines = []
            self.handed_over += len(lines)
            self._write(lines[0] if len(lines) == 1 else b"".join(lines))
            self.busy = False

    def take_back(self, number: int) -> bool:
        """Remove a line that is still queued; return whether it was, so that it can't run."""
        position = number - 1 - self.handed_over
        if not 0 <= position < len(self.lines):
            return False
        self.lines[position] = b""
        return True

    def close(self, known: bool = True) -> None:
        """Send nothing any more.

        Args:
            known: whether it is known how much of an unfinished send has left. If not, all of
                its lines count as handed over.
        """
        self._closed = True
        self.lines = []
        left = len(self._unsent) if known else 0
        for line in reversed(self._chunk):
            if left <= 0:
                break
            self.handed_over -= 1
            left -= len(line)
        self._chunk = []
        self.stop_watching()

    def stop_watching(self) -> None:
        """Do not wait until the server takes more."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()

    def _write(self, data: bytes | memoryview) -> None:
        try:
            count = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError as exc:
            self._unsent = memoryview(data)
            if self._watcher is not None:
                self._watcher.stop()
            self._owner.on_write_error(exc)
            return
        if count == len(data):
            self._unsent = NOTHING
            self._chunk = []
        else:
            self._unsent = memoryview(data)[count:]
            self._wait_until_writable()

    def _wait_until_writable(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.io(self._sock.fileno(), WRITE)
        if not self._watcher.active:
            self._watcher.start(self._owner.keeper.switch, self._on_writable)

    def _on_writable(self) -> None:
        self.busy = True
        self._write(self._unsent)
        self.busy = False
        if not self._unsent and not self._closed:
            self._watcher.stop()
            self.flush()
            self._owner.on_written()
