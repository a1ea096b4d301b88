"""The deadline of the running code: that of its request, or an earlier one of a block.

A deadline is a point on the monotonic clock, in seconds; None means there is none. On the
wire it is a duration, since two machines share no clock.

The running request's deadline is not put into a context variable for every request: that
would cost a fast handler a tenth of its time. It is looked up on the greenlet that runs the
handler (a ``Carrier``) when somebody asks. ``with deadline(...)``, ``shield`` and ``spawn`` do use
the context, so what they say goes where the context goes.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import Any, TypeVar

import gevent
from gevent import get_hub
from greenlet import getcurrent

from gtcp.arguments import LONGEST_SECONDS, check_number, wrong_value
from gtcp.errors import CallTimeout

R = TypeVar("R")

#: How close together two looks at the waiting calls may be, seconds: it bounds the cost of
#: many different deadlines at once, and by as much a deadline may be noticed late.
RESOLUTION = 0.005

#: What ``deadline`` expects.
DURATION = f"a number up to {LONGEST_SECONDS:g}"


class Carrier:
    """A greenlet that runs requests; calls made in it inherit the running one's deadline.

    Attributes:
        request: the one whose handler it runs, or None.
        shields: how many ``shield`` blocks of the greenlet are open.
        deferred: what will be raised at the end of the outermost of them, or None.
    """

    __slots__ = ()

    request: Any
    shields: int
    deferred: BaseException | None

    def running_deadline(self) -> float | None:
        """The deadline of the request that runs in this greenlet, if it has one."""
        raise NotImplementedError

    def uncancelled(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function, for which the running request is not cancelled and has no deadline."""
        raise NotImplementedError


class Block:
    """A block of code that replaces the deadline for the calls inside.

    Attributes:
        deadline: what calls inherit, monotonic seconds; None for no deadline.
        outer: the block around it, or None.
        request: the request that greenlets of ``spawn`` inherit; None if the greenlet has its own.
        greenlet: the greenlet that is stopped when its time has passed; None if there is none, or
            when the block has ended.
        shields: how many ``shield`` blocks are open inside, in that greenlet.
        deferred: what will be raised at the end of the outermost of them, or None.
    """

    __slots__ = ("deadline", "deferred", "greenlet", "outer", "request", "shields")

    def __init__(self, deadline: float | None, outer: Block | None, greenlet: Any = None) -> None:
        self.deadline, self.outer, self.greenlet = deadline, outer, greenlet
        self.request: Any = None if outer is None else outer.request
        self.shields = 0
        self.deferred: BaseException | None = None


block: contextvars.ContextVar[Block | None] = contextvars.ContextVar("gtcp_block", default=None)


def interrupt(stopped: Block | Carrier, greenlet: Any, exc: BaseException) -> None:
    """Raise this where the greenlet waits, or at the end of its shields; called in the hub."""
    if stopped.shields:
        stopped.deferred = exc
    else:
        greenlet.throw(exc)


def current() -> float | None:
    """The deadline that a call made here inherits, in monotonic seconds; None for none."""
    innermost = block.get()
    if innermost is not None:
        return innermost.deadline
    running = getcurrent()
    return running.running_deadline() if isinstance(running, Carrier) else None


def current_request() -> Any:
    """The request whose handler runs here, or has started this greenlet by ``spawn``; or None."""
    running = getcurrent()
    if isinstance(running, Carrier) and running.request is not None:
        return running.request
    innermost = block.get()
    return None if innermost is None else innermost.request


def remaining() -> float | None:
    """Seconds until the current deadline, never below 0; None when there is none."""
    when = current()
    return None if when is None else max(0.0, when - monotonic())


