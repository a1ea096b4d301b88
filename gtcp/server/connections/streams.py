"""One stream on the server: sends the items of a handler, and waits while the caller takes no more.

The handler's greenlet pulls the next item only when it may be sent, so at most one item of a stream
is kept. It waits in three cases:

- **The caller has given no more credit.** Credit counts items. The bytes of the items for which no
  credit was returned are limited too (``stream_window``); one item may exceed the limit.
- **The kernel takes no more.** Streams without credit are held back by this alone.
- **Its time slice is over.** The stream joins the run queue of the scheduler, like a connection
  with requests, so handlers that never block alternate with each other and with calls.

While it waits it is in flight, like any handler that has blocked: its deadline is watched, it can
be cancelled, and followers serve the connection. Whatever is raised during the wait is raised at
the handler's ``yield``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from gevent import get_hub, getcurrent, sleep

from gtcp.errors import Cancelled
from gtcp.protocol.messages import (
    DEADLINE_EXCEEDED,
    GOING_AWAY,
    Failure,
    Progress,
    StreamItem,
    StreamNotice,
    encode,
)
from gtcp.server.commands.outcome import Refusal, unsendable
from gtcp.server.commands.streaming import drive
from gtcp.server.connections.context import Context
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.connections.receiving import ReceivingConnection

#: Seconds for which one stream produces items before others run. A quarter of a connection's slice:
#: a handler that never waits joins the queue again at once, and a call beside it waits for a slice.
SLICE_SECONDS = 0.0005

#: Bytes of items that are collected before they are sent.
FLUSH_BYTES = 2048

#: An item of so many bytes has to be sent before the next one is produced: that would be kept here
#: for as long as the peer does not read.
LARGE_BYTES = 65536

#: The most credit that a stream may have.
MAX_CREDIT = 2**31 - 1

#: Seconds between two looks whether the last streams have ended.
POLL_SECONDS = 0.01

#: The data of a reply that ends a stream whose handler was stopped.
STOPPED = {"executed": "maybe"}


class OpenStream:
    """A stream whose handler has not ended. Belongs to the greenlet that runs the handler.

    Args:
        connection: where the items are sent.
        greenlet: runs the handler.
        request: what the items answer.

    Attributes:
        credit: how many items may be sent; None for as many as the kernel takes.
        queued: whether it is in the scheduler's run queue.
    """

    __slots__ = (
        "_connection", "_context", "_iteration", "_size", "_sizes", "_timed", "_unconfirmed",
        "_until", "_waits", "_window", "credit", "greenlet", "progress", "queued", "request",
        "sent_at",
    )  # fmt: skip

    def __init__(
        self, connection: StreamingConnection, greenlet: ServingGreenlet, request: Any
    ) -> None:
        self.greenlet, self.request = greenlet, request
        self.queued = self._waits = False
        self._connection = connection
        self._context = context = connection._context
        self.progress = request._source.progress = Progress(request._source.arrived)
        self._window = context.settings.stream_window
        self._timed = request.timeout is not None or request._total is not None
        self._size = 0  # bytes since the last flush
        self._sizes: deque[int] = deque()  # of the items for which no credit was returned
        self._unconfirmed = 0  # their sum
        self.credit: int | None = None
        self.sent_at = 0.0  # when the last item was sent, monotonic seconds
        self._start_slice(monotonic())
        if request.id is not None and request._credit is not None:
            if is_credit(request._credit, 0):
                self.credit = request._credit
            else:
                context.ignored_credit += 1

    # What its connection and the scheduler call

    def grant(self, items: Any) -> bool:
        """Let it send more items; return False for credit that makes no sense.

        As many of the oldest items count as taken by the caller.
        """
        granted = add_credit(self.credit, items)
        if granted is None:
            return False
        self.credit = granted
        for _ in range(min(items, len(self._sizes))):
            self._unconfirmed -= self._sizes.popleft()
        self.wake()
        return True

    def wake(self) -> None:
        """Have the handler go on, if it has to wait no longer."""
        if self._waits and not self.queued and not self._held_back():
            self._context.scheduler.enqueue(self)

    def resume(self) -> None:
        """Give the handler a time slice; called in the hub by the scheduler."""
        if self._waits:
            self.greenlet.switch()

    def stop(self, reply: Failure) -> None:
        """Stop the handler, and end the stream with this reply."""
        self.greenlet.stop_soon(reply.message, reply)

    def notify(self, code: int, message: str) -> None:
        """Tell its caller something; without an id, there is no way to."""
        if self.request.id is not None:
            notice = StreamNotice(code=code, message=message, id=self.request.id, more=True)
            self._connection.writer.lines.append(encode(notice))
            self._connection.writer.flush_soon()

    # What the handler's greenlet does

    def run(self, items: Iterator[Any]) -> None:
        """Send all items; raises what the handler raises."""
        me = self.greenlet
        me.stopped, me.stopping, me.stream = None, False, self
        try:
            drive(items, self._wait, self._send)
        finally:
            me.stream = None

    def _wait(self) -> None:
        """Wait until the next item is wanted, and may be produced now."""
        me, now = self.greenlet, monotonic()
        if me.stopped is not None and not me.shields:
            raise Cancelled(me.stopped.message)
        if now >= self._until and self._context.scheduler.budget_ends != self._iteration:
            self._start_slice(now)  # it has blocked meanwhile
        if now >= self._until or me.stopping or self._held_back() or self._starved():
            self._wait_in_hub()
        elif self._timed and self.progress.items:
            self._ask(now)

    def _send(self, item: Any) -> None:
        """Send an item; drop it if nobody waits for it any more."""
        me = self.greenlet
        if me.stopped is None and not (me.stopping or self._connection._closed):
            self._write(self._encoded(item))
            self.sent_at = monotonic()
        elif me.forked:
            me.end_child(self.request)

    def _write(self, line: bytes) -> None:
        writer, size = self._connection.writer, len(line) + 1
        writer.lines.append(line)
        self._size += size
        if self._size >= FLUSH_BYTES:
            self._size = 0
            writer.flush()
            if size >= LARGE_BYTES:
                writer.wait_until_sent()
        else:
            writer.flush_soon()
        self.progress.items += 1
        self.progress.sent += size
        if self.credit is not None:
            self.credit -= 1
            self._sizes.append(size)
            self._unconfirmed += size

    def _encoded(self, item: Any) -> bytes:
        """Return the item's line; raise Refusal if it has none, which is logged."""
        try:
            line = encode(StreamItem(True, self.progress.items, item, self.request.id))
            if line.find(b"\n") >= 0:
                raise ValueError("the encoded item holds a newline")
            longest = self._context.max_reply_bytes
            if len(line) > longest:
                raise ValueError(
                    f"the item is {len(line)} bytes long, at most {longest} are allowed"
                )
        except BaseException as exc:  # the item may hold objects whose code raises anything
            raise self.greenlet.log_failure(unsendable, self.request, exc) from None
        return line

    def _held_back(self) -> bool:
        """Return whether nothing may be sent now. What is stopped is not: its items are dropped."""
        connection, me = self._connection, self.greenlet
        if me.stopped is not None or connection._closed:
            return False
        if connection.writer.blocked_since is not None:
            return True
        return self._starved() and not connection.deaf

    def _starved(self) -> bool:
        """Return whether it needs more credit."""
        if self.credit is None:
            return False
        return self.credit <= 0 or self._unconfirmed >= self._window

    def _wait_in_hub(self) -> None:
        """Wait until the next item may be sent, and for a time slice.

        Raises:
            Refusal: it needs more credit, and none can arrive.
        """
        hub = get_hub()
        if self._held_back():
            self._ask(None)
        while True:
            if not (self.queued or self._held_back()):
                self._context.scheduler.enqueue(self)
            self._waits = True
            try:
                hub.switch()
            finally:
                self._waits = False
            if not self._held_back():
                break
        if self.greenlet.stopped is None and self._connection.deaf and self._starved():
            raise Refusal(DEADLINE_EXCEEDED, "no more credit can arrive", STOPPED)
        now = monotonic()
        self._start_slice(now)
        self._ask(now)

    def _ask(self, now: float | None) -> None:
        """Note that the next item is wanted from now on; None if it is not."""
        self.progress.asked = now
        if self._timed:
            self._context.in_flight.move_deadline(self.greenlet)

    def _start_slice(self, now: float) -> None:
        self._until = now + SLICE_SECONDS
        self._iteration = self._context.scheduler.budget_ends


