"""More than a server can do: what it still gets done, how it says no, and when it is over.

Requests come at their time whether or not earlier ones were answered, each with a timeout of a
second; what is answered later was done in vain. And a caller beside connections that do no harm
but by their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from math import ceil
from statistics import median

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.load import PLACE_FOR_ID, Answer, Shape, request_line
from benchmarks.parts import disturbed
from benchmarks.parts.server import hold
from benchmarks.peers import bounded, gtcp_greenlets
from benchmarks.peers.computing import turns_in
from benchmarks.processes import Child, open_files

NEEDS_LINELOAD = True

CONNECTIONS = 64
TIMES = 5
TIMEOUT = 1.0
REFUSED = 429

#: How long a call of the handler that computes takes.
SECONDS_OF_WORK = 0.002

#: By how much the rate is raised at which the most is looked for, and the goodput that says that
#: it was not all: a server may be faster than one would expect.
STEP, NOT_ALL = 1.1, 0.97
MOST_STEPS = 12

#: Calls a second of the caller that runs before, during and after the load.
CALLER = 50

#: The time after the load, at most, and the pieces in which the caller's latency is looked at.
AFTER_SECONDS, PIECE_SECONDS = 6.0, 0.25

#: Of a load's beginning, as much is not counted.
START_SECONDS = 0.3

REST, PEAK, LOADED, AFTER = "at rest", "the peak", f"{TIMES} times the peak", "after that"
LINE = request_line(id=PLACE_FOR_ID, timeout=int(TIMEOUT * 1000))


def contests(bench: Bench) -> list[Contest]:
    return [overload(bench), beside(bench), disturbed.stability(bench), disturbed.in_time(bench)]


# A load that is too much


def overload(bench: Bench) -> Contest:
    """Goodput, refusals, and a caller beside the load."""
    waits = f"a handler that waits {bounded.SECONDS * 1000:.0f} ms, {bounded.IN_FLIGHT} at once"
    computes = f"a handler that computes {SECONDS_OF_WORK * 1000:.0f} ms"
    variants = {waits: "", computes: str(turns_in(SECONDS_OF_WORK))}
    trials = {
        waits: Trial(bench, variants[waits], bounded.IN_FLIGHT / bounded.SECONDS),
        computes: Trial(bench, variants[computes], 1 / SECONDS_OF_WORK),
    }

    def measure(row: str, column: str, seconds: float) -> Figures:
        trial = trials[column]
        steps = {
            REST: trial.rest,
            PEAK: trial.find_peak,
            LOADED: partial(trial.load, seconds),
            AFTER: trial.after,
        }
        return steps[row]()

    return Contest(
        [REST, PEAK, LOADED, AFTER],
        list(trials),
        measure,
        [
            Figure("goodput", "Overload: goodput", f"calls/s done within {TIMEOUT:g} s"),
            Figure("refused", "Overload: refused with 429", "% of the calls"),
            Figure("vain", "Overload: answered too late, or with 408, or not", "% of the calls"),
            Figure("refusal", "Overload: p99 of refusals", "ms from when a call was due"),
            Figure("p50", "Overload: p50 of a caller's calls that are done", "ms"),
            Figure("p99", "Overload: p99 of a caller's calls that are done", "ms"),
            Figure("recovered", "Overload: a caller's calls are as before", "s after its end"),
        ],
        reference=PEAK,
        over_row=False,
        rounds=1,
        seconds=None if bench.options.quick else max(3.0, bench.options.seconds),
        note=f"The load comes by {CONNECTIONS} connections, the caller by one of its own.",
    )


class Trial:
    """One server's way through it: at rest, at its peak, overloaded, after that."""

    def __init__(self, bench: Bench, variant: str, expected: float) -> None:
        self._bench = bench
        _, self._port = bench.server(bounded, variant)
        self._expected = expected
        self._short = 0.1 if bench.options.quick else 1.0
        self._usual = 1.0  # the caller's median at rest
        self._after: Figures = {}

    def rest(self) -> Figures:
        """A caller alone."""
        caller = self._bench.start_open_load(self._port, 1, CALLER, 2 * self._short, LINE)
        found = self._bench.finish_open_load(caller)
        self._usual = percentile(50, done(found)) or TIMEOUT
        return in_ms(found)

    def find_peak(self) -> Figures:
        """The most that it gets done, whatever the rate."""
        rate, most = self._expected, 0.0
        for _ in range(MOST_STEPS):
            done = self._goodput(rate)
            most = max(most, done)
            if done < NOT_ALL * rate and done < most:
                break
            rate *= STEP
        self._expected = most or self._expected
        return {"goodput": most}

    def load(self, seconds: float) -> Figures:
        """Several times as much."""
        before, behind = self._short, max(0.5, min(AFTER_SECONDS, seconds))
        caller = self._bench.start_open_load(self._port, 1, CALLER, before + seconds + behind, LINE)
        time.sleep(before)
        rate = TIMES * self._expected
        loader = self._bench.start_open_load(self._port, CONNECTIONS, rate, seconds, LINE)
        found = self._bench.finish_open_load(loader)
        calls = self._bench.finish_open_load(caller)
        start, end = found[0].due, found[-1].due
        self._note_what_came_after([call for call in calls if call.due > end], end)
        beside = [call for call in calls if start < call.due < end]
        refused = [each.seconds for each in [*found, *beside] if each.code == REFUSED]
        of_load = sum(each.code == REFUSED for each in found)
        in_vain = len(found) - of_load - len(done(found))
        return {
            "goodput": goodput([*found, *beside], start, end),
            "refused": 100 * of_load / len(found),
            "vain": 100 * in_vain / len(found),
            "refusal": milliseconds(percentile(99, refused)),
            **in_ms(beside),
        }

    def after(self) -> Figures:
        """The caller once more, when the load is over."""
        return self._after

    def _goodput(self, rate: float) -> float:
        loader = self._bench.start_open_load(self._port, CONNECTIONS, rate, self._short, LINE)
        found = self._bench.finish_open_load(loader)
        return goodput(found, found[0].due, found[-1].due)

    def _note_what_came_after(self, calls: list[Answer], end: float) -> None:
        since = as_before(calls, end, self._usual)
        if since is not None:
            rest = [call for call in calls if call.due >= end + since]
            self._after = {"recovered": since, **in_ms(rest)}


