"""Calls one command again and again, and counts what comes of it.

Without a rate it is a closed loop: so many greenlets call, each as soon as it has its answer.
With a rate it is an open one: the times of the calls are fixed beforehand, whether or not there
are answers yet, and how long a call took is counted from the time it was meant for. So a server
that stalls for a second shows as a second in the latencies of all calls that fell into it, not
as one slow call and many that were never made (Gil Tene's "coordinated omission").
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

#: Seconds before an open loop's call in which it waits actively: a timer may be a millisecond
#: late, which would be counted as the server's.
PUNCTUAL = 0.002

#: Seconds that a closed loop's greenlet waits when there is no server: not to knock in vain
#: thousands of times a second.
NO_SERVER_PAUSE = 0.05


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be called, and how often.

    Attributes:
        concurrency: greenlets that call; in an open loop the most calls in flight.
        seconds: for how long calls are begun.
        rate: calls a second, None for a closed loop.
    """

    cmdid: int
    params: Any
    concurrency: int
    seconds: float
    rate: float | None


class Tally:
    """What came of the calls so far.

    Attributes:
        answered: calls with a result.
        in_time: those of them that were answered before the end.
        errors: how many failed, by kind.
        examples: one message of each kind.
        unsent: calls of an open loop that were due, but had no place until the end.
        latency: of all calls but those whose connection failed, which says nothing of the
            server: its errors count, and those that timed out.
        seconds: how long calls were begun.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.in_time = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.unsent = 0
        self.latency = Histogram()
        self.seconds = 0.0

    @property
    def failed(self) -> int:
        """How many failed."""
        return self.errors.total()

    @property
    def per_second(self) -> float:
        """Calls with a result, a second."""
        return self.in_time / self.seconds if self.seconds else 0.0

    def add_failure(self, exc: GtcpError, seconds: float) -> None:
        """Count a call that failed."""
        kind, message = type(exc).__name__, str(exc)
        if isinstance(exc, RemoteError):
            kind, message = f"{kind} {exc.code}", exc.message
        self.errors[kind] += 1
        self.examples.setdefault(kind, message)
        if isinstance(exc, RemoteError | CallTimeout):
            self.latency.add(seconds)


class Load:
    """One run of a plan. Belongs to the hub it is run in.

    Attributes:
        tally: what came of it so far.
    """

    def __init__(self, client: Client, plan: Plan) -> None:
        self.tally = Tally()
        self._client = client
        self._plan = plan
        self._pool = Pool(plan.concurrency)
        self._begin = self._end = 0.0
        self._director: Any = None

    @property
    def elapsed(self) -> float:
        """Seconds since it began, until no more calls are begun."""
        return self.tally.seconds or monotonic() - self._begin

    def run(self) -> Tally:
        """Make the calls; returns when all are answered, or have failed, or at ``stop``."""
        self._begin = monotonic()
        self._end = self._begin + self._plan.seconds
        self._director = gevent.spawn(self._direct)
        self._director.join()
        self.tally.seconds = min(monotonic(), self._end) - self._begin
        self._pool.join()
        return self.tally

    def stop(self) -> None:
        """Begin no more calls and give up those in flight, which are not counted."""
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
        now = monotonic()
        tally.answered += 1
        tally.in_time += now <= self._end
        tally.latency.add(now - since)
        return None


def _wait_until(when: float) -> None:
    left = when - monotonic()
    if left > PUNCTUAL:
        gevent.sleep(left - PUNCTUAL)
    hub: Any = gevent.get_hub()
    while monotonic() < when:
        # Not `sleep(0)`: gevent may go on with such for 5 ms before it looks for replies.
        with hub.loop.timer(0) as a_round:
            hub.wait(a_round)
