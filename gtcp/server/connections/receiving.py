"""How a connection receives: from bytes to requests that run, queue or are refused."""

from __future__ import annotations

from time import monotonic

from gtcp.protocol.messages import Failure, Head, encode
from gtcp.server.commands.table import Item, Rejection
from gtcp.server.connections.closing import ClosingConnection
from gtcp.server.connections.overload import Decide, decide_by_limit, decide_by_wait, shed
from gtcp.server.ops.background_log import log_bug

#: Bytes received per wake-up: other connections wait for that many requests at most. A line that
#: has begun is likely to be long, and more of it is received at once.
RECV_BYTES, RECV_LONG_BYTES = 16384, 65536


class ReceivingConnection(ClosingConnection):
    """How a connection receives; ``Connection`` adds how it runs what was received."""

    __slots__ = ()

    def read_ahead(self) -> None:
        """Receive while the connection is queued; called in the hub."""
        if self.leader is not None:  # it decodes: see `resume`
            return
        try:
            self._receive(monotonic())
        except Exception:  # as in `run`
            log_bug(self.address)
            self.close()

    def _receive(self, now: float, data: bytes = b"") -> Item | None:
        """Read; return the request if it is the only one and can run now: the usual case.

        Else the requests are put into ``pending``, or queued, or refused.
        """
        reader, scheduler = self.reader, self._context.scheduler
        if not data:
            try:
                data = self._sock.recv(RECV_LONG_BYTES if reader.buffer.begun else RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError:
                self.close()
                return None
            if not data:
                self.on_end_of_stream()
                return None
            if len(data) == RECV_BYTES and data.find(b"\n") < 0:
                data += self._rest_of_long_line()
        self.active = now
        queue = self.queued or (now > scheduler.budget_ends and scheduler.over_budget(now))
        if not (queue or self.in_flight or self.ending):
            request = reader.one_request(data, scheduler.arrived)
            if request is not None:
                return request
        lines = reader.buffer.feed(data) if reader.handled else reader.first_lines(data)
        if reader.buffer.begun:
            self._context.watched.add(self)
        if lines or reader.broken:
            self._admit(lines, queue)
        return None

    def _rest_of_long_line(self) -> bytes:
        """Return more of a line whose beginning filled a ``recv``, as far as it has arrived."""
        try:
            return self._sock.recv(RECV_LONG_BYTES)
        except OSError:  # nothing, or the next `recv` finds out what is wrong
            return b""

    def _admit(self, lines: bytes, queue: bool) -> None:
        """Decode lines, and have the requests run now or queue; refuse what would expire there."""
        reader, arrived = self.reader, self._context.scheduler.arrived
        if self.leaving:
            if self._turning_away:
                self._turn_away(reader.requests(lines, arrived, self._cancel))
            return
        if decide := self._decide(queue):
            lines = self._shed(lines, decide)
        if self._closed:  # while refusals were sent
            return
        items = reader.requests(lines, arrived, self._cancel)
        if self._closed:  # while params were decoded that wait
            return
        if not queue:
            self.pending.extend(items)
        elif items:
            self.pending.put(items)
            self._enqueue()
        if reader.is_over:
            self._watch()

    def _decide(self, queue: bool) -> Decide | None:
        """Return what decides which of the requests received are refused, if any may be."""
        calls = self._context.in_flight
        if (self.in_flight or calls.saturated) and calls.full(self.in_flight):
            return decide_by_limit(self.ordered is not None or bool(self.pending))
        if not queue:
            return None
        own = self.pending.seconds(monotonic())
        return self._decide_by_wait(own, own, bool(self.pending))

    def _decide_by_wait(self, own: float, ahead: float, in_order: bool) -> Decide | None:
        context, in_order = self._context, in_order or self.ordered is not None
        return decide_by_wait(context.scheduler, context.durations, own, ahead, in_order)

    def _shed(self, lines: bytes, decide: Decide) -> bytes:
        """Refuse some requests now; return the lines of the others."""
        arrived = self._context.scheduler.arrived
        refusals, kept = shed(self._context.table, lines, arrived, decide)
        self.reader.handled += len(refusals)
        for each in refusals:
            self._refuse(each.head, each.reply, each.size)
        self.writer.flush()
        return kept

    def _reconsider(self) -> None:
        """Refuse queued requests that would expire, now that their wait can be estimated."""
        decide = self._decide_by_wait(self.pending.seconds(monotonic()), 0.0, False)
        items = self.pending.take_all()
        behind = self.ordered is not None
        for item in items:
            in_order = item.id is None and not item.oneway
            reply = None
            if decide and not (isinstance(item, Rejection) or (behind and in_order)):
                reply = decide(item, item._source.arrived)
            if reply is None:
                self.pending.append(item)
                behind = behind or in_order
            else:
                self._refuse(item, reply, len(item._source.line) + 1)
        self.pending.count_all()
        self.writer.flush()

    def _refuse(self, head: Head | Item, reply: Failure, size: int) -> None:
        """Answer a request that does not run."""
        line = b"" if head.oneway else encode(reply)
        if line:
            self.writer.lines.append(line)
        if self._context.access is not None and head.cmdid is not None:
            sent = len(line) + bool(line)
            self._context.access.note_refused(self.address, head.cmdid, reply, size, sent)
