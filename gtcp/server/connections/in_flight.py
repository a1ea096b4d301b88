"""Requests in flight: those whose handler has blocked.

A handler that never waits can be neither cancelled nor stopped by its deadline, so a request is
registered here only when its handler blocks. One alarm watches all deadlines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from math import inf
from time import monotonic
from typing import Any, NoReturn, Protocol, TypeVar

from gevent import Greenlet, get_hub

from gtcp.deadline import Alarm, Carrier, earliest, interrupt
from gtcp.errors import CallTimeout, Cancelled
from gtcp.protocol.messages import DEADLINE_EXCEEDED, OWN_CMDID, Failure
from gtcp.server.commands.outcome import failure
from gtcp.server.commands.table import Item, Rejection, runs_to_end
from gtcp.server.connections.overload import over_limit
from gtcp.server.ops.background_log import log_left_behind
from gtcp.server.process import forks

R = TypeVar("R")

#: Seconds that the deadline of a nested call may be earlier, since it travels in milliseconds.
CLOSE_SECONDS = 0.002


class Streaming(Protocol):
    """The part of a stream that its greenlet uses."""

    def wake(self) -> None:
        """Have the handler go on, if it has to wait no longer."""


class ServingGreenlet(Greenlet, Carrier):  # type: ignore[type-arg]
    """A greenlet that serves a connection: its owner, or a follower.

    Attributes:
        request: the request whose handler it runs, or None.
        returned: whether that handler has returned or raised: what follows (``after_request``
            functions, log lines) may wait too, but is not cancelled.
        deadline: when the request in flight is cancelled, monotonic seconds, or None.
        stopping: whether it was decided to cancel the request in flight.
        stopped: the reply of a request that was cancelled.
        forked: whether this is a forked child, which may not answer.
        stream: the stream whose handler it runs, or None.
        shields, deferred: of the running handler; see ``Carrier``.
    """

    # Set for each request: a greenlet's __dict__ would be slower.
    __slots__ = (
        "deadline", "deferred", "forked", "request", "returned", "shields", "stopped", "stopping",
        "stream",
    )  # fmt: skip

    spawning_stack_limit = 0  # nobody looks at where the listener spawned it

    def __init__(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(run, *args, **kwargs)
        self.request: Item | None = None
        self.returned = self.stopping = self.forked = False
        self.deadline: float | None = None
        self.stopped: Failure | None = None
        self.stream: Streaming | None = None
        self.shields = 0
        self.deferred: BaseException | None = None

    def running_deadline(self) -> float | None:
        """Return the deadline that calls made by the running handler inherit."""
        request = self.request
        if request is None or self.returned or runs_to_end(request):
            return None
        return request.deadline

    def uncancelled(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function that is not cancelled, and whose calls inherit no deadline."""
        self.returned = True
        try:
            return function(*args)
        finally:
            self.returned = False

    def failure_of(self, item: Item, exc: BaseException) -> Failure:
        """Return the reply for an exception of the handler that this greenlet runs."""
        if self.forked:
            self.end_child(item, exc)
        if self.stopped is not None and isinstance(exc, Cancelled):
            return self.stopped
        if item.deadline is not None and isinstance(exc, CallTimeout):
            # A call made by the handler, or its server, has noticed first that their common
            # deadline passed. A busy server counts from when the request may have arrived.
            common = exc._deadline == item.deadline
            if common or monotonic() >= item.deadline - CLOSE_SECONDS:
                return Failure(DEADLINE_EXCEEDED, "the deadline passed", item.id)
        return self.log_failure(failure, item, exc)

    def end_child(self, item: Item, exc: BaseException | None = None) -> NoReturn:
        """End the forked child, whose handler has returned or raised: the parent answers."""
        if isinstance(exc, SystemExit):
            forks.exit_as(exc)
        how = "returned" if exc is None else "raised"
        forks.end(
            "forked child %d: the handler of cmdid %s %s in it: ending it, the parent answers",
            os.getpid(),
            item.cmdid,
            how,
            exc=exc,
        )

    def log_failure(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function that logs a failure. A log handler may wait, and is not cancelled.

        The function is called again if a Timeout or kill that a handler left behind ends the wait.
        """
        try:
            return self.uncancelled(function, *args)
        except Exception:
            raise
        except BaseException as exc:
            log_left_behind(exc)
            return self.uncancelled(function, *args)

    def is_ending(self, now: float) -> bool:
        """Return whether the request in flight is cancelled, or is about to be."""
        expired = self.deadline is not None and self.deadline <= now
        return expired or self.stopping or self.stopped is not None

    def stop_soon(self, why: str, reply: Failure | None = None) -> None:
        """Cancel the request in flight from a callback of the loop, unless it ends before.

        Not immediately: the caller may run in a greenlet that must not be left.

        Args:
            reply: what its caller receives; by default 408, and why.
        """
        self.stopping = True
        get_hub().loop.run_callback(self._stop, self.request, why, reply)

    def _stop(self, request: Item | None, why: str, reply: Failure | None = None) -> None:
        """Raise ``Cancelled`` where the handler of this request waits; called in the hub.

        In a ``gtcp.shield`` it is raised when the shield ends; a stream does not wait there.
        """
        if request is None or request is not self.request or self.returned:
            return
        if self.stopped is None:
            self.stopped = reply or Failure(DEADLINE_EXCEEDED, why, request.id)
            self.deadline = None
            interrupt(self, self, Cancelled(why))
            if self.deferred is not None and self.stream is not None:
                self.stream.wake()


class InFlight(Collection[ServingGreenlet]):
    """The requests in flight of one server. Belongs to its hub.

    Args:
        limit: how many there may be; None for no limit.
        limit_per_connection: how many one connection may have; None for no limit.

    Attributes:
        saturated: whether the server's limit is reached.
        room: how many more the server's limit allows.
    """

    def __init__(self, limit: int | None, limit_per_connection: int | None) -> None:
        self._limit = inf if limit is None else limit
        self._limit_per_connection = inf if limit_per_connection is None else limit_per_connection
        self._greenlets: set[ServingGreenlet] = set()
        self._alarm = Alarm(self._expire)
        self._stopped = False
        self.saturated = False
        self.room = self._limit

    def __contains__(self, greenlet: object) -> bool:
        return greenlet in self._greenlets

    def __iter__(self) -> Any:
        return iter(list(self._greenlets))

    def __len__(self) -> int:
        return len(self._greenlets)

    def add(self, greenlet: ServingGreenlet) -> None:
        """Register the request of a greenlet whose handler has blocked."""
        request = greenlet.request
        assert request is not None
        greenlet.stopped, greenlet.stopping = None, False
        greenlet.deadline = None if runs_to_end(request) else request.deadline
        self._greenlets.add(greenlet)
        self._count()
        if greenlet.deadline is not None:
            self._alarm.by(greenlet.deadline)
        if self._stopped:
            greenlet.stop_soon("the server stops")

    def move_deadline(self, greenlet: ServingGreenlet) -> None:
        """Watch another deadline of a request, if it is in flight and not cancelled."""
        request = greenlet.request
        if greenlet not in self._greenlets or request is None or greenlet.stopped is not None:
            return
        greenlet.deadline = request.deadline
        if greenlet.deadline is not None:
            self._alarm.by(greenlet.deadline)

    def remove(self, greenlet: ServingGreenlet) -> None:
        """Forget a request that is answered."""
        greenlet.stopped, greenlet.stopping, greenlet.deadline = None, False, None
        self._greenlets.discard(greenlet)
        self._count()

    def _count(self) -> None:
        self.room = self._limit - len(self._greenlets)
        self.saturated = self.room <= 0

    def full(self, of_connection: Collection[ServingGreenlet]) -> bool:
        """Return whether another request of a connection would exceed a limit.

        A request that is about to end does not count for its connection, whose client may use
        its place. For the server it counts until its handler has cleaned up.

        Args:
            of_connection: the connection's requests in flight.
        """
        if self.saturated:
            return True
        if len(of_connection) < self._limit_per_connection:
            return False
        now = monotonic()
        running = sum(not greenlet.is_ending(now) for greenlet in of_connection)
        return running >= self._limit_per_connection

    def refusal_of(self, item: Item, of_connection: Collection[ServingGreenlet]) -> Failure | None:
        """Return the refusal of a request that would exceed a limit; None if it would not."""
        if not (of_connection or self.saturated) or not self.full(of_connection):
            return None
        own = isinstance(item, Rejection) or item.cmdid == OWN_CMDID
        return None if own else over_limit(item.id)

    def stop_all(self) -> None:
        """Cancel all requests, those declared ``run_to_end`` too, and those that block later."""
        self._stopped = True
        for greenlet in self._greenlets:
            greenlet.stop_soon("the server stops")

    def close(self) -> None:
        """Watch no deadlines any more."""
        self._alarm.stop()

    def _expire(self, now: float) -> float | None:
        following = None
        for greenlet in list(self._greenlets):
            if greenlet.deadline is not None and greenlet.deadline <= now:
                greenlet._stop(greenlet.request, "the deadline passed")
            else:
                following = earliest(following, greenlet.deadline)
        return following
