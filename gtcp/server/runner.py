"""The greenlets that run handlers: inline until one blocks.

The hub reads all connections that are ready and switches into an idle ``Runner`` with what has
come: a turn. The runner calls one handler after another and sends the replies, connection by
connection. When all have returned it goes idle: a fast handler costs a share of two greenlet
switches, no greenlet of its own and no timer. When a handler blocks, it is the hub that goes on,
where it left off, sees that the runner did not come back idle, and hands the rest of the turn
to the next runner. Only then is the call put on the list of those in flight, is its deadline
watched, can it be cancelled: all that a handler which never waits could not notice anyway. What
needs a closer look comes back to the hub as well.

Requests without an id keep their order: while one of them is blocked, those behind it on the
same connection queue up, and its runner takes them when it is done.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from math import inf
from operator import length_hint
from time import monotonic
from typing import TYPE_CHECKING, Any, final

from gevent import GreenletExit, get_hub, spawn
from gevent.exceptions import BlockingSwitchOutError
from greenlet import greenlet

from gtcp.deadline import Alarm, Carrier, earliest
from gtcp.errors import CallTimeout, Cancelled
from gtcp.protocol import (
    LATE,
    OVERLOADED,
    OWN_CMDID,
    Batch,
    Failure,
    Request,
    Success,
    encode,
)
from gtcp.server.accesslog import AccessLog
from gtcp.server.backlog import Backlog
from gtcp.server.command import RETRY_AFTER
from gtcp.server.logger import SERVER
from gtcp.server.outcome import checked, failure
from gtcp.server.ready import Arrival, Turn, make_ready
from gtcp.server.table import Item, Rejection, Table, overtakes

if TYPE_CHECKING:
    from gtcp.server.connection import Connection

log = logging.getLogger(SERVER)

#: Seconds by which the deadline of a nested call may be earlier: it travels in milliseconds.
CLOSE = 0.002

#: Idle runners kept for the next handlers that block; more are let go.
MAX_IDLE = 100


@final
class Work(Batch, gc=False):
    """A batch on its way through the runners; its peer is the connection it came by.

    Attributes:
        items: what was read from the lines, in their order; taken away when all have run,
            since they refer to the work.
        pending: the items that no runner has taken yet; shared by the runners that follow
            one another.
        replies: the lines of the requests that ran quickly, in their order, without newlines.
        quick: whether nothing needs a closer look: all requests, none to be queued or refused.
    """

    peer: Connection
    items: Sequence[Item]
    pending: Iterator[Any]
    replies: list[bytes]
    quick: bool = True

    def current(self) -> Request[Any]:
        """The request that was taken last: a list's iterator tells how many are left."""
        item = self.items[len(self.items) - length_hint(self.pending) - 1]
        assert isinstance(item, Request)
        return item

    def said(self) -> bytes:
        """The replies as what is sent; they are taken away."""
        lines = self.replies
        limit = self.peer.outlet.longest_reply
        data = b"\n".join(lines) + b"\n"
        if data.count(b"\n") != len(lines) or len(data) > limit:
            requests = (each for each in self.items if isinstance(each, Request))
            wanted = (each for each in requests if not each.oneway)
            data = b"".join(
                checked(line, request, limit, spawn)
                for line, request in zip(lines, wanted, strict=False)
            )
        lines.clear()
        return data

    def sizes(self) -> Iterator[int]:
        """How long each line is, with its newline."""
        return (len(line) + 1 for line in self.data.split(b"\n"))

    def line_of(self, request: Request[Any]) -> bytes:
        """The line that this request was read from; empty when the items were taken away."""
        if self.data.find(b"\n") == len(self.data) - 1:
            return super().line_of(request)
        lines = self.data.split(b"\n")
        found = (line for line, item in zip(lines, self.items, strict=False) if item is request)
        return next(found, b"").removesuffix(b"\r")

    def narrowed(self, request: Request[Any]) -> Batch:
        """A batch of this request alone, for one that outlives its wake-up."""
        return Batch(self.peer, self.line_of(request) + b"\n", self.arrived)


Job = Work | Turn


