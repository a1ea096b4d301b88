"""Metrics of a client, as Prometheus would scrape them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import gevent
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import gtcp
from gtcp.client.metrics import ClientMetrics
from tests.helpers import serving

COUNT = "rpc_client_call_duration_seconds_count"


@pytest.fixture
def table() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def pay(request: gtcp.Request) -> int:
        return 1

    @table.handler(2)
    def refuse(request: gtcp.Request) -> None:
        raise gtcp.CommandError(1000, "no")

    @table.handler(3)
    def numbers(request: gtcp.Request) -> Iterator[int]:
        yield from range(5)

    @table.handler(4)
    def nap(request: gtcp.Request) -> None:
        gevent.sleep(30)

    return table


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Return each series, without buckets, by its name and the values of its labels."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (each.name, *(each.labels[name] for name in sorted(each.labels))): each.value
        for family in families
        for each in family.samples
        if "le" not in each.labels
    }


def test_calls_are_counted_by_method_and_outcome(table: gtcp.Commands) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with serving(table) as running, gtcp.Client(running.address, middleware=[metrics]) as client:
        for _ in range(3):
            client.call(1)
        client.call("pay")
        client.notify(1)
        with pytest.raises(gtcp.RemoteError):
            client.call(2)
        with pytest.raises(gtcp.CallTimeout):
            client.call(4, timeout=0.05)
        where, found = running.address, scraped(registry)
    assert found[COUNT, "", "1", where] == 4
    assert found[COUNT, "", "pay", where] == 1
    assert found[COUNT, "1000", "2", where] == 1
    # Who notices first that the deadline has passed, the client or the server?
    [(error, seconds)] = [
        (key[1], value)
        for key, value in found.items()
        if key[0] == "rpc_client_call_duration_seconds_sum" and key[2] == "4"
    ]
    assert error in ("CallTimeout", "408")
    assert 0.04 < seconds < 5


def test_streams_and_maps_last_until_their_end(table: gtcp.Commands) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with serving(table) as running, gtcp.Client(running.address, middleware=[metrics]) as client:
        assert list(client.map(1, [None] * 10)) == [1] * 10
        with client.stream(3) as items:
            assert next(items) == 0
            assert items.received == 1
            assert (COUNT, "", "3", running.address) not in scraped(registry)
        found = scraped(registry)
        assert found[COUNT, "", "1", running.address] == 1
        assert found[COUNT, "", "3", running.address] == 1


def test_threads_do_not_lose_calls(table: gtcp.Commands) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with serving(table) as running, gtcp.Client(running.address, middleware=[metrics]) as client:

        def work() -> None:
            for _ in range(200):
                client.call(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        while any(each.is_alive() for each in threads):
            scraped(registry)
        assert scraped(registry)[COUNT, "", "1", running.address] == 800


def test_counters_of_a_client_that_is_watched(table: gtcp.Commands) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with serving(table) as running:
        client = gtcp.Client(running.address)
        metrics.watch(client)
        client.call(1)
        where = running.address
        found = scraped(registry)
        assert found["gtcp_client_connections", where, where] == 1
        assert found["gtcp_client_connections_opened_total", where, where] == 1
        assert found["gtcp_client_requests_sent_total", where, where] == 1
        assert found["gtcp_client_retries_total", where, where] == 0
        assert found["gtcp_client_pool_waits_total", where, where] == 0
        client.close()
        del client
        gc.collect()
        assert "gtcp_client_connections" not in {name for name, *_ in scraped(registry)}


def test_counters_of_each_of_several_hosts(table: gtcp.Commands) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with (
        serving(table) as one,
        serving(table) as other,
        gtcp.Client([one.address, other.address]) as client,
    ):
        metrics.watch(client)
        client.connect()
        for _ in range(20):
            client.call(1)
        found = scraped(registry)
        sent = "gtcp_client_requests_sent_total"
        address = str(client.address)
        assert found[sent, one.address, address] + found[sent, other.address, address] == 20
        assert found["gtcp_client_ejected", one.address, address] == 0
        assert found["gtcp_client_retries_total", "", address] == 0


def test_without_prometheus_client_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "gtcp.client.metrics")
    with pytest.raises(ImportError, match=r"pip install 'gtcp-rpc\[prometheus\]'"):
        importlib.import_module("gtcp.client.metrics")