def done(calls: Iterable[Answer]) -> list[float]:
    """How long those took that had a result in time."""
    return [call.seconds for call in calls if call.code == 0 and call.seconds <= TIMEOUT]


def goodput(calls: Iterable[Answer], start: float, end: float) -> float:
    """Results a second, as far as they came in time and before the end."""
    begin = start + min(START_SECONDS, (end - start) / 2)
    good = (call for call in calls if call.code == 0 and call.seconds <= TIMEOUT)
    count = sum(begin < call.due + call.seconds <= end for call in good)
    return count / (end - begin)


def as_before(calls: list[Answer], end: float, usual: float) -> float | None:
    """Seconds after the end from which on all calls are done, half of them within twice the usual.

    None when it does not come to that. Once the machine is busy, half as much again is nothing.
    """
    pieces: dict[int, list[Answer]] = {}
    for call in calls:
        pieces.setdefault(int((call.due - end) / PIECE_SECONDS), []).append(call)
    since = None
    for number, piece in sorted(pieces.items(), reverse=True):
        slow = median(call.seconds for call in piece) > 2 * usual
        if slow or any(call.code for call in piece):
            break
        since = number * PIECE_SECONDS
    return since


def percentile(percent: float, values: list[float]) -> float | None:
    """None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def in_ms(calls: list[Answer]) -> Figures:
    """A caller's figures."""
    return {f"p{each}": milliseconds(percentile(each, done(calls))) for each in (50, 99)}


# Connections that do nothing, or next to nothing


def beside(bench: Bench) -> Contest:
    """A caller's latency while others are connected, each time to a server that is new."""
    slow = bench.options.size(1_000, 20)
    idle = min(bench.options.size(10_000, 100), open_files() - 200)
    rate = bench.options.size(1_000, 500)
    others = {
        "alone": None,
        f"beside {slow:,} slow senders": partial(trickle, count=slow),
        f"beside {idle:,} idle connections": partial(hold, count=idle),
    }

    def measure(row: str, _column: str, seconds: float) -> Figures:
        child, port = bench.server(gtcp_greenlets)
        connect = others[row]
        holder = connect(bench, port) if connect else None
        load = bench.load(port, Shape(1, 1), seconds, request_line(with_id=True), rate)
        for each in (holder, child):
            if each is not None:
                bench.processes.end(each)
        return {"p50": load.p50, "p99": load.p99}

    title = "A caller beside many connections"
    return Contest(
        list(others),
        [f"{rate:,} calls/s"],
        measure,
        [Figure("p50", title, "p50, µs"), Figure("p99", title, "p99, µs")],
        reference="alone",
        over_row=False,
        rounds=1 if bench.options.quick else 2,
        seconds=None if bench.options.quick else 2.0,
        note="A slow sender sends a byte a second of a line that never ends; it is cut after 5 s, "
        "and connects again.",
    )


def trickle(bench: Bench, port: int, count: int) -> Child:
    """Open connections that each send a byte now and then and never finish a line."""
    seconds = bench.options.size(5, 1)  # as many as they have to finish a line
    args = [str(each) for each in (port, count, seconds)]
    child = bench.processes.python("trickle", *args, core=bench.cores.load)
    child.line(60)
    return child