class StreamingConnection(ReceivingConnection):
    """The streams of a connection; ``Connection`` adds how it serves.

    Attributes:
        streams: those whose handlers have not ended.
    """

    __slots__ = ("streams",)

    streams: set[OpenStream]

    @property
    def deaf(self) -> bool:
        """Whether no more credit can arrive."""
        return self._half_closed or (self.leaving and not self._turning_away)

    def stream(self, request: Any, items: Iterator[Any]) -> None:
        """Send the items of a request, in the greenlet that serves it; raises what they raise."""
        me = getcurrent()
        assert isinstance(me, ServingGreenlet)
        stream = OpenStream(self, me, request)
        self.streams.add(stream)
        try:
            stream.run(items)
        finally:
            self.streams.discard(stream)

    def credit(self, request_id: int | str | None, items: Any, ahead: Sequence[Any] = ()) -> None:
        """Let a stream send more items; ignore and count what makes no sense.

        Args:
            ahead: requests before the grant, besides those that are pending.
        """
        if not self._grant(request_id, items, ahead):
            self._context.ignored_credit += 1

    def _grant(self, request_id: int | str | None, items: Any, ahead: Sequence[Any]) -> bool:
        if request_id is None:
            return False
        for stream in self.streams:
            if stream.request.id == request_id:
                return stream.grant(items)
        for item in (*self.pending, *ahead):
            if item.id == request_id and item._command is not None and item._command.streaming:
                granted: Any = add_credit(item._credit, items)
                item._credit = item._credit if granted is None else granted
                return granted is not None
        return False

    def go_away(self) -> None:
        """Tell the peer what does not run, and close when what is in flight has ended.

        Streams get a notice first, and go on.
        """
        if not self.leaving:
            for stream in self.streams:
                stream.notify(GOING_AWAY, "going away")
        super().go_away()

    def refuse(self, reply: Failure) -> None:
        """Send this as the last line. Streams that wait for credit are stopped."""
        super().refuse(reply)
        for stream in self.streams:
            stream.wake()

    def end_streams(self) -> None:
        """Stop the handlers of all streams, since the server stops: their callers get an error."""
        for stream in self.streams:
            stream.stop(Failure(GOING_AWAY, "the server stops", stream.request.id, STOPPED))

    def on_writable(self) -> None:
        """The peer has taken what was sent."""
        super().on_writable()
        for stream in self.streams:
            stream.wake()

    def _on_grace_over(self) -> None:
        """End what is left of a half-closed connection, unless a stream is being taken."""
        grace = self._context.settings.half_close_grace
        blocked = self.writer.blocked_since is not None  # ended by `write_timeout`
        since = monotonic() - grace
        if any(blocked or stream.sent_at > since for stream in self.streams):
            self._later(grace, self._on_grace_over)
        else:
            super()._on_grace_over()


def end_streams(context: Context, seconds: float) -> None:
    """Stop all streams of a server, and let their connections send what they have to say.

    Args:
        seconds: how long that may take.
    """
    context.scheduler.find_blocked()  # also handlers that have just begun
    streaming = [each for each in context.connections if each.streams]
    for connection in streaming:
        connection.end_streams()
    until = monotonic() + seconds
    while any(each.streams for each in streaming) and monotonic() < until:
        sleep(POLL_SECONDS)
    # A reset would destroy what was sent and is still on its way.
    alone = [each for each in streaming if not each.in_flight]
    while any(each in context.connections for each in alone) and monotonic() < until:
        sleep(POLL_SECONDS)


def add_credit(credit: Any, items: Any) -> int | None:
    """Return the credit with so many items more; None if one of them makes no sense."""
    if is_credit(credit, 0) and is_credit(items, 1) and credit + items <= MAX_CREDIT:
        return int(credit + items)
    return None


def is_credit(items: Any, least: int) -> bool:
    """Return whether this is a number of items, from ``least`` on."""
    return type(items) is int and least <= items <= MAX_CREDIT
