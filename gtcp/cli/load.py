"""A load: call one command repeatedly, and count the outcomes.

Without a rate it is a closed loop: a fixed number of greenlets call, each as soon as its previous
call has ended. With a rate it is an open loop: the start time of each call is fixed in advance, and
latency counts from that time. So a server that stalls for a second adds up to a second to the
latency of every call that was due meanwhile. A closed loop would show one slow call, and none of
the calls that it did not make (Gil Tene's "coordinated omission").
"""

from __future__ import annotations

import math
from collections import Counter
from time import monotonic
from typing import Any

import gevent
import msgspec
from gevent.pool import Pool

from gtcp.cli.histogram import Histogram
from gtcp.client.client import Client
from gtcp.errors import CallTimeout, ConnectError, ConnectionLost, GtcpError, RemoteError

#: Seconds before the start of an open loop's call in which the greenlet polls instead of sleeping:
#: a timer may be a millisecond late, which would count as latency of the server.
POLL_SECONDS = 0.002

#: Seconds that a closed loop's greenlet sleeps after a failed connection, so that it does not
#: try thousands of times a second.
NO_SERVER_PAUSE = 0.05


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The command to call, and the rate and number of calls.

    Attributes:
        concurrency: greenlets that call; in an open loop the maximum of calls in flight.
        seconds: for how long calls are started.
        rate: calls per second; None for a closed loop.
    """

    cmdid: int
    params: Any
    concurrency: int
    seconds: float
    rate: float | None


class Tally:
    """The outcomes of the calls so far.

    Attributes:
        answered: calls with a result.
        in_time: calls with a result that arrived before the end of the duration.
        errors: the number of failed calls by kind.
        examples: one message of each kind.
        abandoned: calls that were in flight when the load was stopped early; nothing else counts
            them.
        unsent: calls of an open loop that were due, but exceeded the concurrency until the end.
        latency: of all calls that the server answered, also with an error, and of those that timed
            out. A connection that failed says nothing about the server's latency.
        seconds: for how long calls were started.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.in_time = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.abandoned = 0
        self.unsent = 0
        self.latency = Histogram()
        self.seconds = 0.0

    @property
    def failed(self) -> int:
        """The number of failed calls."""
        return self.errors.total()

    @property
    def per_second(self) -> float:
        """Calls per second with a result that arrived before the end of the duration."""
        return self.in_time / self.seconds if self.seconds else 0.0

    def add_failure(self, exc: GtcpError, seconds: float) -> None:
        """Count a failed call, which took this many seconds."""
        kind, message = type(exc).__name__, str(exc)
        if isinstance(exc, RemoteError):
            kind, message = f"{kind} {exc.code}", exc.message
        self.errors[kind] += 1
        self.examples.setdefault(kind, message)
        if isinstance(exc, RemoteError | CallTimeout):
            self.latency.add(seconds)


class Load:
    """One run of a plan. Used in the hub in which it runs.

    Attributes:
        tally: the outcomes so far.
    """

    def __init__(self, client: Client, plan: Plan) -> None:
        self.tally = Tally()
        self._client = client
        self._plan = plan
        self._pool = Pool(plan.concurrency)
        self._begin = self._end = 0.0
        self._director: Any = None
        self._stopped = False

    @property
    def elapsed(self) -> float:
        """Seconds since the start, at most until the last call was started."""
        return self.tally.seconds or monotonic() - self._begin

    def run(self) -> Tally:
        """Make the calls; return when all have ended, or at ``stop``."""
        self._begin = monotonic()
        self._end = self._begin + self._plan.seconds
        self._director = gevent.spawn(self._direct)
        self._director.join()
        self.tally.seconds = min(monotonic(), self._end) - self._begin
        self._pool.join()
        return self.tally

    def stop(self) -> None:
        """Start no more calls and abandon those in flight."""
        self._stopped = True  # the director may run once more before it is killed
        self._end = min(self._end, monotonic())
        self._director.kill(block=False)
        self._pool.kill(block=False)

    def _direct(self) -> None:
        if self._plan.rate is not None:
            self._keep_rate(self._plan.rate)
            return
        for _ in range(self._plan.concurrency):
            self._pool.spawn(self._call_on)
        _wait_until(self._end)

    # Closed loop

    def _call_on(self) -> None:
        now = monotonic()
        while True:
            failure = self._call(now)
            if isinstance(failure, ConnectError | ConnectionLost):
                gevent.sleep(NO_SERVER_PAUSE)
            now = monotonic()
            if now >= self._end:
                return

    # Open loop

    def _keep_rate(self, rate: float) -> None:
        for number in range(planned := math.ceil(self._plan.seconds * rate)):
            due = self._begin + number / rate
            _wait_until(due)
            if not self._pool.wait_available(max(0.0, self._end - monotonic())):
                self.tally.unsent = planned - number
                return
            if self._stopped:
                return
            self._pool.spawn(self._call, due)
        _wait_until(self._end)

    # Both

    def _call(self, since: float) -> GtcpError | None:
        tally, plan = self.tally, self._plan
        try:
            self._client.call(plan.cmdid, plan.params)
        except GtcpError as exc:
            tally.add_failure(exc, monotonic() - since)
            return exc
        except gevent.GreenletExit:  # by ``stop``
            tally.abandoned += 1
            raise
        now = monotonic()
        tally.answered += 1
        tally.in_time += now <= self._end
        tally.latency.add(now - since)
        return None


def _wait_until(when: float) -> None:
    left = when - monotonic()
    if left > POLL_SECONDS:
        gevent.sleep(left - POLL_SECONDS)
    hub: Any = gevent.get_hub()
    while monotonic() < when:
        # Not `sleep(0)`: gevent may run such callbacks for 5 ms before it polls for replies.
        with hub.loop.timer(0) as iteration:
            hub.wait(iteration)
