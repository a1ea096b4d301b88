"""Metrics of a client for Prometheus. Needs prometheus-client (extra ``prometheus``)::

    from gtcp.client.metrics import ClientMetrics

    metrics = ClientMetrics()
    client = gtcp.Client("127.0.0.1", middleware=[metrics])
    metrics.watch(client)

The names are those of OpenTelemetry's conventions for RPC, and ``gtcp_client_...`` for what has
none. Calls are counted in dictionaries, and added up when the registry is scraped.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from time import monotonic
from typing import Any

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
except ImportError as error:
    raise ImportError(
        "gtcp.client.metrics needs prometheus-client: pip install 'gtcp-rpc[prometheus]'"
    ) from error

from gtcp.client.middleware import ClientCall, Next
from gtcp.client.pools import thread_ident
from gtcp.errors import CommandError, RemoteError
from gtcp.histogram import Histogram
from gtcp.results import WatchedResults

__all__ = ["ClientMetrics"]

Labels = tuple[str, str, str]

DURATION = "rpc_client_call_duration_seconds"

#: Counters of ``Client.stats``, their names as metrics, and what they mean.
COUNTERS = {
    "opened": ("gtcp_client_connections_opened", "Connections opened."),
    "waits": ("gtcp_client_pool_waits", "How often a call waited until a connection had room."),
    "sent": ("gtcp_client_requests_sent", "Request lines sent, those of retries too."),
    "dropped": ("gtcp_client_late_replies", "Replies that came after their call had ended."),
    "retries": ("gtcp_client_retries", "Attempts after the first one of a call."),
    "ejections": ("gtcp_client_ejections", "How often a host was ejected."),
}

GAUGES = {
    "connections": ("gtcp_client_connections", "Open connections."),
    "in_flight": ("gtcp_client_in_flight", "Calls that wait for a reply."),
    "ejected": ("gtcp_client_ejected", "Whether a host is ejected."),
}


class ClientMetrics:
    """Counts the calls of clients: middleware of a client, and a collector of prometheus-client.

    Any number of clients may share one, in any threads.

    Args:
        registry: where it registers; by default prometheus-client's own registry.
    """

    def __init__(self, registry: Any = REGISTRY) -> None:
        # By thread, so that no update is lost and none waits for a scrape.
        self._cells: dict[int, dict[Labels, Histogram]] = {}
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        registry.register(self)

    def watch(self, client: Any) -> None:
        """Publish what ``client.stats()`` returns, too, until the client is gone.

        Args:
            client: a ``gtcp.Client``. Those with the same address are added up.
        """
        self._clients.add(client)

    def __call__(self, call: ClientCall, call_next: Next) -> Any:
        """Time a call, with all its attempts; a map or stream until its end."""
        started = monotonic()
        try:
            result = call_next(call)
        except BaseException as exc:
            self._note(call, started, exc)
            raise
        if call.kind in ("map", "stream"):
            return WatchedResults(result, lambda exc: self._note(call, started, exc))
        self._note(call, started, None)
        return result

    def describe(self) -> list[Any]:
        """Return nothing: the registry need not collect to know the names.

        Returns:
            list: an empty list.
        """
        return []

    def collect(self) -> Iterator[Any]:
        """Return the metrics, for the registry.

        Returns:
            Iterator: metric families of prometheus-client.
        """
        names = ("rpc_method", "server_address", "error_type")
        durations = HistogramMetricFamily(
            DURATION, "Time of calls, with all attempts.", labels=names
        )
        total: dict[Labels, Histogram] = {}
        for cells in list(self._cells.values()):
            for labels, histogram in list(cells.items()):
                total.setdefault(labels, Histogram()).add(histogram)
        for labels, histogram in total.items():
            buckets = list(zip(histogram.names, accumulate(histogram.counts), strict=True))
            durations.add_metric(labels, buckets, histogram.total)
        yield durations
        yield from self._stats()

    def _note(self, call: ClientCall, started: float, exc: BaseException | None) -> None:
        labels = (str(call.command), call.address, _error_type(exc))
        cells = self._cells.setdefault(thread_ident(), {})
        histogram = cells.get(labels)
        if histogram is None:
            histogram = cells[labels] = Histogram()
        histogram.observe(monotonic() - started)

    def _stats(self) -> Iterator[Any]:
        found: dict[tuple[str, str], Counter[str]] = {}
        for client in list(self._clients):
            stats = client.stats()
            address = str(client.address)
            hosts = stats.pop("hosts", None)
            if hosts is None:
                found.setdefault((address, address), Counter()).update(stats)
                continue
            for host, counts in hosts.items():
                found.setdefault((address, host), Counter()).update(counts)
            found.setdefault((address, ""), Counter())["retries"] += stats["retries"]
        labels = ("server_address", "host")
        for kinds, family in ((COUNTERS, CounterMetricFamily), (GAUGES, GaugeMetricFamily)):
            for key, (name, meaning) in kinds.items():
                metric = family(name, meaning, labels=labels)
                for where, counts in found.items():
                    if key in counts:
                        metric.add_metric(where, counts[key])
                if metric.samples:
                    yield metric


def _error_type(exc: BaseException | None) -> str:
    """Return the code of a reply, the name of another exception, or nothing for success."""
    if exc is None:
        return ""
    return str(exc.code) if isinstance(exc, RemoteError | CommandError) else type(exc).__name__
