"""Callers of a service whose servers are restarted; prints what became of their calls."""

from __future__ import annotations

import json
import sys
from collections import Counter
from time import monotonic

import gevent

import gtcp
from benchmarks.peers.gtcp_restarted import WHO

#: Clients, each with its own connections, and greenlets of each.
CLIENTS, CALLERS = 8, 4

#: Seconds at the end of which the spread over the servers is counted.
LAST_SECONDS = 2.0


class Load:
    """Counts the calls of all greenlets."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.executed: Counter[str] = Counter()
        self.servers: list[tuple[float, int]] = []
        self.going_on = True

    def run(self, client: gtcp.Client) -> None:
        while self.going_on:
            started = monotonic()
            try:
                server = client.call(WHO, timeout=10)
            except gtcp.GtcpError as exc:
                self.executed[exc.executed] += 1
            else:
                self.servers.append((monotonic(), server))
            self.seconds.append(monotonic() - started)

    def figures(self) -> dict[str, float]:
        last = monotonic() - LAST_SECONDS
        counted = Counter(server for at, server in self.servers if at >= last)
        times = sorted(self.seconds)
        return {
            "calls": len(times),
            "failed": sum(self.executed.values()),
            "maybe": self.executed["maybe"],
            "p99": times[int(len(times) * 0.99)] * 1000,
            "longest": times[-1] * 1000,
            "spread": max(counted.values()) / (sum(counted.values()) / 3),
        }


def main(*addresses: str) -> None:
    """Call until a line is read from stdin; print ``ready`` before, and figures afterwards."""
    target = addresses[0] if len(addresses) == 1 else list(addresses)
    load = Load()
    clients = [gtcp.Client(target) for _ in range(CLIENTS)]
    for client in clients:
        client.connect()
    greenlets = [gevent.spawn(load.run, each) for each in clients for _ in range(CALLERS)]
    print("ready", flush=True)
    gevent.get_hub().threadpool.apply(sys.stdin.readline)
    figures = load.figures()
    load.going_on = False
    gevent.joinall(greenlets, raise_error=True)
    print(json.dumps(figures), flush=True)
