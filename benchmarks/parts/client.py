"""Every peer's own client against its own server; gtcp's client against a bare socket."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Figure, Figures
from benchmarks.parts import CALLS, CONCURRENT, SEQUENTIAL
from benchmarks.peers import bare_socket, gtcp_greenlets
from benchmarks.processes import Child, Failed

NEEDS_LINELOAD = False


def contests(bench: Bench) -> list[Contest]:
    found = bench.present(peers.CALLED)
    servers = bench.servers(found)
    callers: dict[str, Child] = {}
    for peer in found:
        if peer.NAME not in servers:
            continue
        try:
            callers[peer.NAME] = bench.caller(peer, servers[peer.NAME][1])
        except Failed as exc:
            bench.left_out.append(f"{peer.NAME}: its client {exc}")
    made = [everybody(bench, callers)]
    if gtcp_greenlets.NAME in callers:
        port = servers[gtcp_greenlets.NAME][1]
        made += [one_server(bench, port), mapping(bench, port)]
    return made


def everybody(bench: Bench, callers: dict[str, Child]) -> Contest:
    """One caller, and 64 at once."""
    counts = {SEQUENTIAL: 1, CONCURRENT: 64}

    def measure(row: str, column: str, seconds: float) -> Figures:
        return _calls(callers[row], counts[column], seconds)

    return Contest(
        list(callers),
        list(counts),
        measure,
        [Figure("rps", CALLS, "calls/s")],
        reference=gtcp_greenlets.NAME,
    )


def one_server(bench: Bench, port: int) -> Contest:
    """gtcp's client and a bare blocking socket, one caller each, both against gtcp's server."""
    callers = {
        gtcp_greenlets.NAME: bench.caller(gtcp_greenlets, port),
        "bare blocking socket": bench.caller(bare_socket, port),
    }

    def measure(row: str, _column: str, seconds: float) -> Figures:
        return _calls(callers[row], 1, seconds)

    return Contest(
        list(callers),
        [SEQUENTIAL],
        measure,
        [Figure("rps", "gtcp's client and a bare socket, against gtcp's server", "calls/s")],
        reference=gtcp_greenlets.NAME,
    )


def mapping(bench: Bench, port: int) -> Contest:
    """`client.map`, next to as many calls by 64 greenlets."""
    count = bench.options.size(100_000, 1_000)
    caller = bench.caller(gtcp_greenlets, port)
    row = f"client.map over {count:,} calls"

    def measure(asked: str, _column: str, seconds: float) -> Figures:
        if asked == row:
            found = caller.ask({"do": "map", "count": count}, 60)
            return {"rps": found["rps"], "grown": found["grown"] / 1e6}
        return _calls(caller, 64, seconds)

    return Contest(
        ["64 greenlets", row],
        ["gtcp"],
        measure,
        [
            Figure("rps", "client.map", "calls/s"),
            Figure("grown", "client.map: what its process grew by", "MB"),
        ],
        reference="64 greenlets",
        over_row=False,
        rounds=1 if bench.options.quick else 3,
    )


def _calls(caller: Child, count: int, seconds: float) -> Any:
    return caller.ask({"do": "calls", "callers": count, "seconds": seconds}, seconds)
