"""One connection: has the lines run that come by it, and answers them, until it ends.

What has come is read for all connections together (see ``ready``), and served in the hub or by
a runner that the hub has switched into, so a connection that waits costs no greenlet. Nothing
here waits. What is logged is logged in a greenlet of its own, since a log handler may wait.

Life of a connection::

    open ──► leaving (the server goes, or past bad framing: nothing that comes now is run)
      │         └─ calls in flight are answered, then the last line ──► lingering
      ├──► half closed (the peer sent FIN: calls with an id are cancelled)
      └──► lost (reset, or the peer does not take its replies) ──► closed

Lingering means: our side is shut down, what still comes is read and thrown away until the
peer closes too or a moment has passed. Closing at once would send a reset, which can destroy
the last reply in the peer's receive buffer.
"""

from __future__ import annotations

import logging
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from gtcp.address import host_of
from gtcp.identity import fits
from gtcp.protocol import (
    BAD_REQUEST,
    GOING_AWAY,
    Failure,
    Request,
    Success,
    encode_lines,
)
from gtcp.server.command import Command
from gtcp.server.inlet import Inlet
from gtcp.server.logger import SERVER, escape
from gtcp.server.outcome import encode_safely
from gtcp.server.outlet import Outlet
from gtcp.server.refusal import Refusal, refuse_first
from gtcp.server.runner import Runner, report
from gtcp.server.table import Item, Rejection, is_cancel, size_of
from gtcp.server.work import Work
from gtcp.sockets import close_quietly, peer_of

if TYPE_CHECKING:
    from gtcp.identity import Peer
    from gtcp.server.context import Context
    from gtcp.tls_socket import TlsSocket

log = logging.getLogger(SERVER)

#: SO_LINGER with no seconds: close() sends a reset.
RESET = struct.pack("ii", 1, 0)

#: Of who was refused, so much is logged.
MAX_IDENTITY_CHARS = 200

#: Seconds a peer that was told 503 is given to close its side.
GOODBYE_SECONDS = 0.25

#: Seconds a peer that sent what can't be read is given to take the error line.
REFUSED_SECONDS = 2.0


