"""One connection: its greenlet reads lines, calls handlers and writes replies, until it ends.

The greenlet that the listener spawns for a connection is its *owner* for life: it does ``run`` and
nothing else. Its read watcher is started once and switches straight into the owner, so a wake-up
costs one callback and one switch. Handlers run inline in the owner, blocking ones too.

While a handler of the owner is blocked, *followers* serve the connection (the leader/followers
pattern): the read watcher resumes a follower, whose handlers may block too. The greenlet that
serves the connection at the moment is its *leader*; there is one at most. Between requests it is
the owner that waits, or nobody while its handler is blocked.
"""

from __future__ import annotations

from collections import deque
from time import monotonic, thread_time
from typing import Any

from gevent import GreenletExit, get_hub, getcurrent
from gevent.exceptions import BlockingSwitchOutError

from gtcp.protocol.messages import Failure, Success, encode
from gtcp.server.commands.outcome import encode_safely
from gtcp.server.commands.table import Item, keeps_order
from gtcp.server.connections.context import Context
from gtcp.server.connections.followers import Followers
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.connections.overload import late
from gtcp.server.connections.scheduler import SLICE_SECONDS
from gtcp.server.connections.streams import StreamingConnection
from gtcp.server.ops.background_log import log_bug, log_left_behind
from gtcp.transport.identity import Peer
from gtcp.transport.sockets import Stream

#: Bytes of replies that are collected before they are sent: more would keep the client idle while
#: the server works on its next requests (with 64 callers on one client 64 KiB make 143,000 calls/s,
#: 2 KiB 222,000).
FLUSH_BYTES = 2048


