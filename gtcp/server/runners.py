"""The runners of a server: which are idle, which are in flight, and who runs what."""

from __future__ import annotations

from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit, get_hub
from gevent.exceptions import BlockingSwitchOutError

from gtcp.deadline import Alarm, earliest
from gtcp.protocol import Request
from gtcp.server.accesslog import AccessLog
from gtcp.server.backlog import Backlog
from gtcp.server.ready import Turn, make_ready
from gtcp.server.runner import Runner
from gtcp.server.table import Table
from gtcp.server.work import Work

if TYPE_CHECKING:
    from gtcp.server.connection import Connection

#: Idle runners kept for the next handlers that block; more are let go.
MAX_IDLE = 100


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
                    break
                connection, data = left
                if len(data) > connection.inlet.piece:
                    turn.large.append(left)
                else:
                    connection.take(data, turn.arrived)
            if monotonic() >= turn.until:
                return
        while turn.large and monotonic() < turn.until:
            connection, data = turn.large.pop(0)
            connection.take(data, turn.arrived)

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
