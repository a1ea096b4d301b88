"""Scheduling on the event loop of one server: blocked handlers, time slices, arrival times.

Handlers run inline in the greenlet of their connection. Two things need a view of the whole loop:

- **Blocked handlers.** A connection that runs handlers is in the list ``serving``. A handler that
  blocks switches to the hub, so when the hub looks at the list, each connection whose handlers have
  not returned is blocked, and another greenlet has to read and serve it meanwhile. The hub looks
  before each poll, from a ``prepare`` watcher of the lowest priority. No application code runs in
  that watcher: gevent's own callbacks have run by then, and what a handler would schedule would
  wait for the next event.

- **CPU-bound handlers.** A connection with requests that can't run now joins the run queue, and so
  does a stream whose slice is over. A zero timer serves them in rotation, each for a slice (2 ms),
  for about 5 ms in each iteration of the loop; timers, signals and other connections are served in
  between. Quick handlers are never queued, however many connections are ready: see
  ``over_budget``.

gevent's libuv loop has no ``prepare`` and ``check`` watchers and is not supported.
"""

from __future__ import annotations

from collections import Counter, deque
from time import monotonic, thread_time
from typing import Any, Protocol

from gevent import config, get_hub

#: Seconds for which one connection runs handlers before others do.
SLICE_SECONDS = 0.002

#: Seconds of one iteration of the loop in which handlers are started.
BUDGET_SECONDS = 0.005

#: Seconds that a handler takes on average, in this iteration, to count as slow.
SLOW_SECONDS = 0.00025

#: A poll that took longer than this has slept: what it found has arrived now.
SLEPT_SECONDS = 0.0005


class UnsupportedLoop(Exception):
    """gevent's loop is libuv's, which lacks the watchers that a server needs."""


def check_loop() -> None:
    """Raise UnsupportedLoop if gevent is configured to use libuv."""
    if "libuv" in config.loop.__module__:
        raise UnsupportedLoop(
            "GEVENT_LOOP: a server needs gevent's libev loop, not libuv: unset it, or set libev"
        )


class Queueable(Protocol):
    """Something that can wait in the run queue: a connection, or a stream."""

    queued: bool

    def resume(self) -> None:
        """Switch into the greenlet that runs its handler."""


class Schedulable(Queueable, Protocol):
    """The part of a connection that the scheduler uses."""

    leader: Any

    def on_blocked(self) -> None:
        """A handler of its leader has blocked."""


class Scheduler:
    """The run queue and the clock of one server. Belongs to the hub that it is created in.

    Attributes:
        serving: connections that have started handlers since the last look.
        served: requests that have run in this iteration of the loop.
        budget_ends: when this iteration has run handlers for long enough, if they are slow.
        arrived: a time not later than the arrival of what the last poll found, monotonic seconds.
        queued: how many requests of each command wait in the queued connections.

    Raises:
        UnsupportedLoop: gevent uses libuv.
    """

    def __init__(self) -> None:
        loop: Any = get_hub().loop
        self.serving: list[Schedulable] = []
        self.served = 0
        self.queued: Counter[int | None] = Counter()
        self._queue: deque[Queueable] = deque()
        self.arrived = monotonic()
        self._poll_started = self._poll_ended = self.arrived
        self.budget_ends = self.arrived + BUDGET_SECONDS
        self._poll_ended_cpu = thread_time()
        check_loop()
        self._prepare = loop.prepare(ref=False, priority=loop.MINPRI)
        self._check = loop.check(ref=False, priority=loop.MAXPRI)
        self._timer = loop.timer(0)
        self._prepare.start(self._before_poll)
        self._check.start(self._after_poll)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def awake_since(self) -> float | None:
        """When the last poll ended, monotonic seconds; None while the loop polls.

        Another thread may ask.
        """
        ended = self._poll_ended
        return None if self._poll_started > ended else ended

    def over_budget(self, now: float) -> bool:
        """Return whether requests that are ready should queue: this iteration's handlers are slow.

        The decision uses this iteration only, and processor time: so neither a busy neighbour nor a
        pause of the process changes it.
        """
        if now <= self.budget_ends:
            return False
        spent = thread_time() - self._poll_ended_cpu
        return spent > BUDGET_SECONDS and spent > SLOW_SECONDS * self.served

    def enqueue(self, item: Queueable) -> None:
        """Have it resumed after those that are queued already."""
        item.queued = True
        self._queue.append(item)
        if not self._timer.active:
            self._timer.start(self._run_queue)

    def find_blocked(self) -> None:
        """Tell the connections whose handlers have blocked; called in the hub."""
        serving = self.serving
        while serving:
            connection = serving.pop()
            if connection.leader is not None:
                connection.on_blocked()

    def close(self) -> None:
        """Stop watching the loop. What is in the queue is resumed once more, to end."""
        for watcher in (self._prepare, self._check, self._timer):
            watcher.stop()
            watcher.close()
        loop: Any = get_hub().loop
        while self._queue:
            item = self._queue.popleft()
            item.queued = False
            loop.run_callback(item.resume)

    def abandon(self) -> None:
        """Forget the connections, in a forked child: they are the parent's."""
        self._queue.clear()
        self.serving.clear()
        self.close()

    def _before_poll(self) -> None:
        if self.serving:
            self.find_blocked()
        self._poll_started = monotonic()

    def _after_poll(self) -> None:
        previous, self._poll_ended = self._poll_ended, monotonic()
        self._poll_ended_cpu = thread_time()
        self.budget_ends = self._poll_ended + BUDGET_SECONDS
        self.served = 0
        # A poll that has slept was ended by what arrived. Else it may have arrived at any time
        # since the poll before.
        slept = self._poll_ended - self._poll_started > SLEPT_SECONDS
        self.arrived = self._poll_ended if slept else previous

    def _run_queue(self) -> None:
        until = thread_time() + BUDGET_SECONDS
        try:
            while self._queue:
                item = self._queue.popleft()
                item.queued = False
                item.resume()
                self.find_blocked()
                if thread_time() >= until:
                    break
        finally:
            if self._queue and not self._timer.active:
                self._timer.start(self._run_queue)
