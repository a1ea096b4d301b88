"""Metrics: what a server counts about its requests.

Counting is a few dictionary operations per request and needs no third-party package.
``gtcp.server.admin`` publishes the counts in Prometheus' format. Names and buckets of the call
durations are those of OpenTelemetry's semantic conventions for RPC.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any, NamedTuple, Protocol

from gtcp.histogram import BUCKETS, Histogram
from gtcp.protocol.messages import DEADLINE_EXCEEDED, GOING_AWAY, OVERLOADED, Failure, Success

#: Upper bounds of the buckets of the event loop's lag, in seconds.
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

#: The method of requests for commands that the server does not have.
OTHER = "_OTHER"

DURATION = "rpc_server_call_duration_seconds"
DURATION_HELP = "Time from the arrival of a request to its reply."

#: Messages of rejections, and the limit that each of them names in the metrics.
REJECTIONS = {
    (OVERLOADED, "too many calls in flight"): "in_flight",
    (OVERLOADED, "too many calls of this command in flight"): "command_in_flight",
    (OVERLOADED, "its deadline would pass before its turn"): "queue",
    (OVERLOADED, "too many connections"): "connections",
    (OVERLOADED, "too many connections from this address"): "connections_per_address",
    (DEADLINE_EXCEEDED, "the deadline passed before the call"): "deadline",
    (GOING_AWAY, "going away"): "drain",
}

#: Messages of calls whose handler was cancelled, and why, in the metrics.
CANCELLATIONS = {
    "the deadline passed": "deadline",
    "the caller has gone": "caller_gone",
    "the server stops": "drain",
}

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One number of a metric.

    Attributes:
        kind: counter, gauge or histogram.
        metric: the name of the metric.
        name: the name of this series: of a histogram it has a suffix.
        labels: name and value of each label.
        meaning: what the metric says.
        value: the number; buckets of a histogram are not cumulative here.
    """

    kind: str
    metric: str
    name: str
    labels: Labels
    meaning: str
    value: float


class Received(Protocol):
    """A request, or a line that was rejected in place of one."""

    _source: Any

    @property
    def cmdid(self) -> int | None:
        """The command, None if the line is not a request."""


def _series(histogram: Histogram, metric: str, labels: Labels, meaning: str) -> Iterator[Sample]:
    """Return the series of a histogram; all buckets, also those without observations."""
    for name, count in zip(histogram.names, histogram.counts, strict=True):
        at = (*labels, ("le", name))
        yield Sample("histogram", metric, metric + "_bucket", at, meaning, count)
    yield Sample("histogram", metric, metric + "_sum", labels, meaning, histogram.total)


