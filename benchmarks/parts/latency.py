"""Latency at fixed rates, up to what a server can't keep up with.

Requests come at their time whether or not earlier ones were answered, and a latency counts from
when the request was due: what a closed loop leaves out when the server stalls is in here.
"""

from __future__ import annotations

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.load import Shape, request_line
from benchmarks.peers import gtcp_greenlets

NEEDS_LINELOAD = True

CONNECTIONS = 64
RATES = (5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000, 140_000, 160_000)

#: Share of the requests below which a server that answers no more is saturated.
KEPT_UP = 0.97


def contests(bench: Bench) -> list[Contest]:
    ports = {
        name: port for name, (_, port) in bench.servers(bench.present(peers.LINE_SERVERS)).items()
    }
    rates = RATES[:2] if bench.options.quick else RATES
    columns = {f"{rate:,}/s": rate for rate in rates}
    saturated: set[str] = set()

    def measure(row: str, column: str, seconds: float) -> Figures:
        rate = columns[column]
        if rate == rates[0]:  # a new round
            saturated.discard(row)
        if row in saturated:
            return {}
        line = request_line(with_id=True)
        load = bench.load(ports[row], Shape(CONNECTIONS, 1), seconds, line, rate)
        if load.rps < KEPT_UP * rate:
            saturated.add(row)
        return {"p50": load.p50, "p99": load.p99, "p999": load.p999, "kept": 100 * load.rps / rate}

    return [
        Contest(
            list(ports),
            list(columns),
            measure,
            [
                Figure("p50", "Latency at a fixed rate: p50", "µs from when a request was due"),
                Figure("p99", "Latency at a fixed rate: p99", "µs from when a request was due"),
                Figure("p999", "Latency at a fixed rate: p99.9", "µs from when a request was due"),
                Figure("kept", "Latency at a fixed rate: kept up", "% of the rate answered"),
            ],
            reference=gtcp_greenlets.NAME,
            rounds=1 if bench.options.quick else 3,
            note="In a round, no server is asked beyond the first rate it can't keep up with.",
        )
    ]
