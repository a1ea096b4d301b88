"""Memory of connections, of clients, and of many calls."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.parts.server import hold
from benchmarks.peers import gtcp_greenlets
from benchmarks.processes import open_files
from benchmarks.resident import resident_bytes

NEEDS_LINELOAD = False


def contests(bench: Bench) -> list[Contest]:
    return [connections(bench), client(bench), calls(bench)]


def connections(bench: Bench) -> Contest:
    """A server's growth for each connection that has made a call and is idle."""
    count = min(bench.options.size(2_000, 100), open_files() - 200)
    servers = bench.servers(bench.present(peers.LINE_SERVERS))

    def measure(row: str, _column: str, _seconds: float) -> Figures:
        child, port = servers[row]
        bench.processes.end(hold(bench, port, 10))  # what the first connections load once
        before = resident_bytes(child.pid)
        holder = hold(bench, port, count)
        grown = resident_bytes(child.pid) - before
        bench.processes.end(holder)
        return {"bytes": grown / count}

    return Contest(
        list(servers),
        [f"mean of {count:,}"],
        measure,
        [Figure("bytes", "An idle connection, in its server", "bytes of RSS")],
        reference=gtcp_greenlets.NAME,
        over_row=False,
        rounds=1,
        note="The kernel's socket buffers are not counted: they are the same for all.",
    )


def client(bench: Bench) -> Contest:
    """A process with a client that has called, over `import gevent, msgspec`."""
    _, port = bench.server(gtcp_greenlets)

    def measure(row: str, _column: str, _seconds: float) -> Figures:
        # What compiles its imports is larger than what finds them compiled.
        child = bench.processes.python(
            "idle", str(port), core=bench.cores.load, PYTHONDONTWRITEBYTECODE=""
        )
        imported, called = map(int, child.line().split())
        bench.processes.end(child)
        return {"bytes": (imported if row == "import gtcp" else called) / 1e6}

    return Contest(
        ["import gtcp", "a client that has made a call"],
        ["gtcp"],
        measure,
        [Figure("bytes", "An idle client, over `import gevent, msgspec`", "MB of RSS")],
    )


def calls(bench: Bench) -> Contest:
    """Both sides' memory while 64 greenlets make a million calls."""
    total = bench.options.size(1_000_000, 2_000)
    stages = {f"after {each:,} calls": each for each in (total // 10, total // 2, total)}
    server, port = bench.server(gtcp_greenlets)
    caller = bench.caller(gtcp_greenlets, port)
    pids = {"server": server.pid, "client": caller.pid}
    done = 0

    def measure(row: str, column: str, _seconds: float) -> Figures:
        nonlocal done
        if done < stages[column]:
            caller.ask({"do": "repeat", "callers": 64, "count": stages[column] - done}, 120)
            done = stages[column]
        return {"rss": resident_bytes(pids[row]) / 1e6}

    return Contest(
        list(pids),
        list(stages),
        measure,
        [Figure("rss", "A million calls" if not bench.options.quick else "Calls", "MB of RSS")],
        rounds=1,
    )
