"""The state of a server, as operators see it: the answer to ``{"op": "status"}``.

Each process describes itself in a ``ProcessStatus``; ``merged`` makes one ``Status`` of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from time import monotonic

import msgspec

from gtcp.histogram import BUCKETS
from gtcp.server.ops.metrics import Metrics

#: Running calls and connections that are listed, those of all processes together.
LISTED = 20


class RunningCall(msgspec.Struct):
    """A call whose handler waits.

    Attributes:
        pid: the process that serves it.
        peer: its caller, "host:port".
        id: of the request; None if it has none.
        cmdid, method: the command.
        seconds: since the request arrived.
        stack: where the handler waits, as text.
    """

    pid: int
    peer: str
    id: int | str | None
    cmdid: int
    method: str
    seconds: float
    stack: str = ""


class OpenConnection(msgspec.Struct):
    """An open connection.

    Attributes:
        pid: the process that it belongs to.
        peer: "host:port".
        identity: what the peer has proven, or None.
        in_flight: its calls whose handlers wait.
        requests: received so far.
        seconds: since it was opened.
    """

    pid: int
    peer: str
    identity: str | None
    in_flight: int
    requests: int
    seconds: float


class MethodCount(msgspec.Struct):
    """One command in one process.

    Attributes:
        name: of its handler.
        calls, errors: answered per second, lately.
        in_flight: calls whose handler waits.
        queued: requests that wait for the processor.
        buckets: how many of the last calls took how long: as ``BUCKETS``, then the others.
    """

    name: str
    calls: float = 0.0
    errors: float = 0.0
    in_flight: int = 0
    queued: int = 0
    buckets: list[int] = []


class Method(msgspec.Struct):
    """One command in all processes.

    Attributes:
        name: of its handler.
        rate: calls answered per second.
        errors: of these, the ones with an error, per second.
        in_flight: calls whose handler waits.
        queued: requests that wait for the processor.
        p50, p99: seconds from the arrival of a request to its reply, estimated from a histogram;
            None without calls.
    """

    name: str
    rate: float
    errors: float
    in_flight: int
    queued: int
    p50: float | None
    p99: float | None


class Process(msgspec.Struct):
    """One process, in short.

    Attributes:
        pid: its number.
        version: of gtcp.
        seconds: since it began to serve.
        health: SERVING, NOT_SERVING or DRAINING.
        connections, in_flight, queued: how many there are.
        requests: received so far.
    """

    pid: int
    version: str
    seconds: float
    health: str
    connections: int
    in_flight: int
    queued: int
    requests: int


class ProcessStatus(Process):
    """One process, as it describes itself.

    Attributes:
        counted: whether ``calls``, ``errors`` and ``buckets`` of its methods are: with an admin
            port only.
        methods: the commands that were called lately.
        calls: the calls that have been running longest.
        busiest: connections, those with most calls in flight first.
        settings: each setting as TOML.
    """

    counted: bool
    methods: list[MethodCount]
    calls: list[RunningCall]
    busiest: list[OpenConnection]
    settings: dict[str, str]


class Status(msgspec.Struct):
    """A server with all its processes.

    Attributes:
        counted: whether rates and times are known: they need an admin port.
        processes: in the order of their pids.
        methods: by name.
        calls: the longest running ones first.
        connections: those with most calls in flight first.
        settings: of the process that answers.
    """

    counted: bool
    processes: list[Process]
    methods: list[Method]
    calls: list[RunningCall]
    connections: list[OpenConnection]
    settings: dict[str, str]


def merged(own: ProcessStatus, others: Iterable[ProcessStatus] = (), most: int = LISTED) -> Status:
    """Return the status of a server: that of the answering process and of its others.

    Args:
        most: how many running calls to list.
    """
    every = sorted([own, *others], key=lambda each: each.pid)
    rows: dict[str, MethodCount] = {}
    for process in every:
        for each in process.methods:
            row = rows.setdefault(each.name, MethodCount(each.name, buckets=[0] * len(EDGES)))
            row.calls += each.calls
            row.errors += each.errors
            row.in_flight += each.in_flight
            row.queued += each.queued
            if each.buckets:
                row.buckets = [a + b for a, b in zip(row.buckets, each.buckets, strict=True)]
    calls = [call for process in every for call in process.calls]
    connections = [one for process in every for one in process.busiest]
    return Status(
        own.counted,
        [msgspec.convert(each, Process, from_attributes=True) for each in every],
        [_method(rows[name]) for name in sorted(rows)],
        sorted(calls, key=lambda call: -call.seconds)[:most],
        sorted(connections, key=lambda one: (-one.in_flight, -one.requests))[:LISTED],
        own.settings,
    )


def _method(row: MethodCount) -> Method:
    p50, p99 = quantile(row.buckets, 0.5), quantile(row.buckets, 0.99)
    return Method(row.name, row.calls, row.errors, row.in_flight, row.queued, p50, p99)


#: The upper bounds of all buckets; the last one stands for the greatest bound.
EDGES = (*BUCKETS, BUCKETS[-1])


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """Return the seconds below which this share of the observations is; None if there are none.

    Within a bucket they count as evenly spread, as for Prometheus' ``histogram_quantile``.
    """
    total = sum(buckets)
    if not total:
        return None
    rank = share * total
    for number, reached in enumerate(accumulate(buckets)):
        if reached >= rank and buckets[number]:
            low = EDGES[number - 1] if number else 0.0
            into = (rank - (reached - buckets[number])) / buckets[number]
            return low + (EDGES[number] - low) * into
    raise AssertionError


class Rates:
    """Calls and errors since the last look, for each method.

    Args:
        metrics: the totals.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._at = monotonic()
        self._before = metrics.totals()
        self._rows: dict[str, MethodCount] = {}

    def look(self) -> None:
        """Compare with the last look."""
        now, totals = monotonic(), self._metrics.totals()
        seconds = max(now - self._at, 0.001)
        rows = {}
        for name, (calls, errors, buckets) in totals.items():
            before = self._before.get(name) or (0, 0, [0] * len(buckets))
            fresh = [a - b for a, b in zip(buckets, before[2], strict=True)]
            rate, wrong = (calls - before[0]) / seconds, (errors - before[1]) / seconds
            rows[name] = MethodCount(name, rate, wrong, buckets=fresh)
        self._at, self._before, self._rows = now, totals, rows

    def rows(self) -> dict[str, MethodCount]:
        """Return copies of the counts, by method."""
        return {name: msgspec.structs.replace(row) for name, row in self._rows.items()}