class Connection(StreamingConnection):
    """One accepted socket. Belongs to the hub of the server's thread.

    Attributes:
        leader: the greenlet that serves the connection at the moment, or None.
    """

    __slots__ = ("_hub", "leader")

    def __init__(
        self, sock: Stream, address: str, context: Context, peer: Peer | None = None
    ) -> None:
        super().__init__(sock, address, context, Followers(self._follow), peer)
        self.leader: ServingGreenlet | None = None
        self.streams = set()
        self._hub: Any = get_hub()

    # The owner

    def run(self, received: bytes = b"") -> None:
        """Serve the connection until it ends. Called by the greenlet that owns it.

        Args:
            received: bytes that the handshake has read beyond its own.
        """
        me = getcurrent()
        assert isinstance(me, ServingGreenlet)
        self._owner = me
        try:
            if self._context.draining:
                self.go_away()
            if received:
                self._serve(me, received)
            while not (self.ending and self._is_finished()):
                self._wait(me)
                self._serve(me)
            self._linger(me)
        except Exception:  # a bug in gtcp; this connection is lost, the others go on
            log_bug(self.address)
        finally:
            self._forget(me)
            self.close()
            self.followers.close()

    def _follow(self, me: ServingGreenlet) -> None:
        """Serve what can be served now. Called in a follower."""
        try:
            self._serve(me)
        except BaseException:  # as in `run`
            log_bug(self.address)
            self._forget(me)
            self.close()
        if not self._closed:
            self._context.watched.add(self)  # a sweep ends followers that are not needed

    def _forget(self, me: ServingGreenlet) -> None:
        """Undo what a bug may have left of a request."""
        if self.leader is me:
            self.leader = None
        self.in_flight.discard(me)
        self._context.in_flight.remove(me)

    def _wait(self, me: ServingGreenlet) -> None:
        """Wait until the socket is readable, or until the scheduler resumes the owner."""
        self._owner_waits = True
        if self._redirected:
            self._watch()
        while True:
            try:
                self._hub.switch()
                break
            except BaseException as exc:  # of a handler that left a Timeout or a kill behind
                if isinstance(exc, GreenletExit) and self._context.stopped:
                    raise
                log_left_behind(exc)
        self._owner_waits = False

    def _linger(self, me: ServingGreenlet) -> None:
        """Shut down this side behind the last line, and linger until the peer has closed too."""
        while not (self._closed or self.writer.empty):
            self._wait(me)
        if self._closed or not self.writer.half_close() or self._half_closed:
            return
        self._later(self._linger_seconds, self.close)
        while not (self._closed or self._half_closed):
            self._wait(me)
            self._receive(monotonic())

    # The path of a request

    def _serve(self, me: ServingGreenlet, received: bytes = b"") -> None:  # noqa: C901, PLR0915
        """Read requests, run their handlers and send the replies.

        Called by the owner when it is woken up, and by a follower while the owner's handler is
        blocked. Returns when nothing more can run now, or when another greenlet leads. (One
        function, against the linter's limits: it is the path of every request, in its order.)
        """
        context, pending, writer = self._context, self.pending, self.writer
        scheduler, in_flight, access = context.scheduler, context.in_flight, context.access
        lines, longest = writer.lines, context.max_reply_bytes

        # 1. Lead. The hub looks at this list before each poll: a connection that is still in it
        #    has a handler that has blocked (`on_blocked`).
        serving = scheduler.serving
        if len(serving) >= in_flight.room:
            scheduler.find_blocked()  # they count: nobody else runs at the moment
        self.leader = me
        serving.append(self)

        # 2. Receive, cut into lines and decode, unless requests wait from before. What can't run
        #    now is queued; what would expire in the queue is refused.
        measured = pending.counted > 0
        now = monotonic()
        request: Item | None = None  # the one to run next, if it is not in `pending`
        if not pending:
            request = self._receive(now, received)
            if self.queued:
                self.leader = None
                return

        until = now + SLICE_SECONDS
        # Requests may have to wait, to be refused, or to be counted; that changes at step 6 only.
        careful = bool(self.in_flight or in_flight.saturated or pending.counted)
        count = size = 0
        while request is not None or (pending and writer.blocked_since is None):
            # 3. Take the next request. After a slice others run, and the rest is queued.
            if request is None:
                if count and (now := monotonic()) >= until:
                    break
                request = pending.popleft()
            me.request = request
            timeout = request.timeout

            # 4. Without an id it waits for the one in flight before it. Refuse it when a limit is
            #    reached or its deadline has passed; else call its handler.
            reply: Success | Failure | None = None
            if careful:
                pending.uncount(request)
                if self.ordered is not None and keeps_order(request):
                    self._hold(request)
                    request = None
                    continue
                reply = in_flight.refusal_of(request, self.in_flight)
            if timeout is not None and now >= request._source.arrived + timeout / 1000:
                reply = reply or late(request.id)
            if reply is None:
                began = thread_time() if measured else 0.0
                try:
                    reply = Success(request._run(), request.id)
                except BaseException as exc:  # a handler may raise anything
                    reply = me.failure_of(request, exc)
                if me.gr_context is not None:  # no context variable leaks into the next request
                    me.gr_context = None
                if measured and self.leader is me and request._command is not None:
                    context.durations.note(request.cmdid, thread_time() - began, now)

            # 5. Encode the reply now: a handler may go on to change what it returned.
            line = b""
            if not request.oneway:
                try:
                    line = encode(reply)
                    if line.find(b"\n") >= 0 or len(line) > longest:
                        raise ValueError
                except BaseException:  # the result may hold objects whose code raises anything
                    line = me.log_failure(encode_safely, reply, request, longest)
            count += 1
            if access is not None:
                access.note(request, reply, len(line) + bool(line))

            # 6. Did the handler block? Then others have led since; lead again if nobody does.
            if self.leader is not me:
                self._answer_in_flight(me, request, line)
                if not self._lead_again(me):
                    return
                request = None
                careful = bool(self.in_flight or in_flight.saturated or pending.counted)
                until = monotonic() + SLICE_SECONDS
                continue

            # 7. Collect the reply; it is sent together with others that are ready now.
            request = None
            if line:
                lines.append(line)
                size += len(line)
                if size >= FLUSH_BYTES:
                    size = 0
                    writer.flush()

        # 8. Send the replies. Requests that are left run in a later slice.
        if lines:
            writer.flush()
        self.leader = me.request = None
        if serving and serving[-1] is self:
            serving.pop()
        scheduler.served += count
        if measured:
            self.active = now
            if pending.unknown and context.durations.of(pending[0].cmdid, now):
                self._reconsider()
        if pending and writer.blocked_since is None:
            self._enqueue()
        elif me is not self._owner:
            self._watch()
        if self.ending:
            self._wind_up()

    # Blocked handlers

    def on_blocked(self) -> None:
        """The leader's handler has blocked: its request is in flight. Called in the hub."""
        me = self.leader
        assert me is not None
        if me.request is None:  # code of the application blocks while params are decoded
            self._watch()
            self._context.scheduler.enqueue(self)
            return
        self.leader = None
        self.in_flight.add(me)
        self._context.in_flight.add(me)
        if me.request.id is None and self.ordered is None:
            self.ordered = deque()
        if self._closed:
            self._stop_calls(lambda _item: True)
            return
        self.writer.flush()
        if self.pending:
            self._enqueue()
        else:
            self._watch()
        if self.ending:
            self._wind_up()

    def resume(self) -> None:
        """Have a greenlet serve the connection: the owner, or a follower while that is blocked.

        Called in the hub, by the read watcher and by the scheduler.
        """
        if self.leader is not None:
            if self.leader.request is None:  # params may not wait, as in the hub they could not
                self._context.scheduler.serving.append(self)
                self.leader.throw(BlockingSwitchOutError("params can't wait"))
                return
            self.on_blocked()
        if self._owner_waits:
            self._owner.switch()
        elif not self._closed:
            self.followers.resume()

    def abandon(self) -> None:
        """Close the copy of the descriptor in a forked child, without a word to the peer."""
        self.leader = None  # should the handler that forked return, `_answer_in_flight` is called
        super().abandon()

    def _answer_in_flight(self, me: ServingGreenlet, request: Item, line: bytes) -> None:
        """Send the reply of a request whose handler had blocked."""
        if me.forked:
            me.end_child(request)
        self.in_flight.discard(me)
        self._context.in_flight.remove(me)
        me.request, me.returned = None, False
        self.active = monotonic()
        if line and not self._closed:
            self.writer.lines.append(line)
            self.writer.flush_soon()
        if self.ordered is not None and keeps_order(request):
            self.pending.put_first(self.ordered)
            self.ordered, self._ordered_bytes = None, 0
        if not self._closed:
            self._watch()

    def _lead_again(self, me: ServingGreenlet) -> bool:
        """Lead, unless that is for the owner or the scheduler to do."""
        if self.leader is not None:
            self.on_blocked()  # a follower's handler has, and the hub has not looked yet
        of_owner = me is not self._owner and self._owner_waits
        if not (of_owner or self.queued or self._closed) and self.writer.blocked_since is None:
            scheduler = self._context.scheduler
            if len(scheduler.serving) >= self._context.in_flight.room:
                scheduler.find_blocked()
            self.leader = me
            scheduler.serving.append(self)
            return True
        if self.pending and self.writer.blocked_since is None:
            self._enqueue()
        if self.ending:
            self._wind_up()
        return False

    def _hold(self, item: Item) -> None:
        """Keep a request without an id until the one before it is answered."""
        assert self.ordered is not None
        self.ordered.append(item)
        self._ordered_bytes += len(item._source.line)
        self._watch()
