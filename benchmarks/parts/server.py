"""One server process, driven by lineload: gtcp, its floors, its ancestor's structure; and what
gtcp's own features cost."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.echo import PARAMS
from benchmarks.load import Shape, request_line
from benchmarks.parts import REPLIES
from benchmarks.peers import gtcp_greenlets
from benchmarks.processes import Child, Failed, open_files

NEEDS_LINELOAD = True

WITH_ID = ", with ids"
FLOOD = Shape(1, 1000)

Ports = dict[str, int]


def contests(bench: Bench) -> list[Contest]:
    found = bench.present(peers.LINE_SERVERS)
    ports = {name: port for name, (_, port) in bench.servers(found).items()}
    floors = {name: ports[name] for name in ports if name != "tornado-TCP's structure"}
    return [shapes(bench, ports), large(bench, floors), fairness(bench, floors), features(bench)]


def shapes(bench: Bench, ports: Ports) -> Contest:
    """Connections and pipelines, without ids and with."""
    each = [
        Shape(8, 1), Shape(64, 1), Shape(64, 16), Shape(1, 64),
        Shape(bench.options.size(1000, 100), 1),
    ]  # fmt: skip
    columns = {f"{shape}{note}": shape for note in ("", WITH_ID) for shape in each}

    def measure(row: str, column: str, seconds: float) -> Figures:
        line = request_line(with_id=column.endswith(WITH_ID))
        load = bench.load(ports[row], columns[column], seconds, line)
        return {"rps": load.rps, "p99": load.p99}

    return Contest(
        list(ports),
        list(columns),
        measure,
        [
            Figure("rps", REPLIES, "replies/s at connections x requests outstanding on each"),
            Figure("p99", "The same run's p99", "µs"),
        ],
        reference=gtcp_greenlets.NAME,
    )


def large(bench: Bench, ports: Ports) -> Contest:
    """Large messages, one outstanding on each of four connections."""
    sizes = {"64 KB": 64_000, "1 MB": 1_000_000}

    def measure(row: str, column: str, seconds: float) -> Figures:
        line = request_line({"content": "x" * sizes[column]}, with_id=True)
        load = bench.load(ports[row], Shape(4, 1), seconds, line)
        return {"bytes": load.rps * len(line) / 1e6}

    return Contest(
        list(ports),
        list(sizes),
        measure,
        [Figure("bytes", "Large messages", "MB/s each way, over four connections")],
        reference=gtcp_greenlets.NAME,
    )


def fairness(bench: Bench, ports: Ports) -> Contest:
    """A caller's latency while another connection pipelines without end."""

    def measure(row: str, column: str, seconds: float) -> Figures:
        flood = bench.start_load(ports[row], FLOOD, seconds + 0.4, request_line(with_id=True))
        load = bench.load(ports[row], Shape(1, 1), seconds, request_line(with_id=True))
        bench.finish_load(flood, 1)
        return {"p50": load.p50, "p99": load.p99}

    title = "A caller beside a connection that keeps 1,000 requests outstanding"
    return Contest(
        list(ports),
        ["beside the flood"],
        measure,
        [Figure("p50", title, "p50, µs"), Figure("p99", title, "p99, µs")],
        reference=gtcp_greenlets.NAME,
    )


def features(bench: Bench) -> Contest:
    """gtcp against gtcp: what is switched on, registered or connected besides."""
    idle = min(bench.options.size(10_000, 100), open_files() - 200)
    idle_row = f"{idle:,} idle connections"
    ports: Ports = {}
    for variant in (*gtcp_greenlets.VARIANTS, idle_row):
        try:
            _, ports[variant] = bench.server(gtcp_greenlets, variant)
            if variant == idle_row:
                hold(bench, ports[variant], idle)
        except Failed as exc:
            ports.pop(variant, None)
            bench.left_out.append(f"{variant}: {exc}")
    columns = {str(shape): shape for shape in (Shape(64, 1), Shape(64, 16))}

    def measure(row: str, column: str, seconds: float) -> Figures:
        line = request_line(PARAMS, with_id=True)
        return {"rps": bench.load(ports[row], columns[column], seconds, line).rps}

    return Contest(
        list(ports),
        list(columns),
        measure,
        [Figure("rps", "What gtcp's features cost its server", "replies/s")],
        reference=gtcp_greenlets.DICT,
        over_row=False,
    )


def hold(bench: Bench, port: int, count: int) -> Child:
    """Open connections that do nothing; they are open when this returns."""
    child = bench.processes.python("hold", str(port), str(count), core=bench.cores.load)
    child.line(60)
    return child