class Runner(Carrier):
    """A greenlet that runs handlers. It belongs to the hub it was made in.

    Attributes:
        work: the batch it is at, if it is at one.
        request: the request in flight, or the one that came alone; None while it runs the quick
            ones of a batch. While both are None, the runner is idle.
        detached: whether a handler blocked, so that the hub went on without this runner.
        returned: whether the handler in flight has returned: what follows (its reply, log
            lines) may wait too, but is not stopped any more.
        deadline: when the request in flight is to be stopped, monotonic seconds, or None.
        ending: whether it has been decided that the request in flight is to be stopped.
        began: when its handler blocked, or had its turn after others; monotonic seconds.
    """

    # For each request they are looked at several times: in a greenlet's dict that costs a lot.
    __slots__ = (
        "_hub",
        "_runners",
        "_stopped",
        "began",
        "deadline",
        "detached",
        "ending",
        "request",
        "returned",
        "work",
    )

    def __init__(self, runners: Runners) -> None:
        self._hub: Any = get_hub()
        super().__init__(parent=self._hub)
        self._runners = runners
        self._stopped: Failure | None = None
        self.work: Work | None = None
        self.request: Request[Any] | None = None
        self.detached = False
        self.returned = False
        self.ending = False
        self.deadline: float | None = None
        self.began = 0.0

    def running_deadline(self) -> float | None:
        """The deadline that calls made by the running handler inherit."""
        request = self.request
        if request is None:
            if self.work is None:
                return None
            request = self.work.current()
        return None if request._command.run_to_end else request.deadline

    def is_to_end(self, now: float) -> bool:
        """Whether the request in flight is stopped, or about to be."""
        late = self.deadline is not None and self.deadline <= now
        return late or self.ending or self._stopped is not None

    def stop(self, request: Request[Any] | None, why: str) -> None:
        """Cancel this request at the wait its handler is in; called in the hub.

        Nothing happens when it is in flight no longer.

        Args:
            request: the one that was in flight when this was decided.
            why: what its caller is told, if it still listens.
        """
        if request is None or request is not self.request or self.returned:
            return
        if self._stopped is None:
            self._stopped = Failure(LATE, why, request.id)
            self.deadline = None
            self.throw(Cancelled(why))

    def run(self, job: Job | None) -> None:
        """Do one job after another; ends when enough others are idle.

        Switching to the hub hands it what a turn has left for it to see to.
        """
        hub, give_to = self._hub, greenlet.switch
        while True:
            left: Arrival | None = None
            try:
                if job is None:
                    pass
                elif type(job) is Work:
                    self.work = job
                    self._quickly(job) if job.quick else self._carefully(job)
                else:
                    left = self._turn(job)
            except BaseException:  # ours to mend, or of a log handler: not the handler's
                assert isinstance(job, Work)  # in a turn each connection fails by itself
                self._failed(job.peer)
            self.work = self.request = None
            if self.detached:
                self.detached = False
                if not self._runners.keep(self):
                    return
            job = None  # an idle runner holds on to nothing
            try:
                job = give_to(hub, left)
            except GreenletExit:  # nobody needs this runner any more
                self._runners.forget(self)
                return
            except BaseException as exc:
                # A gevent.Timeout or a kill() that some handler left behind went off too late.
                spawn(log.warning, "a handler left a %s behind", type(exc).__name__)

    def _turn(self, turn: Turn) -> Arrival | None:
        """Serve what has come, as long as nothing needs a closer look.

        Returns:
            What does, for the hub to see to; it then comes back with the rest. None at the end,
            when the slice has ended, or when the hub went on without this runner.
        """
        runners, arrived = self._runners, turn.arrived
        read_one = runners.table.read_one
        for arrival in turn.arrivals:
            connection, data = arrival
            now = monotonic()
            try:
                if (
                    connection.ordered is not None
                    or connection.leaving
                    or connection.buffer.begun
                    or not runners.quick
                    or (connection.in_flight and runners.full(connection))
                ):
                    return arrival
                request = read_one(data)
                if request is not None:
                    self._alone(connection, request, Batch(connection, data, arrived), now)
                else:
                    work = connection.batch(data, arrived)
                    if work is None:
                        return arrival
                    self._together(connection, work)
                    connection.pace(monotonic() - now)
            except BaseException:  # ours to mend; this connection is lost, the others go on
                self._failed(connection)
            if self.detached or now >= turn.until:
                return None
        return None

    def _alone(
        self, connection: Connection, request: Request[Any], batch: Batch, now: float
    ) -> None:
        """Answer a request that came alone."""
        connection.handled += 1
        request._batch = batch
        self.request = request
        timeout = request.timeout
        if timeout is not None and now >= batch.arrived + timeout / 1000:
            reply: Success | Failure = late(request.id)
        else:
            reply = self._reply_of(request)
            if self.detached:
                self._late_reply(request, reply)
                return
        sent = 0 if request.oneway else connection.outlet.say(reply, request)
        if self.detached:  # the result has code of its own, which waited
            self._end(connection, request)
        self.request = None
        access = self._runners.access
        if access is not None:
            access.note(request, reply, batch.arrived, len(batch.data), sent)

    def _reply_of(self, request: Request[Any]) -> Success | Failure:
        """Run a request's handler; its result or its failure, as what is answered."""
        try:
            return Success(request._run(), request.id)
        except BaseException as exc:  # a handler may raise anything
            return self._failure(request, exc)
        finally:
            if self.gr_context is not None:  # no context leaks into the next request
                self.gr_context = None

    def _together(self, connection: Connection, work: Work) -> None:
        """Answer requests that came together."""
        self.work = work
        self._quickly(work)
        if not self.detached:
            connection.outlet.say_all(work)
            self.work = None

    # One function, with what `_reply_of` does in it: here a frame more per request can be measured.
    def _quickly(self, work: Work) -> None:
        add, arrived, access = work.replies.append, work.arrived, self._runners.access
        sizes = iter(()) if access is None else work.sizes()
        for request in work.pending:
            request._batch = work
            timeout = request.timeout
            if timeout is not None and monotonic() >= arrived + timeout / 1000:
                reply: Success | Failure = late(request.id)
            else:
                try:
                    reply = Success(request._run(), request.id)
                except BaseException as exc:  # a handler may raise anything
                    reply = self._failure(request, exc)
                if self.gr_context is not None:  # no context leaks into the next request
                    self.gr_context = None
                if self.detached:
                    self._late_reply(request, reply)
                    return
            if request.oneway:
                line = b""
            else:
                try:  # now: a handler may go on to change what it returned
                    line = encode(reply)
                except BaseException:  # the result may hold objects whose code raises anything
                    line = work.peer.outlet.encode_anyhow(reply, request)
                if self.detached:  # the result has code of its own, which waited
                    self._late_reply(request, reply)
                    return
                add(line)
            if access is not None:
                access.note(request, reply, arrived, next(sizes), len(line) + bool(line))

    def _late_reply(self, request: Request[Any], reply: Success | Failure) -> None:
        """Answer a request whose handler blocked before it returned."""
        connection: Connection = request._batch.peer
        self._answer(connection, request, reply, request._batch.arrived)
        self._end(connection, request)

    def _carefully(self, work: Work) -> None:
        connection = work.peer
        for item in work.pending:
            if isinstance(item, Request):
                item._batch = work
            if connection.leaving:
                connection.turn_away(item)
                continue
            if item.id is None and connection.ordered is not None and not overtakes(item):
                if isinstance(item, Request):
                    item._batch = work.narrowed(item)
                connection.ordered.append(_refused_for_waiting(connection, item) or item)
                continue
            self._one(connection, item)
            if self.detached:
                self._end(connection, item)
                return

    def _one(self, connection: Connection, item: Item) -> None:
        """Answer one item, running its handler if it may run."""
        if isinstance(item, Rejection):
            connection.reject(item)
            return
        started = monotonic()
        reply: Success | Failure | None = self._refusal(connection, item, started)
        if reply is None:
            self.request = item
            reply = self._reply_of(item)
        self._answer(connection, item, reply, started)

    def _answer(
        self,
        connection: Connection,
        request: Request[Any],
        reply: Success | Failure,
        started: float,
    ) -> None:
        self.returned = True
        connection.answer(request, reply, started)
        self.returned = False

    def _refusal(self, connection: Connection, request: Request[Any], now: float) -> Failure | None:
        when = request.deadline
        if when is not None and now >= when:
            return late(request.id)
        own = request.cmdid == OWN_CMDID  # never waits, and a cancellation makes room
        if not own and not self.detached and self._runners.full(connection):
            return overloaded(request.id)
        return None

    def _failure(self, request: Request[Any], exc: BaseException) -> Failure:
        if self._stopped is not None and isinstance(exc, Cancelled):
            return self._stopped
        if isinstance(exc, CallTimeout) and _is_over(request):
            # A call made by the handler noticed the deadline that both have first.
            return Failure(LATE, "the deadline passed", request.id)
        self.returned = True  # it is logged, and a log handler may wait
        reply = failure(request, exc)
        self.returned = False
        return reply

    def _failed(self, connection: Connection) -> None:
        """Something broke between two handlers: give up the connection, not the process."""
        self.work = None
        self.returned = False
        self.gr_context = None
        self._runners.left(self, connection)
        connection.close()
        report(connection.address)

    def _end(self, connection: Connection, item: Item) -> None:
        """The request that blocked is answered: take the ones that waited for it."""
        self._took(connection, item)
        self._runners.left(self, connection)
        while item.id is None and connection.ordered:
            if connection.outlet.stalled is not None:
                connection.outlet.wait_until_taken()
                continue
            following = connection.ordered.popleft()
            if isinstance(following, Request):
                self._runners.entered(self, connection, following)
                self._one(connection, following)
                self._took(connection, following)
                self._runners.left(self, connection)
            else:
                self._one(connection, following)
        if item.id is None:
            connection.ordered = None
        connection.one_less()

    def _took(self, connection: Connection, item: Item) -> None:
        """Note how long a request without an id had its turn: a moving average."""
        if item.id is None:
            seconds = monotonic() - self.began
            connection.turn_seconds += 0.3 * (seconds - connection.turn_seconds)


