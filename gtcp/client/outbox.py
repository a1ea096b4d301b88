"""The lines of one connection on their way to the server, and which of them it may have.

Lines queued in one turn of the event loop leave in one ``send``; a line that is alone leaves at
once. They are counted as they are queued, and an id is such a number: by it is known which
lines the kernel has whole. That is the line between "did not run" and "may have run".
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub

from gtcp.sockets import WRITE

if TYPE_CHECKING:
    from gtcp.tls_socket import TlsSocket

NOTHING = memoryview(b"")


class Owner(Protocol):
    """Whose lines they are."""

    def goes_on(self) -> None:
        """The kernel has taken what it did not take at first."""

    def unwritable(self, exc: OSError) -> None:
        """The server takes no more."""

    def interrupted(self) -> None:
        """A send was broken off, by an exception of a signal's handler."""


class Outbox:
    """What one connection sends. Belongs to its hub.

    Attributes:
        count: lines queued so far, which is the number of the last one.
        handed_over: the number of the last line that the kernel has whole.
        sending: whether a send is under way right now. It can be seen by who interrupts it, in a
            signal's handler: what that one queues would leave only after the handler's end.
    """

    __slots__ = (
        "_chunk",
        "_closed",
        "_flush_due",
        "_lines",
        "_loop",
        "_owner",
        "_sock",
        "_unsent",
        "_writer",
        "count",
        "handed_over",
        "sending",
    )

    def __init__(self, sock: socket.socket | TlsSocket, owner: Owner) -> None:
        self.count = 0
        self.handed_over = 0
        self.sending = False
        self._sock = sock
        self._owner = owner
        self._loop: Any = get_hub().loop
        self._lines: list[bytes] = []
        self._chunk: list[bytes] = []  # the lines of a send that is under way
        self._unsent = NOTHING
        self._flush_due = False
        self._closed = False
        self._writer: Any = None

    @property
    def stuck(self) -> bool:
        """Whether the server has not taken all that was sent."""
        return bool(self._unsent)

    def send(self, line: bytes) -> None:
        """Send a line at once, if it has nobody's to leave together with."""
        if self._lines or self._chunk or self._closed:
            self.queue(line)
            return
        self.count += 1
        self._chunk.append(line)
        self._write(line)
        if self._lines:  # of a signal's handler, or of those that it let run
            self.flush()

    def queue(self, line: bytes) -> None:
        """Send a line together with those that are queued in the same turn of the loop."""
        self.count += 1
        self._lines.append(line)
        if not self._flush_due:
            self._flush_due = True
            self._loop.run_callback(self.flush)

    def flush(self) -> None:
        """Send what is queued."""
        self._flush_due = False
        if self._lines and not self._chunk and not self._closed:
            self._chunk, self._lines = self._lines, []
            self._write(b"".join(self._chunk))

    def take_back(self, number: int) -> bool:
        """Remove a line that is still queued, so that its call certainly does not run."""
        position = number - 1 - self.handed_over - len(self._chunk)
        if position < 0:
            return False
        self._lines[position] = b""
        return True

    def end(self) -> None:
        """Send nothing any more; of a send that broke off, the lines that had left whole count."""
        self._closed = True
        left = sum(map(len, self._chunk)) - len(self._unsent)
        for line in self._chunk:
            left -= len(line)
            if left < 0:
                break
            self.handed_over += 1
        self._chunk.clear()

    def stop_watching(self) -> None:
        """Do not look for whether the server takes more."""
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()

    def _write(self, data: bytes | memoryview) -> None:
        self.sending = True
        try:
            self._send_some(data)
        except BaseException:  # of a signal's handler: how much has left, nobody knows
            self._unsent = NOTHING
            self._owner.interrupted()
            raise
        finally:
            self.sending = False

    def _send_some(self, data: bytes | memoryview) -> None:
        try:
            count = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError as exc:
            self._unsent = memoryview(data)
            if self._writer is not None:
                self._writer.stop()
            self._owner.unwritable(exc)
            return
        if count < len(data):
            self._unsent = memoryview(data)[count:]
            self._wait_until_writable()
        else:
            self._unsent = NOTHING
            self.handed_over += len(self._chunk)
            self._chunk.clear()

    def _wait_until_writable(self) -> None:
        if self._writer is None:
            self._writer = self._loop.io(self._sock.fileno(), WRITE)
        if not self._writer.active:
            self._writer.start(self._writable)

    def _writable(self) -> None:
        self._write(self._unsent)
        if not self._unsent and not self._closed:
            self._writer.stop()
            self.flush()
            self._owner.goes_on()