class Connection:
    """One accepted socket. Lives in the hub of the server's thread.

    Attributes:
        address: the peer, "host:port".
        peer: who that is.
        since: when it was accepted, Unix seconds.
        handled: requests taken so far.
        in_flight: the runners whose handlers are blocked in a call of this connection.
        ordered: requests without an id that wait for the one in flight before them; None
            while none is in flight.
        leaving: nothing that comes from now on is run.
        active: when something last came or ran, monotonic seconds.
        inlet: by which its requests come.
        outlet: by which its replies leave.
        turn_seconds: how long a request without an id took lately, once it had its turn.
    """

    __slots__ = (
        "_begun",
        "_closed",
        "_context",
        "_fd",
        "_goodbye",
        "_half_closed",
        "_idle_timeout",
        "_linger_seconds",
        "_lingering",
        "_runners",
        "_sock",
        "_timer",
        "_turning_away",
        "active",
        "address",
        "handled",
        "in_flight",
        "inlet",
        "leaving",
        "ordered",
        "outlet",
        "peer",
        "recv",
        "since",
        "turn_seconds",
    )

    def __init__(
        self,
        sock: socket.socket | TlsSocket,
        address: str,
        context: Context,
        peer: Peer | None = None,
    ) -> None:
        self.address, self.peer = address, peer or peer_of(sock, address)
        self.since = time()
        self.handled = 0
        self.in_flight: set[Runner] = set()
        self.ordered: deque[Item] | None = None
        self.leaving = False
        self.active = monotonic()
        self.turn_seconds = 0.0
        settings = context.settings
        self._sock = sock
        self.recv = sock.recv
        self._context = context
        self._runners = context.runners
        backlog = context.runners.backlog
        self.inlet = Inlet(self, context.table, backlog, settings.max_line_bytes)
        self.outlet = Outlet(sock, settings.max_reply_bytes, self)
        self._half_closed = False
        self._closed = False
        self._lingering = False
        self._turning_away = False  # requests with an id are still told that they don't run
        self._linger_seconds = GOODBYE_SECONDS
        self._goodbye = b""  # the last line, until it is said
        self._begun: tuple[float, int] | None = None  # when a sweep first saw this line begun
        self._idle_timeout = _with_jitter(context.settings.idle_timeout)
        self._timer: Any = None
        self._fd = sock.fileno()
        self._read_on()
        context.connections.add(self)
        context.hosts[host_of(address)] += 1

    def __repr__(self) -> str:
        return f"<Connection {self.address} handled={self.handled} in_flight={len(self.in_flight)}>"

    @property
    def reading(self) -> bool:
        """Whether it is read from: not while the peer takes no replies, or many requests wait."""
        return self._fd in self._runners.ready.connections

    # Reading

    def take(self, data: bytes, now: float) -> None:
        """Serve what was received, with a closer look; called in the hub."""
        self._safely(self._receive, data, now, False)

    def hold(self, data: bytes, now: float) -> None:
        """Have what was received wait for its turn, as others do; called in the hub."""
        self._safely(self._receive, data, now, True)

    def batch(self, data: bytes, now: float) -> Work | None:
        """Several lines that came together as a batch; None when they need a closer look."""
        if len(data) > self.inlet.piece or data[-1:] != b"\n":
            return None
        items = self._context.table.read_plain(data)
        if items is None:
            return None
        self.handled += len(items)
        return Work(self, data, now, items, iter(items), [])

    def have_turn(self) -> None:
        """Serve what has waited for its turn; called in the hub."""
        self._safely(self.inlet.go_on)

    def may_serve(self) -> bool:
        """Whether replies are taken, and few requests wait for the one before them."""
        outlet = self.outlet
        return not (self.leaving or outlet.stalled is not None or outlet.paused or self._crowded())

    def _safely(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except Exception:  # ours to mend; this connection is lost, the others go on
            report(self.address)
            self.close()

    def _receive(self, data: bytes, now: float, waits: bool) -> None:
        self.active = now
        if self._closed:  # while it waited for its turn
            pass
        elif not data:
            self._half_closed = True
            self._read_no_further()
            self.inlet.end(now)
        elif not self.leaving:
            self.inlet.receive(data, now, waits=waits)
        elif self._turning_away:
            self._turn_away(self.inlet.buffer.feed(data))

    def serve(self, lines: bytes, now: float) -> int:
        """Have lines run that came at this time; returns how many handlers have run, about."""
        if self._runners.full(self):
            behind_another = self.ordered is not None
            table = self._context.table
            refusals, lines = refuse_first(table, lines, behind_another=behind_another)
            self.tell(refusals)
            if not lines:
                return 0
        items, plain = self._context.table.read(lines)
        quick = (
            plain and self._runners.quick and self.ordered is None and not self._runners.full(self)
        )
        work = Work(self, lines, now, items, iter(items), [], quick)
        self.handled += len(items)
        nothing_ran = _is_late(items[0], now)
        self._runners.run_batch(work)
        self.outlet.say_all(work)
        return 0 if nothing_ran else len(items)

    def tell(self, refusals: list[Refusal]) -> None:
        """Answer requests that are refused."""
        for each in refusals:
            line = b"" if each.head.oneway else encode_lines([each.reply])
            if line:
                self.outlet.put(line)
            self.handled += 1
            self._note_refused(each.head.cmdid, each.reply.code, each.size, len(line))
        self.outlet.flush()

    def _crowded(self) -> bool:
        """Whether many requests wait for the one before them already, or large ones."""
        if self.ordered is None:
            return False
        settings = self._context.settings
        limit = settings.max_in_flight_per_connection
        if limit is not None and len(self.ordered) >= limit:
            return True
        return sum(map(size_of, self.ordered)) >= settings.max_line_bytes

    def read_on_or_not(self) -> None:
        """Read no further while many requests have to wait."""
        if self._closed or self._half_closed or self.outlet.stalled is not None:
            return
        if self.inlet.full or self._crowded():
            self._read_no_further()
        elif not self.reading:
            self._read_on()

    def _read_on(self) -> None:
        self._runners.ready.add(self._fd, self)

    def _read_no_further(self) -> None:
        self._runners.ready.remove(self._fd)

    def owes_the_rest(self) -> None:
        """A line has begun: how long it takes to be finished is watched."""
        self._context.owing.add(self)

    def end_of_stream(self) -> None:
        """The peer has shut down its side: it hung up, or it waits for its last replies.

        A gtcp client that goes has no use for replies any more. Others, which send no ids,
        may have piped their requests in (`nc -N`): those get a moment to finish.
        """
        self.callers_have_gone()
        if self.in_flight and self._timer is None:
            self._later(self._context.settings.half_close_grace, self._grace_is_over)
        self._wind_up()

    def callers_have_gone(self) -> None:
        """Nobody waits any more for calls in flight with an id: they are stopped."""
        self._stop_calls(lambda request: request.id is not None)

    def _grace_is_over(self) -> None:
        if self.ordered:
            self.ordered.clear()
        self._stop_calls(lambda _request: True)

    # Replies

    def answer(self, request: Request[Any], reply: Success | Failure, started: float) -> None:
        """Queue the reply of one request; called by runners, in their own greenlets."""
        line = b""
        if not request.oneway:
            line = encode_safely(reply, request, self.outlet.longest_reply)
            self.outlet.queue(line)
        access = self._runners.access
        if access is not None:
            access.note(request, reply, started, len(request.raw_body) + 1, len(line))

    def reject(self, rejection: Rejection, *, logged: bool = False) -> None:
        """Answer a line that is no request; after a fatal one nothing more is read.

        Args:
            logged: whether somebody else has logged it.
        """
        line = encode_lines([rejection.reply])
        if rejection.fatal:
            if not logged:
                reason = rejection.reply.message
                self._context.strangers.warning("%s: %s; closing", self.address, reason)
            self._leave(line, REFUSED_SECONDS)
        elif rejection.reply_wanted:
            self.outlet.queue(line)
        if rejection.cmdid is not None:
            sent = len(line) if rejection.reply_wanted else 0
            self._note_refused(rejection.cmdid, rejection.reply.code, rejection.size, sent)

    def _note_refused(self, cmdid: int, code: int, received: int, sent: int) -> None:
        access = self._runners.access
        if access is not None:
            access.note_refused(self.address, cmdid, code, received, sent)

    def admits(self, command: Command) -> bool:
        """Whether the peer may call this command; it is logged if it may not."""
        if command.allow is None or fits(self.peer.identities, command.allow):
            return True
        self._context.strangers.warning(
            "%s (%s): may not call cmdid %d",
            self.address,
            escape(self.peer.identity or "nobody known", MAX_IDENTITY_CHARS),
            command.cmdid,
        )
        return False

    def stalls(self) -> None:
        """The peer takes no more replies at the moment: nothing is read meanwhile."""
        self._context.owing.add(self)
        self._read_no_further()

    def goes_on(self) -> None:
        """The peer has taken its replies."""
        if self.outlet.wake():
            get_hub().loop.run_callback(self.inlet.wait_for_turn)
        else:
            self.inlet.wait_for_turn()
        self._wind_up()

    # Leaving

    def go_away(self) -> None:
        """Tell the peer that what has no reply after this line did not run, then close.

        Calls in flight are answered first: the line must be true even if the process is
        killed right after it. Until it is said, requests with an id are told one by one.
        """
        if self.leaving:
            return
        self._turning_away = True
        if self.ordered:
            self.ordered.clear()
        self._turn_away(self.inlet.take_all())
        self._leave(encode_lines([Failure(GOING_AWAY, "going away")]), GOODBYE_SECONDS)

    def turn_away(self, item: Item) -> None:
        """Tell a request that came too late to be run; without an id it can't be told."""
        if not self._turning_away:
            return
        if isinstance(item, Rejection):
            self._turning_away = not item.fatal
            if item.id is not None:
                self.reject(item)
        elif is_cancel(item):
            self.cancel(item.params.id)
        elif item.id is not None and not item.oneway:
            self.outlet.queue(encode_lines([Failure(GOING_AWAY, "going away", item.id)]))

    def _turn_away(self, lines: bytes) -> None:
        for item in self._context.table.read(lines)[0]:
            self.turn_away(item)

    def cancel(self, request_id: int | str | None) -> None:
        """Stop the call with this id, if it is in flight: its caller has given up on it."""
        if request_id is not None:
            self._stop_calls(lambda request: request.id == request_id)

    def cut(self) -> None:
        """Close at once, and do not let the peer take it for a goodbye."""
        if not (self._closed or self._lingering):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def close(self) -> None:
        """Close at once; what is in flight is cancelled. Harmless when closed already."""
        if self._closed:
            return
        self._closed = self.leaving = True
        self._read_no_further()
        self._stop_timer()
        self.outlet.close()
        self._sock.close()
        self.inlet.take_all()
        if self.ordered:
            self.ordered.clear()
        self._context.gone(self)
        self._stop_calls(lambda _request: True)

    def abandon(self) -> None:
        """In a forked child: close the copy of the descriptor without a word to the peer."""
        self._closed = self.leaving = True
        self._stop_timer()
        self.outlet.stop_watching()
        close_quietly(self._sock)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()

    def one_less(self) -> None:
        """A call of this connection has ended; called by its runner."""
        if not self._closed:
            get_hub().loop.run_callback(self._after_call)

    def sweep(self, now: float) -> None:
        """Look for what takes too long; called now and then, and often while something is owed."""
        settings = self._context.settings
        if _over(self.outlet.stalled, settings.write_timeout, now):
            self._context.strangers.warning("%s: takes no replies; closing", self.address)
            self.close()
        elif self.inlet.buffer.begun:
            # While it is not read from, the peer can't be blamed.
            if self._begun is None or self._begun[1] != self.handled or not self.reading:
                self._begun = now, self.handled
            elif _over(self._begun[0], settings.line_timeout, now) and not self.leaving:
                self.reject(Rejection(BAD_REQUEST, "the line was not finished in time"))
        else:
            if self.outlet.stalled is None:
                self._context.owing.discard(self)
            if not (self.in_flight or self.inlet.holds) and _over(
                self.active, self._idle_timeout, now
            ):
                self.go_away()

    def _after_call(self) -> None:
        if self._closed:
            return
        self.active = monotonic()
        self.outlet.flush()
        self.inlet.wait_for_turn()
        self._wind_up()

    def _leave(self, goodbye: bytes, linger: float) -> None:
        """Run nothing that comes from now on; the last line is said after all replies."""
        if self.leaving:
            return
        self.leaving = True
        self.inlet.take_all()
        self._goodbye, self._linger_seconds = goodbye, linger
        self.read_on_or_not()
        if self._half_closed:  # it may have been held, behind what is not run
            self.end_of_stream()
        else:
            self._wind_up()

    def _wind_up(self) -> None:
        """Take the steps towards the end of the connection that can be taken by now."""
        if self._closed or not (self.leaving or self._half_closed):
            return
        if self.in_flight or self.ordered is not None or self.inlet.holds:
            return
        if self._goodbye:
            self._turning_away = False
            goodbye, self._goodbye = self._goodbye, b""
            self.outlet.put(goodbye)
            self.outlet.flush()
        if self._closed or not self.outlet.empty:
            return
        if not self._lingering:
            self._linger()
        if self._half_closed:  # both sides have said that they end
            self.close()

    def _linger(self) -> None:
        self._lingering = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self._later(self._linger_seconds, self.close)

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(function, update=True)

    def _stop_calls(self, which: Callable[[Request[Any]], bool]) -> None:
        for runner in self.in_flight:
            request = runner.request
            if request is not None and not request._command.run_to_end and which(request):
                # Not at once: this may be running in a greenlet that must not be left.
                runner.ending = True
                get_hub().loop.run_callback(runner.stop, request, "the caller has gone")


def _is_late(item: Item, arrived: float) -> bool:
    """Whether it will not run, its deadline being over."""
    timeout = item.timeout if isinstance(item, Request) else None
    return timeout is not None and monotonic() >= arrived + timeout / 1000


def _over(since: float | None, limit: float | None, now: float) -> bool:
    return since is not None and limit is not None and now - since > limit


def _with_jitter(seconds: float | None) -> float | None:
    """Give or take 10 percent, so that connections opened together do not close together."""
    return None if seconds is None else seconds * random.uniform(0.9, 1.1)