def report(address: str) -> None:
    """Log the exception being handled; in a greenlet of its own, since a log handler may wait."""
    message = "%s: closing after an error in gtcp itself"
    spawn(log.error, message, address, exc_info=sys.exc_info())


def _is_over(request: Request[Any]) -> bool:
    when = request.deadline
    return when is not None and monotonic() >= when - CLOSE


def late(request_id: int | str | None) -> Failure:
    """The answer to a request whose deadline passed before its handler could start."""
    return Failure(LATE, "the deadline passed before the call", request_id, {"executed": "no"})


def _refused_for_waiting(connection: Connection, item: Item) -> Rejection | None:
    """The refusal of a request whose deadline will pass before its turn, by what others took."""
    if not isinstance(item, Request) or item.timeout is None or connection.ordered is None:
        return None
    wait = connection.turn_seconds * (len(connection.ordered) + 1)
    if wait * 1000 < item.timeout:
        return None
    reply = in_vain(item.id, wait)
    return Rejection(reply.code, reply.message, item, reply.data, len(item.raw_body) + 1)


def in_vain(request_id: int | str | None, wait: float) -> Failure:
    """The answer to a request whose deadline would pass before its turn, in so many seconds."""
    message = "its deadline would pass before its turn"
    return Failure(OVERLOADED, message, request_id, {"retry_after": round(wait, 3)})


