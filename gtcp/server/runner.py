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
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit, get_hub, spawn
from greenlet import greenlet

from gtcp.deadline import Carrier
from gtcp.errors import CallTimeout, Cancelled
from gtcp.protocol import (
    LATE,
    OWN_CMDID,
    Batch,
    Failure,
    Request,
    Success,
    encode,
)
from gtcp.server.logger import SERVER
from gtcp.server.outcome import failure
from gtcp.server.ready import SLICE_SECONDS, Arrival, Turn
from gtcp.server.refusal import in_vain, late, overloaded
from gtcp.server.table import Item, Rejection, overtakes
from gtcp.server.work import Work

if TYPE_CHECKING:
    from gtcp.server.connection import Connection
    from gtcp.server.runners import Runners

log = logging.getLogger(SERVER)

#: Seconds by which the deadline of a nested call may be earlier: it travels in milliseconds.
CLOSE = 0.002


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
                    or connection.inlet.buffer.begun
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
                    if not self.detached:  # else it has waited, which says nothing
                        connection.inlet.pace(monotonic() - now)
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
        until = monotonic() + SLICE_SECONDS
        while item.id is None and connection.ordered:
            if connection.outlet.stalled is not None:
                connection.outlet.wait_until_taken()
                continue
            if monotonic() >= until:  # they compute: the loop goes round, and others have a turn
                self._let_others_run()
                until = monotonic() + SLICE_SECONDS
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

    def _let_others_run(self) -> None:
        with self._hub.loop.timer(0) as timer:  # not `sleep(0)`: gevent runs fifty in a row
            self._hub.wait(timer)

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


def _refused_for_waiting(connection: Connection, item: Item) -> Rejection | None:
    """The refusal of a request whose deadline will pass before its turn, by what others took."""
    if not isinstance(item, Request) or item.timeout is None or connection.ordered is None:
        return None
    wait = connection.turn_seconds * (len(connection.ordered) + 1)
    if wait * 1000 < item.timeout:
        return None
    reply = in_vain(item.id, wait)
    return Rejection(reply.code, reply.message, item, reply.data, len(item.raw_body) + 1)
