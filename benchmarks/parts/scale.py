"""One worker and two, with a handler that computes for about 2 ms."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from contextlib import ExitStack
from importlib.util import find_spec

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.echo import HOST
from benchmarks.load import Shape, request_line
from benchmarks.machine import usable_cores
from benchmarks.peers.computing import LOOPS, WHO, turns_in
from benchmarks.processes import PATIENCE, free_port

NEEDS_LINELOAD = True

ONE, TWO = "1 worker", "2 workers"
CONNECTIONS = 64
SECONDS_OF_WORK = 0.002


def contests(bench: Bench) -> list[Contest]:
    if find_spec("gunicorn") is None:
        bench.left_out.append("scale: left out, gunicorn is not installed")
        return []
    if len(usable_cores()) == 1:
        bench.left_out.append("scale: there is one core, on which two workers gain nothing")
    loops = str(turns_in(SECONDS_OF_WORK))
    ports = {row: _serve(bench, row, loops) for row in (ONE, TWO)}
    return [throughput(bench, ports), spread(ports[TWO])]


def throughput(bench: Bench, ports: dict[str, int]) -> Contest:
    """Calls a second; the load generator takes next to nothing beside them."""

    def measure(row: str, _column: str, seconds: float) -> Figures:
        load = bench.load(ports[row], Shape(CONNECTIONS, 1), seconds, request_line(with_id=True))
        return {"rps": load.rps}

    return Contest(
        list(ports),
        [f"{CONNECTIONS} connections"],
        measure,
        [Figure("rps", "A handler that computes for 2 ms", "calls/s")],
        reference=ONE,
        over_row=False,
        seconds=None if bench.options.quick else 1.0,
    )


def spread(port: int) -> Contest:
    """How evenly the kernel hands connections to two workers."""

    def measure(_row: str, _column: str, _seconds: float) -> Figures:
        pids = Counter(_who_answers(port, CONNECTIONS))
        return {"share": 100 * pids.most_common(1)[0][1] / CONNECTIONS}

    return Contest(
        [TWO],
        [f"{CONNECTIONS} connections"],
        measure,
        [Figure("share", "The busier worker's share of the connections", "%")],
    )


def _serve(bench: Bench, row: str, loops: str) -> int:
    """A server with workers, which may use all cores."""
    port = free_port()
    target = "benchmarks.peers.computing:server"
    args = ["serve", target, "--bind", f"{HOST}:{port}", "--workers", row.split()[0]]
    child = bench.processes.start([sys.executable, "-m", "gtcp", *args], env={LOOPS: loops})
    child.wait_until_it_listens(port)
    if row == TWO:  # gunicorn listens before its workers are there
        for _ in range(1000):
            if len(set(_who_answers(port, 16))) == 2:
                break
    return port


def _who_answers(port: int, connections: int) -> list[int]:
    """The process at the other end of each of so many connections, all open at once."""
    found = []
    with ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection((HOST, port), timeout=PATIENCE))
            for _ in range(connections)
        ]
        for sock in socks:
            sock.sendall(b'{"cmdid":%d}\n' % WHO)
            found.append(json.loads(stack.enter_context(sock.makefile("rb")).readline())["result"])
    return found
