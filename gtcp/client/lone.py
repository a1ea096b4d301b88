"""How the only call of a thread waits for its reply: by itself, without the event loop.

Where nothing else lives in the loop, nobody is kept waiting, and the way through the hub and back
would be for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from select import POLLIN
from time import monotonic
from typing import Any

from gtcp.deadline import RESOLUTION
from gtcp.sockets import new_poller

#: How often in a row it may be for nothing to stay awake, before some calls sleep at once: the
#: first reply of a server that has slept too takes longer than those behind it.
TRIES = 4

#: Calls that sleep at once, at most, when it was for nothing again and again.
MOST_ASLEEP = 256

#: Seconds that a call may wait outside the hub, and that calls may go on doing so one after
#: another, before the event loop gets its turn: what does not show in its count (a signal, a
#: callback from another thread, a timer that was told not to count) comes late by twice as much.
TURN = RESOLUTION

#: Threads that wait at the same time, and may be awake.
MOST_AWAKE = 2

#: Lets others run who want the same processor; None where the system has no such call.
give_way: Callable[[], None] | None = getattr(os, "sched_yield", None)


def is_alone(loop: Any) -> bool:
    """Whether the calling connection's reader is the only thing that lives in the event loop.

    gevent does not document these two: libev counts what is active or to be called back,
    but for what was told not to count, and what is active no more and not yet told so.
    With libuv the count is always 0.
    """
    return getattr(loop, "activecnt", None) == 1 and not loop.pendingcnt


class BusyPoll:
    """Waits until a descriptor can be read from: a moment awake, then asleep.

    To wake a thread takes the system some tens of microseconds, often longer than the reply
    itself. Who is awake has it at once. Each time round the processor is offered to others, who
    may be the server. Where it was for nothing ``TRIES`` times, the next call sleeps at once; the
    next time two, then four, up to ``MOST_ASLEEP``: with a server that takes its time, hardly
    anything is spent. Where several threads wait at the same time it is left out too: they
    would take the interpreter from each other.

    Args:
        fd: the descriptor.
        awake: seconds to stay awake for at most; 0 for never.
    """

    __slots__ = ("_asleep", "_awake", "_poll", "_tries", "_will_sleep")

    def __init__(self, fd: int, awake: float) -> None:
        poller = new_poller()
        poller.register(fd, POLLIN)
        self._poll: Callable[[float], list[tuple[int, int]]] = poller.poll
        self._awake = awake
        self._tries = TRIES  # how often it may still be for nothing
        self._asleep = 0  # calls that are still to sleep at once
        self._will_sleep = 1  # the next time that it was for nothing too often

    def wait(self, seconds: float) -> bool:
        """Whether it can be read from within so many seconds, or has ended.

        At once False while it is being waited for already: for a call of a signal's handler.
        """
        if self in _waiting:
            return False
        until = monotonic() + seconds
        try:
            _waiting.add(self)
            if self._asleep:
                self._asleep -= 1
            elif self._awake and len(_waiting) <= MOST_AWAKE and self._came(until):
                return True
            return bool(self._poll(max(0.0, until - monotonic()) * 1000))
        finally:
            _waiting.discard(self)

    def _came(self, until: float) -> bool:
        """Whether it can be read from within a moment."""
        if give_way is None:
            return False
        until = min(until, monotonic() + self._awake)
        poll = self._poll
        while not poll(0):
            if monotonic() >= until:
                self._was_for_nothing()
                return False
            give_way()
        self._tries, self._will_sleep = TRIES, 1
        return True

    def _was_for_nothing(self) -> None:
        self._tries -= 1
        if not self._tries:
            self._tries, self._asleep = TRIES, self._will_sleep
            self._will_sleep = min(2 * self._will_sleep, MOST_ASLEEP)


# Mutable, at module level: the threads of a process know nothing else of each other.
_waiting: set[BusyPoll] = set()
os.register_at_fork(after_in_child=_waiting.clear)  # the child has one thread
