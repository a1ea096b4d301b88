"""Three servers are restarted in turn, behind HAProxy and with a client that knows them."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.echo import HOST
from benchmarks.processes import Child, Failed, free_port

NEEDS_LINELOAD = False

KNOWN, PROXY = "a client that knows the servers", "HAProxy"
SERVERS = 3

#: Seconds between two restarts, and after the last one.
PAUSE, CALM = 1.0, 3.0

#: As in docs/how-to/haproxy-and-nginx.md, without the PROXY header, and with quicker checks.
CONFIGURATION = """
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    retries 2
    option redispatch
listen gtcp
    bind {host}:{port}
    balance leastconn
    option tcp-check
    tcp-check send "{{\\"cmdid\\":0}}\\n"
    tcp-check expect string pong
    default-server inter 200ms fall 1 rise 1 check
{servers}
"""


def contests(bench: Bench) -> list[Contest]:
    rows = [KNOWN]
    if shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        bench.left_out.append("HAProxy: left out, it is not installed")
    else:
        rows.append(PROXY)

    def measure(row: str, _column: str, _seconds: float) -> Figures:
        return restarted(bench, row)

    title = "Three servers restarted in turn under load"
    figures = {
        "calls": "calls",
        "failed": "failed calls",
        "maybe": "failed calls that may have run",
        "p99": "p99, ms",
        "longest": "longest call, ms",
        "spread": "calls of the busiest server afterwards ÷ mean",
    }
    return [
        Contest(
            rows,
            ["32 callers"],
            measure,
            [Figure(name, title, unit) for name, unit in figures.items()],
            rounds=1 if bench.options.quick else 3,
        )
    ]


def restarted(bench: Bench, row: str) -> Figures:
    """Restart each server once, while 32 greenlets call; return what became of the calls."""
    ports = [free_port() for _ in range(SERVERS)]
    started: list[Child] = []

    def start(port: int) -> Child:
        child = bench.processes.python(
            "serve", "gtcp_restarted", str(port), core=bench.cores.server
        )
        started.append(child)
        child.wait_until_it_listens(port)
        return child

    try:
        servers = {port: start(port) for port in ports}
        addresses = [f"{HOST}:{port}" for port in ports]
        if row == PROXY:
            addresses = [f"{HOST}:{_haproxy(bench, ports, started)}"]
        callers = bench.processes.python("restarts", *addresses, core=bench.cores.load)
        started.append(callers)
        callers.line()
        pause = bench.options.quick
        time.sleep(0.2 if pause else PAUSE)
        for port in ports:
            servers[port].process.send_signal(signal.SIGTERM)
            if servers[port].process.wait(30):
                raise Failed(servers[port].why("its drain failed"))
            start(port)
            time.sleep(0.5 if pause else PAUSE)
        time.sleep(0.5 if pause else CALM)
        assert callers.process.stdin is not None
        callers.process.stdin.write(b"\n")
        callers.process.stdin.flush()
        found: Figures = json.loads(callers.line(30))
        return found
    finally:
        for child in started:
            bench.processes.end(child)


def _haproxy(bench: Bench, ports: list[int], started: list[Child]) -> int:
    port = free_port()
    lines = "\n".join(f"    server s{each} {HOST}:{each}" for each in ports)
    path = Path(bench.request(b"")).with_name(f"haproxy-{port}.cfg")
    path.write_text(CONFIGURATION.format(host=HOST, port=port, servers=lines))
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program is not None
    child = bench.processes.start([program, "-db", "-f", str(path)], core=bench.cores.server)
    started.append(child)
    child.wait_until_it_listens(port)
    time.sleep(0.5)  # its first checks
    return port
