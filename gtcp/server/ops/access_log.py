"""The access log: a line for every request, written together once a turn of the event loop.

Logging a record costs as much as serving the request it describes. So requests are only noted
as they are answered. A greenlet then writes those of one iteration of the event loop: as one text
if the records would end on gtcp's own console in gtcp's own format, else record by record, as
filters and handlers of the application expect.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

from gevent import spawn

from gtcp.protocol.messages import Failure, Success
from gtcp.server.ops.json_format import JsonFormatter, line_of, origin, quoted
from gtcp.server.ops.logger import ACCESS, Console, EscapingFormatter
from gtcp.server.ops.metrics import OTHER

#: Lines that may wait to be written. While a log handler is stuck, further lines are counted only.
MAX_WAITING = 10_000

LINE = "%s %d %d %.1fms in=%d out=%d"

#: What the line of a stream adds.
ITEMS = " items=%d"

#: The values of a line by name, for formatters that take them one by one.
NAMES = ("peer", "cmdid", "code", "duration_ms", "received_bytes", "sent_bytes", "items")

#: What a line says: peer, cmdid, code, milliseconds, bytes received, bytes sent; items of a stream.
Entry = tuple[str, int, int, float, int, int] | tuple[str, int, int, float, int, int, int]


#: The lines by the number of their values.
FORMATS = {6: LINE, 7: LINE + ITEMS}


class Received(Protocol):
    """A request, or a line that was rejected in place of one."""

    _source: Any

    @property
    def cmdid(self) -> int | None:
        """The command, None if the line is not a request."""


class AccessLog:
    """Notes requests, and writes their lines. Belongs to one hub.

    Args:
        methods: the name of each command by its cmdid.
    """

    def __init__(self, methods: Mapping[int, str]) -> None:
        self._log = logging.getLogger(ACCESS)
        self._methods = methods
        self._entries: list[Entry] = []
        self._left_out = 0
        self._due = False

    def note(self, request: Received, reply: Success | Failure, sent: int) -> None:
        """Note a request that was answered; its time counts from its arrival.

        A stream is noted once, with its items.

        Args:
            sent: bytes of its reply's line, 0 when it got none.
        """
        if request.cmdid is None:  # not a request
            return
        source = request._source
        code = 0 if isinstance(reply, Success) else reply.code
        taken = (monotonic() - source.arrived) * 1000
        received = len(source.line) + (source.line[-1:] != b"\n")
        address, progress = source.connection.address, source.progress
        if progress is None:
            self._add((address, request.cmdid, code, taken, received, sent))
            return
        sent += progress.sent
        self._add((address, request.cmdid, code, taken, received, sent, progress.items))

    def note_refused(
        self, address: str, cmdid: int, reply: Failure, received: int, sent: int
    ) -> None:
        """Note a request that was refused before anything was run; else as ``note``."""
        self._add((address, cmdid, reply.code, 0.0, received, sent))

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
                    self._write(entries)
                if left_out:
                    message = "%d lines were left out: they came faster than written"
                    self._log.warning(message, left_out)
        finally:
            self._due = False

    def _write(self, entries: list[Entry]) -> None:
        console = _only_console(self._log)
        if console is not None:
            record = self._record()
            if type(console.formatter) is JsonFormatter:
                console.write_text(record, lambda: self._json(record, entries))
            else:
                console.write_lines(record, [FORMATS[len(entry)] % entry for entry in entries])
            return
        for entry in entries:
            record = self._record(FORMATS[len(entry)] % entry)
            vars(record).update(zip(NAMES, entry, strict=False))
            record.duration_ms = round(entry[3], 3)
            record.method = self._method(entry[1])
            self._log.handle(record)

    def _json(self, record: logging.LogRecord, entries: list[Entry]) -> str:
        """Return the lines as ``JsonFormatter`` would write them, each with its newline."""
        head = line_of(origin(record))[:-1]
        lines = []
        for entry in entries:
            address, cmdid, code, taken, received, sent, *items = entry
            peer = quoted(address)[1:-1]
            message = FORMATS[len(entry)] % (peer, *entry[1:])
            more = f',"items":{items[0]}' if items else ""
            lines.append(
                f'{head},"message":"{message}","peer":"{peer}","cmdid":{cmdid},'
                f'"method":{quoted(self._method(cmdid))},"code":{code},"duration_ms":{taken:.3f},'
                f'"received_bytes":{received},"sent_bytes":{sent}{more}}}\n'
            )
        return "".join(lines)

    def _method(self, cmdid: int) -> str:
        return self._methods.get(cmdid, OTHER)

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
    if type(only) is not Console or type(only.formatter) not in (EscapingFormatter, JsonFormatter):
        return None
    return only if only.takes_lines else None