def overloaded(request_id: int | str | None) -> Failure:
    """The answer to a request that would be one too many."""
    return Failure(OVERLOADED, "too many calls in flight", request_id, {"retry_after": RETRY_AFTER})


class Runners:
    """The runners of a server, and its calls in flight.

    Args:
        max_in_flight: calls in flight in all, None for no limit.
        max_per_connection: calls in flight of one connection, None for no limit.
        access: where requests are noted, if they are.

    Attributes:
        in_flight: the runners whose handler has blocked.
        quick: whether requests may run without a closer look, as far as all connections go.
        table: the commands.
        backlog: what has been read and waits for its turn.
        ready: the connections that are read from.
    """

    def __init__(
        self,
        table: Table,
        max_in_flight: int | None,
        max_per_connection: int | None,
        *,
        access: AccessLog | None = None,
    ) -> None:
        self._max = inf if max_in_flight is None else max_in_flight
        self._max_per_connection = inf if max_per_connection is None else max_per_connection
        self._idle: list[Runner] = []
        self._closed = False
        self._alarm = Alarm(self._expire)
        self.in_flight: set[Runner] = set()
        self.access = access
        self._count()
        self.table = table
        self.backlog = Backlog()
        self.ready = make_ready(self.serve, self.backlog)

    def full(self, connection: Connection) -> bool:
        """Whether another call of this connection would be one too many.

        On its connection a call does not count any more once it is to be stopped: its caller
        may use its place. In the process it counts until it has cleaned up.
        """
        if len(self.in_flight) >= self._max:
            return True
        limit = self._max_per_connection
        if len(connection.in_flight) < limit:
            return False
        now = monotonic()
        return sum(not runner.is_to_end(now) for runner in connection.in_flight) >= limit

    def serve(self, turn: Turn) -> None:
        """Serve what has come: returns when every handler has returned or blocked.

        Or when the turn's slice has ended: then something may be left. In the hub only, as
        ``run_batch``.
        """
        while True:
            runner = self._idle.pop() if self._idle else Runner(self)
            left: Any = runner.switch(turn)  # Arrival or None
            work, request = runner.work, runner.request
            while work is None and request is None and left == ():
                # A Struct's __post_init__ waits: here it may as little as in the hub.
                left = runner.throw(BlockingSwitchOutError("params can't wait"))
                work, request = runner.work, runner.request
            if work is not None:
                self._blocked(runner, work)
                self.run_batch(work)
                work.peer.outlet.say_all(work)
                work.peer.read_on_or_not()
            elif request is not None:
                self._detach(runner, request._batch.peer, request)
            else:
                self._idle.append(runner)
                if left is None:
                    return
                connection, data = left
                connection.take(data, turn.arrived)
            if monotonic() >= turn.until:
                return

    def run_batch(self, work: Work) -> None:
        """Run a batch: returns when every handler has returned or blocked."""
        while True:
            runner = self._idle.pop() if self._idle else Runner(self)
            runner.switch(work)
            if runner.work is None:
                self._idle.append(runner)
                return
            self._blocked(runner, work)

    def _blocked(self, runner: Runner, work: Work) -> None:
        """A handler of a batch has blocked: the rest goes to the next runner, carefully."""
        request = runner.request or work.current()
        work.peer.outlet.collect(work)
        request._batch = work.narrowed(request)
        work.quick = False
        self._detach(runner, work.peer, request)

    def _detach(self, runner: Runner, connection: Connection, request: Request[Any]) -> None:
        """Its handler has blocked: the hub goes on without this runner."""
        runner.detached = True
        if request.id is None:
            connection.ordered = deque()
        self.entered(runner, connection, request)

    def entered(self, runner: Runner, connection: Connection, request: Request[Any]) -> None:
        """A call is in flight from here on: it can be cancelled and its deadline counts."""
        runner.request = request
        runner.began = monotonic()
        runner._stopped = None
        runner.ending = False
        runner.deadline = None if request._command.run_to_end else request.deadline
        self.in_flight.add(runner)
        self._count()
        connection.in_flight.add(runner)
        if runner.deadline is not None:
            self._alarm.by(runner.deadline)

    def left(self, runner: Runner, connection: Connection) -> None:
        """A call is in flight no longer."""
        runner.request = runner._stopped = None
        self.in_flight.discard(runner)
        self._count()
        connection.in_flight.discard(runner)

    def _count(self) -> None:
        self.quick = len(self.in_flight) < self._max

    def keep(self, runner: Runner) -> bool:
        """Take back a runner that went its own way; False when it is not needed any more."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            return False
        self._idle.append(runner)
        return True

    def forget(self, runner: Runner) -> None:
        """An idle runner has been ended."""
        if runner in self._idle:
            self._idle.remove(runner)

    def stop_all(self) -> None:
        """Cancel everything in flight, also what was declared to run to its end."""
        for runner in self.in_flight:
            get_hub().loop.run_callback(runner.stop, runner.request, "the server stops")

    def close(self) -> None:
        """End the idle runners; one whose handler is still in flight ends after it."""
        self._alarm.stop()
        self.ready.close()
        self.backlog.close()
        self._closed = True
        idle, self._idle = self._idle, []
        for runner in idle:
            # By itself it would never end: its own stack, which nobody looks into, refers to it.
            get_hub().loop.run_callback(runner.throw, GreenletExit)

    def abandon(self) -> None:
        """In a forked child: run nothing more."""
        self._alarm.stop()
        self.ready.abandon()
        self.backlog.close()

    def _expire(self, now: float) -> float | None:
        following = None
        for runner in list(self.in_flight):
            if runner.deadline is not None and runner.deadline <= now:
                runner.stop(runner.request, "the deadline passed")
            else:
                following = earliest(following, runner.deadline)
        return following
