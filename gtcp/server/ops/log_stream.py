"""Writing log lines to stderr without waiting for its reader.

If stderr is a pipe, a socket or a terminal that nobody reads, a plain write blocks the whole event
loop, and the process would not even stop at SIGTERM. Here lines wait in a buffer of limited size.
Beyond it lines are dropped and counted; the count is written when stderr can be written again.
"""

from __future__ import annotations

import io
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent._hub_local import get_hub_if_exists

from gtcp.transport.sockets import WRITE, System, new_poller, original

#: Bytes that wait for the reader, about. What is one write of the caller's is not divided.
MAX_WAITING_BYTES = 1 << 20

#: A pipe takes this much at once or nothing (PIPE_BUF of Linux; POSIX requires 512).
CHUNK_BYTES = select.PIPE_BUF

#: Seconds that the end of the process waits for the reader.
LAST_SECONDS = 1.0

DROPPED = "gtcp: {} log lines were dropped here: nobody was reading stderr\n"

_RLock: Callable[[], Any] = original("_thread", "RLock")


class LogStream:
    """A text stream over a descriptor that never waits for its reader, except in ``finish``.

    May be used by several threads, and in the hub. A forked child does not write what its parent
    had not written.

    Args:
        fd: the descriptor; it stays open, and stays as it is for others that have it too.
        encoding: how text is encoded; what can't be is escaped.

    Attributes:
        dropped: lines that were dropped since the last time that was reported.
    """

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self.dropped = 0
        self._fd = fd
        self._encoding = encoding
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lock = _RLock()  # held for instants only: nothing below waits
        self._pid = os.getpid()
        self._pushing = False
        self._watcher: Any = None
        self._file: os.stat_result | None = None  # what the descriptor was when it was written to
        self._write: Callable[[bytes], int] = lambda _data: 0
        self._close = _nothing

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def write(self, text: str) -> int:
        """Write lines, now or as soon as that is possible."""
        data = text.encode(self._encoding, "backslashreplace")
        with self._lock:
            self._check()
            if self._waiting and not self._push():
                self._append(data)
            else:
                self._waiting.extend(_chunks(data))
                self._bytes += len(data)
                self._push()
            if self._waiting:
                self._watch()
        return len(text)

    def flush(self) -> None:
        """Write what waits, as far as that is possible now."""
        with self._lock:
            self._check()
            self._push()

    def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what waits, and wait at most so long for the reader, in vain perhaps."""
        poller = new_poller()
        poller.register(self._fd, select.POLLOUT)
        until = monotonic() + seconds
        self.flush()
        while self._waiting and (left := until - monotonic()) > 0:
            poller.poll(left * 1000)
            self.flush()

    def close(self) -> None:
        """Release what it uses; it may be used again. The descriptor stays open."""
        with self._lock:
            self._unwatch()
            close, self._close, self._file = self._close, _nothing, None
            close()

    def _append(self, data: bytes) -> None:
        """Have these lines wait behind others, or drop them."""
        most = MAX_WAITING_BYTES / 2 if self.dropped else MAX_WAITING_BYTES  # few gaps, not many
        if self._bytes + len(data) > most:
            self.dropped += data.count(b"\n")
            return
        self._report()
        self._waiting.extend(_chunks(data))
        self._bytes += len(data)

    def _report(self) -> None:
        """Add a line that says how many lines were dropped."""
        if self.dropped:
            line = DROPPED.format(self.dropped).encode()
            self.dropped = 0
            self._waiting.append(line)
            self._bytes += len(line)

    def _push(self) -> bool:
        """Write what can be written; return whether nothing waits any more."""
        if self._pushing:  # this is a signal's handler
            return False
        self._pushing = True
        try:
            while self._waiting:
                chunk = self._waiting[0]
                count = self._write_some(chunk)
                if not count:
                    return False
                self._bytes -= count
                if count < len(chunk):
                    self._waiting[0] = chunk[count:]
                else:
                    self._waiting.popleft()
                if not self._waiting:
                    self._report()
            return True
        finally:
            self._pushing = False

    def _write_some(self, chunk: bytes) -> int:
        """Return how many bytes are done with, 0 if it would have to wait."""
        try:
            return self._write(chunk)
        except BlockingIOError:
            return 0
        except OSError:  # there is no reader any more: the program goes on without its log
            return len(chunk)

    def _watch(self) -> None:
        """Have the event loop of this thread write the rest, if it has one."""
        hub = get_hub_if_exists()
        if hub is None or hub.loop is None:
            return
        if self._watcher is not None and self._watcher.loop is hub.loop:
            return
        self._watcher = hub.loop.io(self._fd, WRITE, ref=False)
        self._watcher.start(self._on_writable, self._watcher)

    def _on_writable(self, watcher: Any) -> None:
        with self._lock:
            if self._watcher is not watcher:
                watcher.stop()
                watcher.close()
            elif self._push():
                self._unwatch()

    def _unwatch(self) -> None:
        """Stop watching the descriptor: libev aborts the process if it was closed meanwhile."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def _check(self) -> None:
        """Notice that this is a forked child, and that the descriptor is another file now."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._waiting.clear()
            self._bytes = self.dropped = 0
            self._watcher = None  # its event loop is the parent's
        file = os.fstat(self._fd)
        if self._file is None or not os.path.samestat(file, self._file):
            self._close()
            self._file = file
            self._write, self._close = _writer(self._fd, file.st_mode)


def unblocked(stream: Any) -> Any:
    """Return a stream that writes to the same file without waiting.

    What is not a file of Python's own, but replaces one, stays as it is.
    """
    if type(stream) is not io.TextIOWrapper:
        return stream
    try:
        return LogStream(stream.fileno(), stream.encoding)
    except OSError:  # it has no descriptor, or a closed one
        return stream


def _chunks(data: bytes) -> list[bytes]:
    """Divide lines into pieces that a pipe takes at once, at the ends of lines if possible."""
    chunks = []
    start = 0
    while len(data) - start > CHUNK_BYTES:
        end = data.rfind(b"\n", start, start + CHUNK_BYTES) + 1 or start + CHUNK_BYTES
        chunks.append(data[start:end])
        start = end
    chunks.append(data[start:])
    return chunks


def _nothing() -> None:
    """Do nothing: there is nothing to close."""


def _writer(fd: int, mode: int) -> tuple[Callable[[bytes], int], Callable[[], None]]:
    """Return two functions: one that writes without waiting, and one that closes what that uses.

    The first returns 0, or raises BlockingIOError, where it would have to wait. O_NONBLOCK on the
    descriptor itself would also apply to all other processes that have it.
    """
    if stat.S_ISSOCK(mode):
        sock = System(fileno=os.dup(fd))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT), sock.close
    if not (stat.S_ISFIFO(mode) or os.isatty(fd)):
        return lambda data: os.write(fd, data), _nothing
    try:
        # A second description of the same pipe or terminal; Linux only.
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # not permitted, for example, to another user than made the pipe
        return lambda data: _write_if_ready(fd, data), _nothing
    return lambda data: os.write(own, data), lambda: os.close(own)


def _write_if_ready(fd: int, data: bytes) -> int:
    """Write if it will not wait: a pipe that is ready takes CHUNK_BYTES.

    Unless another process writes to it at the same moment.
    """
    poller = new_poller()
    poller.register(fd, select.POLLOUT)
    return os.write(fd, data) if poller.poll(0) else 0
