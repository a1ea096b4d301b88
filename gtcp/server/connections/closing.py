"""How a connection ends: goodbye, half-close, lingering, timeouts.

Life of a connection::

    open ──► leaving (the server stops, or the peer broke the protocol: what arrives does not run)
      │         └─ calls in flight are answered, then the last line ──► lingering ──► closed
      ├──► half-closed (the peer sent FIN: calls with an id are cancelled, others get a moment)
      └──► closed (reset, or the peer does not take its replies: all calls are cancelled)

Lingering: this side is shut down, and what arrives is discarded until the peer closes or a moment
has passed. Closing immediately would send a reset, which can destroy replies on their way.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic, time
from typing import Any

from gevent import get_hub

from gtcp.protocol.messages import BAD_REQUEST, GOING_AWAY, Failure, Request, encode
from gtcp.server.commands.command import Command
from gtcp.server.commands.table import Item, Rejection, is_cancel, runs_to_end
from gtcp.server.connections.context import Context
from gtcp.server.connections.followers import Followers
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.connections.inspection import inspect
from gtcp.server.connections.pending import PendingRequests
from gtcp.server.connections.reader import RequestReader
from gtcp.server.connections.write_buffer import WriteBuffer
from gtcp.server.ops.logger import MAX_IDENTITY_CHARS, escape
from gtcp.transport.identity import Peer, fits
from gtcp.transport.sockets import READ, Stream, close_quietly, has_unread, peer_of

#: SO_LINGER with no seconds: close() sends a reset.
RESET = struct.pack("ii", 1, 0)

#: Seconds that a peer has to close its side: after a goodbye, and after a protocol error.
GOODBYE_SECONDS, REFUSED_SECONDS = 0.25, 2.0

#: Seconds of queued requests that are dropped when their peer hangs up. Less is run, so that the
#: outcome does not depend on when the end of the stream arrives.
LONG_SECONDS = 0.1


class ClosingConnection:
    """The state of a connection, and its way to the end; ``Connection`` adds how it serves.

    Attributes:
        address: the peer, "host:port".
        peer: the peer with its identities.
        since: when it was opened, Unix seconds.
        active: when something last arrived or ran, monotonic seconds.
        reader: cuts and decodes what is received.
        pending: requests that were read and have not run.
        ordered: requests without an id that wait for the one in flight before them; None
            while none is in flight.
        in_flight: the greenlets whose handlers are blocked in a call of this connection.
        writer: replies that were not sent yet.
        followers: the greenlets that may serve it while the owner's handler is blocked.
        queued: whether it is in the scheduler's run queue.
        leaving: nothing that arrives from now on runs.
        ending: whether it is leaving or half-closed.
    """

    __slots__ = (
        "_closed", "_context", "_end_of_age", "_goodbye", "_half_closed", "_idle_timeout",
        "_line_begun", "_linger_seconds", "_ordered_bytes", "_owner", "_owner_waits",
        "_redirected", "_sock", "_timer", "_turning_away", "_watcher", "active", "address",
        "ending", "followers", "in_flight", "leaving", "ordered", "peer", "pending", "queued",
        "reader", "since", "writer",
    )  # fmt: skip

    def __init__(
        self,
        sock: Stream,
        address: str,
        context: Context,
        followers: Followers,
        peer: Peer | None = None,
    ) -> None:
        self.address, self.peer = address, peer or peer_of(sock, address)
        self.since = time()
        self.active = monotonic()
        self.reader = RequestReader(self, context.table, context.settings.max_line_bytes)
        self.pending = PendingRequests(context.scheduler, context.durations)
        self.ordered: deque[Item] | None = None
        self.in_flight: set[ServingGreenlet] = set()
        self.writer = WriteBuffer(sock, self)
        self.followers = followers
        self.queued = self.leaving = self.ending = False
        self._context = context
        self._sock = sock
        self._watcher: Any = get_hub().loop.io(sock.fileno(), READ)
        self._owner: Any = None
        self._owner_waits = False
        self._redirected = True  # the read watcher switches elsewhere than into the owner
        self._ordered_bytes = 0
        self._half_closed = self._closed = False
        self._turning_away = False  # requests with an id still get a 503 each
        self._goodbye = b""  # the last line, until it is sent
        self._linger_seconds = GOODBYE_SECONDS
        self._line_begun: tuple[float, int] | None = None  # when a sweep first saw this line begun
        self._idle_timeout = context.next_idle_timeout()
        self._end_of_age = context.next_end_of_age()
        self._timer: Any = None
        context.opened(self)

    def __repr__(self) -> str:
        return f"<Connection {self.address} handled={self.handled} in_flight={len(self.in_flight)}>"

    @property
    def handled(self) -> int:
        """Requests received so far."""
        return self.reader.handled

    @property
    def reading(self) -> bool:
        """Whether it is read from: not while the peer takes no replies, or much is queued."""
        return not self._closed and bool(self._watcher.active)

    leader: ServingGreenlet | None
    credit: Callable[..., None]  # added by `StreamingConnection`
    stream: Callable[..., None]

    def on_blocked(self) -> None:
        """The leader's handler has blocked: its request is in flight. Called in the hub."""
        raise NotImplementedError

    def resume(self) -> None:
        """Switch into a greenlet that serves the connection; called in the hub."""
        raise NotImplementedError

    def read_ahead(self) -> None:
        """Receive while the connection is queued; called in the hub."""
        raise NotImplementedError

    def describe(self, op: str) -> object:
        """Return the answer to gtcp's own ``op``; None if the peer may not know."""
        return inspect(self._context, self.peer, op)

    # What the server, the peer and the clock do

    def go_away(self) -> None:
        """Send the goodbye line, after which requests without a reply did not run, and close.

        Calls in flight are answered first: the line must be true even if the process is killed
        right after it. Until it is sent, requests with an id get a 503 each.
        """
        if self.leaving:
            return
        self._turning_away = True
        self._drop_ordered()
        self._turn_away(self.pending.take_all())
        self._leave(encode(Failure(GOING_AWAY, "going away")), GOODBYE_SECONDS)

    def on_protocol_error(self, reply: Failure) -> None:
        """Answer what can't be read as a request. Nothing that follows runs."""
        if not self.leaving:
            log = self._context.rate_limited_log
            log.warning("%s: %s; closing", self.address, reply.message)
        self.refuse(reply)

    def refuse(self, reply: Failure) -> None:
        """Send this as the last line, after the replies of calls in flight, then close."""
        self._turning_away = False
        self.pending.take_all()
        self._leave(encode(reply), REFUSED_SECONDS)

    def on_end_of_stream(self) -> None:
        """The peer has shut down its side: it hung up, or waits for its last replies.

        A gtcp client that has gone needs no replies. Others, which send no ids, may have piped
        their requests in (``nc -N``): those get ``half_close_grace``.
        """
        self._half_closed = self.ending = True
        self._stop_calls(lambda item: item.id is not None)
        context, now = self._context, monotonic()
        if context.durations.total(context.scheduler.queued, now) > LONG_SECONDS:
            items = self.pending.take_all()
            self.pending.put([item for item in items if item.id is None or runs_to_end(item)])
        self._watch()
        self._wind_up()

    def cut(self) -> None:
        """Close with a reset, which the peer does not take for a goodbye."""
        if not (self._closed or (self.ending and self._is_finished())):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def close(self) -> None:
        """Close now; calls in flight are cancelled. Harmless when it is closed already."""
        if self._closed:
            return
        self._closed = self.leaving = self.ending = True
        self._watcher.stop()
        self._watcher.close()
        self._stop_timer()
        self.writer.close()
        self._sock.close()
        self.pending.take_all()
        self._drop_ordered()
        self._context.closed(self)
        self._stop_calls(lambda _item: True)
        self._wake_owner()

    def abandon(self) -> None:
        """Close the copy of the descriptor in a forked child, without a word to the peer."""
        self._closed = self.leaving = self.ending = True
        self._watcher.stop()
        self._stop_timer()
        self.writer.close()
        close_quietly(self._sock)

    def sweep(self, now: float) -> None:
        """End what is old or takes too long. Called now and then, twice a second if watched."""
        if now > self._end_of_age and self.reader.uses_ids:  # others take a goodbye for a reply
            self.go_away()
        elif self in self._context.watched:
            self._sweep_watched(now)
        elif _over(self.active, self._idle_timeout, now):
            busy = self.in_flight or self.pending or self.writer.blocked_since is not None
            if not busy and not has_unread(self._sock):
                self.go_away()

    def _sweep_watched(self, now: float) -> None:
        settings, blocked_since = self._context.settings, self.writer.blocked_since
        if _over(blocked_since, settings.write_timeout, now):
            self._context.rate_limited_log.warning("%s: takes no replies; closing", self.address)
            self.close()
        elif self.reader.buffer.begun:
            # While it is not read from, the peer can't be blamed.
            line = self._line_begun
            if line is None or line[1] != self.handled or not self.reading:
                self._line_begun = now, self.handled
            elif _over(line[0], settings.line_timeout, now) and not self.leaving:
                self.on_protocol_error(Failure(BAD_REQUEST, "the line was not finished in time"))
        elif blocked_since is None and not self.in_flight:
            self.followers.end_idle()
            self._context.watched.discard(self)

    def on_write_blocked(self) -> None:
        """The kernel takes no more replies: nothing is read meanwhile."""
        self._context.watched.add(self)
        self._watch()

    def on_writable(self) -> None:
        """The peer has taken its replies."""
        if self.pending:
            self._enqueue()
        elif self.ending:
            self._wake_owner()
        self._watch()

    def admits(self, command: Command) -> bool:
        """Return whether the peer may call this command; log it if it may not."""
        if command.allow is None or fits(self.peer.names, command.allow):
            return True
        who = escape(self.peer.identity or "no known identity", MAX_IDENTITY_CHARS)
        self._context.rate_limited_log.warning(
            "%s (%s): may not call cmdid %d", self.address, who, command.cmdid
        )
        return False

    # Cancelling

    def cancel(self, request_id: int | str | None) -> None:
        """Cancel the calls with this id, queued or in flight: the caller has given them up."""
        self._cancel(request_id, [])

    def _cancel(self, request_id: int | str | None, items: Iterable[Item]) -> None:
        if request_id is None:
            return
        for item in (*self.pending, *items):
            if item.id == request_id and not runs_to_end(item):
                item.timeout = 0  # its deadline is over: it does not run
        self._stop_calls(lambda item: item.id == request_id)

    def _stop_calls(self, which: Callable[[Item], bool]) -> None:
        for greenlet in self.in_flight:
            item: Item | None = greenlet.request
            if item is not None and not runs_to_end(item) and which(item):
                greenlet.stop_soon("the caller has gone")

    # Steps to the end

    def _leave(self, goodbye: bytes, linger_seconds: float) -> None:
        """Run nothing that arrives from now on; send this line after all replies."""
        if self.leaving:
            return
        self.leaving = self.ending = True
        self._goodbye, self._linger_seconds = goodbye, linger_seconds
        self._watch()
        self._wind_up()

    def _turn_away(self, items: Iterable[Item]) -> None:
        """Answer requests with an id by 503; the goodbye is the answer to the others."""
        for item in items:
            if isinstance(item, Rejection) and item.fatal:
                self._turning_away = False
            elif is_cancel(item):
                assert isinstance(item, Request)
                self.cancel(item.params.id)
            elif item.id is not None and not item.oneway and self._turning_away:
                going = Failure(GOING_AWAY, "going away", item.id)
                reply = item.reply if isinstance(item, Rejection) else going
                self.writer.lines.append(encode(reply))
        self.writer.flush_soon()

    def _wind_up(self) -> None:
        """Take the next step to the end, if there is one: called after each that may lead to it."""
        if self._closed:
            return
        if self._is_finished():
            self._turning_away = False
            if self._goodbye:
                self.writer.lines.append(self._goodbye)
                self._goodbye = b""
                self.writer.flush()
            self._wake_owner()
        elif self._half_closed and not self.pending and self._timer is None:
            self._later(self._context.settings.half_close_grace, self._on_grace_over)

    def _is_finished(self) -> bool:
        # A leader may run a handler that has blocked since the hub has looked.
        busy = self.leader or self.ordered is not None or self.in_flight or self.pending
        return self._closed or (self.ending and not busy)

    def _on_grace_over(self) -> None:
        if self.leader is not None:
            self.on_blocked()  # its handler has, and the hub has not looked yet
        self.pending.take_all()
        self._drop_ordered()
        self._stop_calls(lambda _item: True)

    def _drop_ordered(self) -> None:
        if self.ordered:
            self.ordered.clear()

    def _wake_owner(self) -> None:
        """Have the owner resumed, if it waits."""
        if self._owner_waits and not self.queued:
            self._context.scheduler.enqueue(self)
            self._watch()

    def _enqueue(self) -> None:
        """Have the scheduler resume the connection, which has requests to run."""
        self.pending.count_all()
        if not self.queued:
            self._context.scheduler.enqueue(self)
        self._watch()

    def _watch(self) -> None:
        if self._closed:
            return
        watcher = self._watcher
        self._redirected = self.queued or not self._owner_waits
        if self.queued:
            callback: Any = self.read_ahead
        elif self._owner_waits:
            callback = self._owner.switch
        else:
            callback = self.resume
        if self._may_read():
            watcher.callback = callback
            if not watcher.active:
                watcher.start(callback)
        else:
            watcher.stop()

    def _may_read(self) -> bool:
        if self._half_closed or self.writer.blocked_since is not None:
            return False
        if self.leaving:
            return True  # what arrives is turned away or discarded
        limit = self._context.settings.max_in_flight_per_connection
        held = 0 if self.ordered is None else len(self.ordered)
        many = limit is not None and held >= limit
        large = self._ordered_bytes >= self._context.settings.max_line_bytes
        return not (self.reader.is_over or self.pending.full or many or large)

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(function, update=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None


def _over(since: float | None, limit: float | None, now: float) -> bool:
    return since is not None and limit is not None and now - since > limit
