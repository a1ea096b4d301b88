"""Traces: three hops make one, streams and errors end their spans."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import gtcp
from gtcp import tracing
from gtcp.testing import FaultProxy
from tests.helpers import eventually, serving

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def _provider() -> None:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider(resource=Resource.create({})))
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))


@pytest.fixture(autouse=True)
def _cleared() -> None:
    EXPORTER.clear()


def spans(count: int) -> list[Any]:
    """The finished spans, as soon as there are so many."""
    eventually(lambda: len(EXPORTER.get_finished_spans()) >= count)
    found = EXPORTER.get_finished_spans()
    assert len(found) == count
    return list(found)


def last() -> gtcp.Commands:
    table = gtcp.Commands()
    table.middleware(tracing.server)

    @table.handler(1)
    def stock(request: gtcp.Request) -> str:
        return str(trace.get_current_span().get_span_context().span_id)

    @table.handler(2)
    def fail(request: gtcp.Request) -> None:
        raise gtcp.CommandError(1001, "there is only tea")

    @table.handler(3)
    def crash(request: gtcp.Request) -> None:
        raise KeyError("tea")

    @table.handler(4)
    def rows(request: gtcp.Request) -> Iterator[int]:
        for number in range(3):
            yield number
            if request.params.get("crash"):
                raise KeyError("tea")

    return table


def test_three_hops_make_one_trace() -> None:
    with serving(last()) as back:
        middle = gtcp.Commands()
        middle.middleware(tracing.server)
        behind = gtcp.Client(back.address, middleware=[tracing.client])
        middle.handler(7)(lambda _request: behind.call("stock"))
        with serving(middle) as front:
            with gtcp.Client(front.address, middleware=[tracing.client]) as client:
                innermost = client.call(7)
            found = spans(4)
            front.run(behind.close)
    assert len({each.context.trace_id for each in found}) == 1
    by_id = {each.context.span_id: each for each in found}
    each = by_id[int(innermost)]
    chain = []
    while each is not None:
        chain.append((each.kind.name, each.name))
        each = by_id.get(each.parent.span_id) if each.parent else None
    assert chain == [
        ("SERVER", "stock"),
        ("CLIENT", "stock"),
        ("SERVER", "<lambda>"),
        ("CLIENT", "7"),
    ]
    server = by_id[int(innermost)]
    assert dict(server.attributes) == {
        "rpc.system.name": "gtcp",
        "rpc.method": "stock",
        "network.peer.address": "127.0.0.1",
        "rpc.status_code": "0",
    }


@pytest.mark.parametrize(
    ("cmdid", "code", "error", "events"),
    [
        (2, "1001", ("1001", "1001"), [1, 0]),
        (3, "500", ("500", "KeyError"), [1, 1]),
        (9, "404", ("404",), [1]),
    ],
)
def test_errors(cmdid: int, code: str, error: tuple[str, ...], events: list[int]) -> None:
    with serving(last()) as running:
        address = running.address
        client = gtcp.Client(address, middleware=[tracing.client])
        with client, pytest.raises(gtcp.RemoteError):
            client.call(cmdid)
        found = sorted(spans(len(error)), key=lambda each: each.kind.name)
    assert tuple(each.attributes["error.type"] for each in found) == error
    assert {each.attributes["rpc.status_code"] for each in found} == {code}
    assert {each.status.status_code.name for each in found} == {"ERROR"}
    assert [len(each.events) for each in found] == events
    assert found[0].attributes["server.address"] == address


def test_a_stream_is_one_span_on_each_side() -> None:
    with ExitStack() as stack:
        running = stack.enter_context(serving(last()))
        with gtcp.Client(running.address, middleware=[tracing.client]) as client:
            with client.stream(4) as items:
                assert list(items) == [0, 1, 2]
                assert items.received == 3
            spans(2)
            with client.stream(4) as items:
                assert next(items) == 0
            spans(4)
            assert next(iter(client.stream(4))) == 0  # closed when it is forgotten
            spans(6)
            with pytest.raises(gtcp.RemoteError):
                list(client.stream(4, {"crash": True}))
            assert [each.status.status_code.name for each in spans(8)[6:]] == ["ERROR", "ERROR"]
            assert list(client.map(1, [{}] * 2))
            assert len(spans(11)) == 11


def test_retries_are_events() -> None:
    with ExitStack() as stack:
        running = stack.enter_context(serving(last()))
        proxy = stack.enter_context(FaultProxy(running.address))
        with gtcp.Client(proxy.address, middleware=[tracing.client]) as client:
            client.call(1)
            spans(2)
            proxy.set(refuse=True)
            proxy.reset()
            with pytest.raises((gtcp.ConnectError, gtcp.ConnectionLost)):
                client.call(1, idempotent=True)
    finished = EXPORTER.get_finished_spans()
    (span,) = (each for each in finished if each.status.status_code.name == "ERROR")
    assert [each.name for each in span.events] == ["retry"] * 3 + ["exception"]
    assert span.attributes["error.type"] in ("ConnectError", "ConnectionLost")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "gtcp.tracing")
    with pytest.raises(ImportError, match=r"pip install 'gtcp-rpc\[opentelemetry\]'"):
        __import__("gtcp.tracing")


@pytest.mark.programs
def test_spans_reach_a_collector_over_http() -> None:
    exporter_module = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest()
            request.ParseFromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    received.extend(span.name for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        exporter = exporter_module.OTLPSpanExporter(endpoint=url)
        processor = SimpleSpanProcessor(exporter)
        provider: Any = trace.get_tracer_provider()
        provider.add_span_processor(processor)
        try:
            with serving(last()) as running:
                with gtcp.Client(running.address, middleware=[tracing.client]) as client:
                    client.call("stock")
                eventually(lambda: len(received) == 2)
        finally:
            processor.shutdown()
            collector.shutdown()
            thread.join()
    assert received == ["stock", "stock"]
