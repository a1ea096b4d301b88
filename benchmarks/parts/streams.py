"""Streams: how fast their items come, and what a thousand readers that have stopped cost."""

from __future__ import annotations

from time import monotonic, sleep

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.load import Shape, request_line
from benchmarks.peers import gtcp_greenlets
from benchmarks.processes import Child, open_files
from benchmarks.resident import resident_bytes

NEEDS_LINELOAD = True

CREDIT, TCP = "with credit", "held back by TCP alone"

#: Seconds without growth after which a server's memory counts as settled, and at most.
SETTLED_SECONDS, LONGEST_SECONDS = 0.5, 30.0


def contests(bench: Bench) -> list[Contest]:
    return [items(bench), stopped(bench)]


def items(bench: Bench) -> Contest:
    """The items of one stream, next to as many results of `client.map`."""
    count = bench.options.size(100_000, 1_000)
    _, port = bench.server(gtcp_greenlets, gtcp_greenlets.STREAMS)
    caller = bench.caller(gtcp_greenlets, port)
    rows = {
        f"client.map over {count:,} calls": "map",
        f"client.stream of {count:,} items": "stream",
    }

    def measure(row: str, _column: str, _seconds: float) -> Figures:
        return {"rps": caller.ask({"do": rows[row], "count": count}, 60)["rps"]}

    return Contest(
        list(rows),
        ["gtcp"],
        measure,
        [Figure("rps", "Items of a stream", "small items/s")],
        reference=next(iter(rows)),
        over_row=False,
    )


def stopped(bench: Bench) -> Contest:
    """A server's growth by streams of 1 MiB items whose readers read nothing, and a neighbour."""
    count = min(bench.options.size(1_000, 20), open_files() - 200)
    shape, line = Shape(1, 1), request_line(with_id=True)

    def measure(row: str, _column: str, seconds: float) -> Figures:
        server, port = bench.server(gtcp_greenlets, gtcp_greenlets.STREAMS)
        before, alone = resident_bytes(server.pid), bench.load(port, shape, seconds, line)
        kind = "credit" if row == CREDIT else "tcp"
        readers = bench.processes.python(
            "unread", str(port), str(count), kind, core=bench.cores.load
        )
        readers.line(60)
        grown = _settled(server) - before
        beside = bench.load(port, shape, seconds, line)
        bench.processes.end(readers)
        bench.processes.end(server)
        return {"grown": grown / 1e6, "alone": alone.p99, "beside": beside.p99}

    title = f"{count:,} streams of 1 MiB items whose readers have stopped"
    return Contest(
        [CREDIT, TCP],
        ["gtcp"],
        measure,
        [
            Figure("grown", title, "MB that the server grew by"),
            Figure("alone", "A caller before them", "p99, µs"),
            Figure("beside", "The caller beside them", "p99, µs"),
        ],
        rounds=1,
        note="The kernel's socket buffers are not counted.",
    )


def _settled(server: Child) -> int:
    """Return the server's memory once it grows no more."""
    most, since, began = resident_bytes(server.pid), monotonic(), monotonic()
    while monotonic() - since < SETTLED_SECONDS and monotonic() - began < LONGEST_SECONDS:
        sleep(0.02)
        now = resident_bytes(server.pid)
        if now > most:
            most, since = now, monotonic()
    return most
