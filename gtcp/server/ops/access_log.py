"""The access log: a line for every request, written together once a turn of the event loop.

Logging a record costs as much as serving the request it tells of. So requests are only noted
as they are answered. A greenlet then writes what one turn has brought: where the records would
end on gtcp's own console in gtcp's own format, as one text, else record by record, as filters
and handlers of the application expect.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any, Protocol

from gevent import spawn

from gtcp.protocol.messages import Failure, Success
from gtcp.server.ops.logger import ACCESS, Console

#: Lines that wait to be written; what comes on top while a log handler is stuck is counted.
MAX_WAITING = 10_000

LINE = "%s %d %d %.1fms in=%d out=%d"

#: What a line says: peer, cmdid, code, milliseconds, bytes received, bytes sent.
Entry = tuple[str, int, int, float, int, int]


class Received(Protocol):
    """What is noted: a request, or a line that was rejected in place of one."""

    _source: Any

    @property
    def cmdid(self) -> int | None:
        """The command, None if the line is not a request."""


class AccessLog:
    """Notes requests, and writes their lines. Belongs to one hub."""

    def __init__(self) -> None:
        self._log = logging.getLogger(ACCESS)
        self._entries: list[Entry] = []
        self._left_out = 0
        self._due = False

    def note(self, request: Received, reply: Success | Failure, sent: int) -> None:
        """Note a request that was answered; its time counts from its arrival.

        Args:
            sent: bytes of its reply's line, 0 when it got none.
        """
        if request.cmdid is None:  # not a request
            return
        source = request._source
        code = 0 if isinstance(reply, Success) else reply.code
        taken = (monotonic() - source.arrived) * 1000
        received = len(source.line) + (source.line[-1:] != b"\n")
        self._add((source.connection.address, request.cmdid, code, taken, received, sent))

    def note_refused(self, address: str, cmdid: int, code: int, received: int, sent: int) -> None:
        """A request has been refused before anything was run; for the rest as ``note``."""
        self._add((address, cmdid, code, 0.0, received, sent))

    def abandon(self) -> None:
        """Write nothing any more, in a forked child: the lines are the parent's."""
        self._entries.clear()
        self._left_out = 0
        self._due = True

    def _add(self, entry: Entry) -> None:
        if len(self._entries) >= MAX_WAITING:
            self._left_out += 1
            return
        self._entries.append(entry)
        if not self._due:
            self._due = True
            spawn(self.write)

    def write(self) -> None:
        """Write what is noted; may wait, as log handlers do. What comes meanwhile waits too."""
        try:
            while self._entries or self._left_out:
                entries, self._entries = self._entries, []
                left_out, self._left_out = self._left_out, 0
                if entries and self._log.isEnabledFor(logging.INFO):
                    self._write(list(map(LINE.__mod__, entries)))
                if left_out:
                    message = "%d lines were left out: they came faster than written"
                    self._log.warning(message, left_out)
        finally:
            self._due = False

    def _write(self, lines: list[str]) -> None:
        console = _only_console(self._log)
        if console is not None:
            console.write_lines(self._record(), lines)
            return
        for line in lines:
            self._log.handle(self._record(line))

    def _record(self, line: str = "") -> logging.LogRecord:
        name = self._log.name
        return self._log.makeRecord(name, logging.INFO, __file__, 0, line, (), None)


def _only_console(log: logging.Logger) -> Console | None:
    """The one handler that the log's records reach, if it is gtcp's own and nothing filters."""
    handlers: list[logging.Handler] = []
    at: logging.Logger | None = log
    while at is not None:
        handlers += at.handlers
        at = at.parent if at.propagate else None
    if log.filters or len(handlers) != 1 or logging.root.manager.disable >= logging.INFO:
        return None
    only = handlers[0]
    return only if type(only) is Console and only.takes_lines else None
