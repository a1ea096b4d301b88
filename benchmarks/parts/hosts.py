"""What it costs a client to balance its calls over two hosts."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.parts import CONCURRENT, SEQUENTIAL
from benchmarks.peers import gtcp_greenlets, gtcp_two_hosts
from benchmarks.resident import processor_seconds

NEEDS_LINELOAD = False

ONE, TWO = "one host", gtcp_two_hosts.NAME


def contests(bench: Bench) -> list[Contest]:
    """Two clients of the same server process, which listens on two addresses."""
    _, port = bench.server(gtcp_greenlets, gtcp_greenlets.TWO_HOSTS)
    callers = {ONE: bench.caller(gtcp_greenlets, port), TWO: bench.caller(gtcp_two_hosts, port)}
    counts = {SEQUENTIAL: 1, CONCURRENT: 64}

    def measure(row: str, column: str, seconds: float) -> Figures:
        child = callers[row]
        before = processor_seconds(child.pid)
        found: Any = child.ask(
            {"do": "calls", "callers": counts[column], "seconds": seconds}, seconds
        )
        spent = processor_seconds(child.pid) - before
        return {"rps": found["rps"], "cpu": spent * 1e6 / (found["rps"] * seconds)}

    return [
        Contest(
            list(callers),
            list(counts),
            measure,
            [
                Figure("rps", "A client of one host and of two", "calls/s"),
                Figure("cpu", "Processor time of the client", "us/call"),
            ],
            reference=ONE,
            over_row=False,
        )
    ]