def earliest(*deadlines: float | None) -> float | None:
    """The first of these to pass; None when none is set."""
    return min((when for when in deadlines if when is not None), default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit the time of a ``with`` block; calls inside inherit the deadline.

    A block that waits past its deadline is stopped; within a ``shield`` that was entered inside the
    block, it is stopped when the shield ends. Inside a handler, the remaining time of the request
    is the upper limit.

    Args:
        seconds: the limit; 0 or less for a deadline that has passed already.

    Raises:
        TypeError, ValueError: ``seconds`` is not a duration; the block is not entered.
        CallTimeout: the time passed while the block waited; ``executed`` is ``"maybe"``.
    """
    check_number("seconds", seconds, DURATION)
    if seconds > LONGEST_SECONDS:
        wrong_value("seconds", DURATION, seconds)
    here, outer = getcurrent(), block.get()
    own = Block(earliest(current(), monotonic() + seconds), outer, here)
    passed = gevent.Timeout()  # not started: an exception that no ``except Exception`` catches
    timer: Any = get_hub().loop.timer(max(0.0, seconds))
    try:
        try:
            block.set(own)
            timer.start(interrupt, own, here, passed, update=True)
            yield
        finally:
            _end(own, timer)
    except gevent.Timeout as fired:
        if fired is not passed:
            raise
        raise CallTimeout(f"the deadline of {seconds:g} s passed", executed="maybe") from None
    except BaseException:
        # Once more: a signal handler may have raised just before the first time.
        _end(own, timer)
        raise


def _end(own: Block, timer: Any) -> None:
    timer.stop()
    timer.close()
    own.greenlet = None
    block.set(own.outer)


def spawn(function: Callable[..., R], *args: Any, **kwargs: Any) -> gevent.Greenlet[..., R]:
    """Start a greenlet that inherits the context and the deadline of the current one.

    What it logs names the request of the handler that has started it.

    The child is not cancelled with its parent's request, and a ``shield`` of the parent does not
    cover it.

    Args:
        function: run in the greenlet.
        *args: its positional arguments.
        **kwargs: its keyword arguments.

    Returns:
        gevent.Greenlet: already scheduled; ``get()`` returns the result of the function.
    """
    inherited = Block(current(), None)
    inherited.request = current_request()
    context = contextvars.copy_context()
    context.run(block.set, inherited)
    return gevent.spawn(context.run, function, *args, **kwargs)


class Alarm:
    """One timer for the earliest of many deadlines.

    A ``gevent.Timeout`` per call costs more than the rest of the call. Calls that end in
    time need not be told here: the alarm goes off, finds nothing due and sets itself anew.

    Args:
        expire: called in the hub with the time; ends what is due and returns the next
            deadline, or None. It must not block.
        ref: whether the event loop counts it as something to go on for.

    Attributes:
        at: when it goes off, monotonic seconds; infinity when it does not.
        through: calls what the event loop would call, with it as the argument; None for
            the event loop itself.
    """

    __slots__ = ("_expire", "_ref", "_timer", "at", "through")

    def __init__(self, expire: Callable[[float], float | None], ref: bool = True) -> None:
        self._expire = expire
        self._ref = ref
        self._timer: Any = None
        self.at = inf
        self.through: Callable[[Callable[[], None]], object] | None = None

    def by(self, when: float) -> None:
        """Go off when this deadline passes, or earlier."""
        if when < self.at:
            self._set(when, monotonic())

    def stop(self) -> None:
        """Never go off again."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self.at = inf

    def _set(self, when: float, now: float) -> None:
        self.stop()
        self.at = when
        self._timer = get_hub().loop.timer(max(0.0, when - now), ref=self._ref)
        # The loop's own idea of the time may be old: without `update` a timer set after a
        # long computation would go off early by as much.
        if self.through is None:
            self._timer.start(self._ring, update=True)
        else:
            self._timer.start(self.through, self._ring, update=True)

    def _ring(self) -> None:
        self.at = inf
        now = monotonic()
        following = self._expire(now)
        if following is not None and following < self.at:
            self._set(max(following, now + RESOLUTION), now)