class Metrics:
    """The counts of one server since it started. Belongs to its hub.

    Args:
        methods: the name of each command by its cmdid.
    """

    def __init__(self, methods: Mapping[int, str]) -> None:
        self._methods = methods
        self._succeeded: dict[int | None, Histogram] = {}
        self._failed: dict[tuple[str, int], Histogram] = {}
        self._rejected: Counter[str] = Counter()
        self._cancelled: Counter[str] = Counter()
        self._blocked: dict[str, float] = {}
        self.received_bytes = self.sent_bytes = 0
        self.drains = 0
        self.lag = Histogram(LAG_BUCKETS)

    def method_of(self, cmdid: int | None) -> str:
        """Return the name of a command, ``_OTHER`` if there is no such command."""
        return OTHER if cmdid is None else self._methods.get(cmdid, OTHER)

    def note(self, request: Received, reply: Success | Failure, sent: int) -> None:
        """Count a request that was answered; its time counts from its arrival.

        Args:
            sent: bytes of its reply's line, 0 when it got none.
        """
        source = request._source
        cmdid = request.cmdid
        self.received_bytes += len(source.line)
        self.sent_bytes += sent
        if type(reply) is Success:
            histogram = self._succeeded.get(cmdid)
            if histogram is None:
                histogram = self._succeeded[cmdid] = Histogram()
            seconds = monotonic() - source.arrived
            histogram.counts[bisect_left(BUCKETS, seconds)] += 1
            histogram.total += seconds
        elif cmdid is not None:
            assert isinstance(reply, Failure)
            self._fail(cmdid, reply, monotonic() - source.arrived)

    def note_refused(
        self, _address: str, cmdid: int, reply: Failure, received: int, sent: int
    ) -> None:
        """Count a request that was refused before anything was run; else as ``note``."""
        self.received_bytes += received
        self.sent_bytes += sent
        self._fail(cmdid, reply, 0.0)

    def note_connection_refused(self, code: int, message: str) -> None:
        """Count a connection that was refused."""
        self._rejected[REJECTIONS.get((code, message), "admission")] += 1

    def note_blocked(self, method: str, seconds: float) -> None:
        """Count time for which a handler of this method has blocked the event loop."""
        self._blocked[method] = self._blocked.get(method, 0.0) + seconds

    def totals(self) -> dict[str, tuple[int, int, list[int]]]:
        """Return the calls so far, those that failed, and all of them by duration; by method."""
        every = [(self.method_of(cmdid), 0, each) for cmdid, each in list(self._succeeded.items())]
        every += [(method, 1, each) for (method, _code), each in list(self._failed.items())]
        found: dict[str, tuple[int, int, list[int]]] = {}
        for method, failed, histogram in every:
            calls, errors, counts = found.get(method) or (0, 0, [0] * (len(BUCKETS) + 1))
            number = sum(histogram.counts)
            counts = [a + b for a, b in zip(counts, histogram.counts, strict=True)]
            found[method] = (calls + number, errors + failed * number, counts)
        return found

    def write(self) -> None:
        """Do nothing: the counts are published when they are asked for."""

    def abandon(self) -> None:
        """Do nothing, in a forked child: its counts are never published."""

    def samples(self) -> Iterator[Sample]:
        """Return all series that have been observed."""
        for cmdid, histogram in list(self._succeeded.items()):
            labels: Labels = (("rpc_method", self.method_of(cmdid)),)
            yield from _series(histogram, DURATION, labels, DURATION_HELP)
        for (method, code), histogram in list(self._failed.items()):
            labels = (("error_type", str(code)), ("rpc_method", method))
            yield from _series(histogram, DURATION, labels, DURATION_HELP)
        meaning = "Delay of a timer of the event loop."
        yield from _series(self.lag, "gtcp_loop_lag_seconds", (), meaning)
        for limit, number in list(self._rejected.items()):
            yield _counter(
                "gtcp_rejections", number, "Refused requests and connections.", ("limit", limit)
            )
        for reason, number in list(self._cancelled.items()):
            yield _counter(
                "gtcp_cancelled_handlers", number, "Handlers cancelled.", ("reason", reason)
            )
        for method, seconds in list(self._blocked.items()):
            meaning = "Time for which handlers have blocked the event loop."
            yield _counter("gtcp_loop_blocked_seconds", seconds, meaning, ("rpc_method", method))
        yield _counter("gtcp_received_bytes", self.received_bytes, "Bytes of requests received.")
        yield _counter("gtcp_sent_bytes", self.sent_bytes, "Bytes of replies sent.")
        yield _counter("gtcp_drains", self.drains, "Drains that have begun.")

    def _fail(self, cmdid: int, reply: Failure, seconds: float) -> None:
        cell = self.method_of(cmdid), reply.code
        histogram = self._failed.get(cell)
        if histogram is None:
            histogram = self._failed[cell] = Histogram()
        histogram.observe(seconds)
        limit = REJECTIONS.get((reply.code, reply.message))
        if limit is not None:
            self._rejected[limit] += 1
        elif reply.code == DEADLINE_EXCEEDED and reply.message in CANCELLATIONS:
            self._cancelled[CANCELLATIONS[reply.message]] += 1


class Both:
    """Passes on to two observers of requests: the metrics and the access log."""

    def __init__(self, first: Any, second: Any) -> None:
        self._first, self._second = first, second

    def note(self, request: Received, reply: Success | Failure, sent: int) -> None:
        """Pass on a request that was answered."""
        self._first.note(request, reply, sent)
        self._second.note(request, reply, sent)

    def note_refused(
        self, address: str, cmdid: int, reply: Failure, received: int, sent: int
    ) -> None:
        """Pass on a request that was refused."""
        self._first.note_refused(address, cmdid, reply, received, sent)
        self._second.note_refused(address, cmdid, reply, received, sent)

    def write(self) -> None:
        """Have both write what they have noted."""
        self._first.write()
        self._second.write()

    def abandon(self) -> None:
        """Have both write nothing any more, in a forked child."""
        self._first.abandon()
        self._second.abandon()


def _counter(metric: str, value: float, meaning: str, *labels: tuple[str, str]) -> Sample:
    return Sample("counter", metric, metric + "_total", labels, meaning, value)
