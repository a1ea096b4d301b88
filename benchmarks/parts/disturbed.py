"""A server beside neighbours: busy processes on its core, and pauses of the process itself.

A disturbance may cost what it costs while it lasts. Afterwards the server must be as fast as
before, and beside it a third of the load that it can take must be answered in time. Part of
`overload`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.load import PLACE_FOR_ID, Shape, request_line
from benchmarks.peers import gtcp_greenlets, watcher_floor
from benchmarks.processes import Child

#: Seconds that callers of the open loop wait.
TIMEOUT = 0.5
LINE = request_line(id=PLACE_FOR_ID, timeout=int(TIMEOUT * 1000))

#: Requests a second while the server is stopped now and then, and how often and how long it is.
PAUSED_RATE, PAUSES, PAUSE_SECONDS, BETWEEN_SECONDS = 3000.0, 30, 0.1, 0.1

BESIDE_ONE = "a busy process on its core"
BESIDE_TWO = "a third of the peak beside two busy processes"
PAUSED = f"{PAUSES} pauses of {PAUSE_SECONDS * 1000:.0f} ms"


def stability(bench: Bench) -> Contest:
    """Closed loop by many connections while another process uses half of the core."""
    shape = Shape(bench.options.size(1000, 100), 1)
    found = bench.present([peers.name_of(each) for each in (gtcp_greenlets, watcher_floor)])
    ports = {name: port for name, (_, port) in bench.servers(found).items()}

    def measure(row: str, _column: str, seconds: float) -> Figures:
        with neighbours(bench, 1):
            return {"rps": bench.load(ports[row], shape, seconds, request_line(with_id=True)).rps}

    return Contest(
        list(ports),
        [f"{shape} beside {BESIDE_ONE}"],
        measure,
        [
            Figure(
                "rps", "Stability: beside a busy process", "replies/s, each of ten runs alternating"
            )
        ],
        reference=watcher_floor.NAME,
        over_row=False,
        rounds=1 if bench.options.quick else 10,
        seconds=None if bench.options.quick else 2.0,
    )


def in_time(bench: Bench) -> Contest:
    """Open loop at a load that the server can take, disturbed."""
    connections = bench.options.size(1000, 50)
    columns = {BESIDE_TWO: partial(beside, bench, connections), PAUSED: partial(paused, bench)}

    def measure(_row: str, column: str, seconds: float) -> Figures:
        return {"late": columns[column](seconds)}

    return Contest(
        [gtcp_greenlets.NAME],
        list(columns),
        measure,
        [Figure("late", "Disturbed: not answered in time", f"% of the calls, {TIMEOUT:g} s each")],
        rounds=1 if bench.options.quick else 3,
        seconds=None if bench.options.quick else 4.0,
    )


def beside(bench: Bench, connections: int, seconds: float) -> float:
    """Percentage of calls without a result in time, at a third of the peak."""
    child, port = bench.server(gtcp_greenlets)
    peak = bench.load(port, Shape(connections, 1), seconds / 4, request_line(with_id=True)).rps
    with neighbours(bench, 2):
        load = bench.start_open_load(port, connections, peak / 3, seconds, LINE)
        late = percent_late(bench, load)
    bench.processes.end(child)
    return late


def paused(bench: Bench, seconds: float) -> float:
    """Percentage of calls without a result in time, while the process is stopped now and then."""
    child, port = bench.server(gtcp_greenlets)
    pauses = 2 if bench.options.quick else PAUSES
    length = pauses * (PAUSE_SECONDS + BETWEEN_SECONDS) + min(seconds, 0.5)
    load = bench.start_open_load(port, bench.options.size(64, 8), PAUSED_RATE, length, LINE)
    for _ in range(pauses):
        time.sleep(BETWEEN_SECONDS)
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(PAUSE_SECONDS)
        os.kill(child.pid, signal.SIGCONT)
    late = percent_late(bench, load)
    bench.processes.end(child)
    return late


def percent_late(bench: Bench, load: object) -> float:
    """How many of an open loop's calls have no result in time."""
    found = bench.finish_open_load(load)  # type: ignore[arg-type]
    if not found:
        return 100.0  # nothing was answered at all
    good = sum(each.code == 0 and each.seconds <= TIMEOUT for each in found)
    return 100 * (len(found) - good) / len(found)


@contextmanager
def neighbours(bench: Bench, count: int) -> Iterator[None]:
    """Processes that use the server's core as much as they are let."""
    started: list[Child] = [
        bench.processes.python("busy", core=bench.cores.server) for _ in range(count)
    ]
    try:
        for each in started:
            each.line()
        yield
    finally:
        for each in started:
            bench.processes.end(each)
