"""Busy polling: how the only call of a thread waits for its reply without the event loop.

Where nothing else waits in the event loop, no other greenlet is kept waiting, and two switches and
an event loop iteration are saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from select import POLLIN
from time import monotonic
from typing import Any

from gtcp.deadline import RESOLUTION
from gtcp.transport.sockets import new_poller

#: Busy polls in a row that may miss before some calls sleep at once: the first reply of a server
#: that slept too takes longer than those that follow.
MAX_MISSES = 4

#: Calls that sleep at once, at most, after repeated misses.
MAX_SKIPPED = 256

#: Seconds that a call may wait outside the hub, and that calls may go on doing so one after
#: another, before the event loop runs: events that do not show in its count (a signal, a callback
#: from another thread, a timer with ``ref=False``) are late by at most twice as much.
OUTSIDE_HUB_SECONDS = RESOLUTION

#: Threads that may poll busily at the same time.
MAX_POLLING_THREADS = 2

#: Lets other threads use the processor; None where the system has no such call.
yield_processor: Callable[[], None] | None = getattr(os, "sched_yield", None)


def is_only_watcher(loop: Any, watchers: int) -> bool:
    """Return whether the read watchers of the caller are all that is active in the event loop.

    Args:
        watchers: how many these are.

    gevent does not document these: libev counts what is active or scheduled, except for what
    was told not to count, and what is due and not yet called. With libuv the count is always 0.
    """
    return getattr(loop, "activecnt", None) == watchers and not loop.pendingcnt


class BusyPoll:
    """Waits until a descriptor is readable: polls for a moment, then sleeps in ``poll``.

    Waking a thread costs the system some tens of microseconds, often more than the reply takes. A
    thread that polls gets it at once. Between polls it yields the processor, which the server may
    need. After ``MAX_MISSES`` misses in a row the next call sleeps at once; after as many again
    the next two, then four, up to ``MAX_SKIPPED``: with a slow server the cost is close to
    nothing. If several threads wait at the same time they do not poll: they would take the
    interpreter from each other.

    Args:
        fd: the descriptor.
        seconds: how long to poll, at most; 0 for never.
    """

    __slots__ = ("_misses_left", "_next_skipped", "_poll", "_seconds", "_skip")

    def __init__(self, fd: int, seconds: float) -> None:
        poller = new_poller()
        poller.register(fd, POLLIN)
        self._poll: Callable[[float], list[tuple[int, int]]] = poller.poll
        self._seconds = seconds
        self._misses_left = MAX_MISSES
        self._skip = 0  # calls that are still to sleep at once
        self._next_skipped = 1  # how many will, after the next row of misses

    def wait(self, seconds: float) -> bool:
        """Wait at most so many seconds; return whether the descriptor is readable, or at its end.

        Return False at once if it is already being polled: a call made by a signal handler.
        """
        if self in _waiting:
            return False
        until = monotonic() + seconds
        try:
            _waiting.add(self)
            if self._skip:
                self._skip -= 1
            elif (
                self._seconds and len(_waiting) <= MAX_POLLING_THREADS and self._poll_busily(until)
            ):
                return True
            return bool(self._poll(max(0.0, until - monotonic()) * 1000))
        finally:
            _waiting.discard(self)

    def _poll_busily(self, until: float) -> bool:
        if yield_processor is None:
            return False
        until = min(until, monotonic() + self._seconds)
        poll = self._poll
        while not poll(0):
            if monotonic() >= until:
                self._on_miss()
                return False
            yield_processor()
        self._misses_left, self._next_skipped = MAX_MISSES, 1
        return True

    def _on_miss(self) -> None:
        self._misses_left -= 1
        if not self._misses_left:
            self._misses_left, self._skip = MAX_MISSES, self._next_skipped
            self._next_skipped = min(2 * self._next_skipped, MAX_SKIPPED)


# Mutable, at module level: the threads of a process know nothing else of each other.
_waiting: set[BusyPoll] = set()
os.register_at_fork(after_in_child=_waiting.clear)  # the child has one thread
