"""Log records as JSON, by gtcp's formatter and by others."""

from __future__ import annotations

import json
import logging
from typing import Any

import gevent
import pytest

import gtcp
from tests.helpers import serving


class Kept(logging.Handler):
    """Keeps lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def kept() -> Any:
    handler, log = Kept(), logging.getLogger("tests.json")
    handler.setFormatter(gtcp.JsonFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)


def test_values_that_json_has_not() -> None:
    record = logging.makeLogRecord(
        {"msg": "a lone \ud800", "peer": object(), "cmdid": float("nan"), "levelname": "INFO"}
    )
    entry = json.loads(gtcp.JsonFormatter().format(record))
    assert entry["message"] == "a lone \\ud800"
    assert entry["peer"].startswith("<object object")


def test_a_stack_is_part_of_the_line(kept: Kept) -> None:
    logging.getLogger("tests.json").info("here", stack_info=True)
    assert "test_a_stack_is_part" in json.loads(kept.lines[0])["stack"]


def test_the_filter_gives_other_formatters_the_request(kept: Kept) -> None:
    kept.setFormatter(logging.Formatter("%(peer)s %(cmdid)d %(method)s %(id)s %(message)s"))
    kept.addFilter(gtcp.RequestFilter())
    table = gtcp.Commands()

    @table.handler(7)
    def pay(request: gtcp.Request) -> None:
        logging.getLogger("tests.json").info("paid")

    with serving(table) as running, running.line() as line:
        line.ask({"cmdid": 7, "id": "a"})
    [text] = kept.lines
    peer, rest = text.split(" ", 1)
    assert peer.startswith("127.0.0.1:")
    assert rest == "7 pay a paid"


def test_a_greenlet_started_by_spawn_logs_the_request(kept: Kept) -> None:
    table = gtcp.Commands()

    def work(number: int) -> None:
        with gtcp.deadline(5):
            logging.getLogger("tests.json").info("work %d", number)

    @table.handler(7)
    def pay(request: gtcp.Request) -> None:
        gtcp.spawn(work, 1).get()
        gevent.spawn(logging.getLogger("tests.json").info, "on its own").get()

    with serving(table) as running, running.line() as line:
        line.ask({"cmdid": 7, "id": "a"})
        line.ask({"cmdid": 7, "id": "b"})
    entries = [json.loads(each) for each in kept.lines]
    assert [each.get("id") for each in entries] == ["a", None, "b", None]
    assert entries[0]["method"] == "pay"


def test_the_trace_is_part_of_the_line(kept: Kept) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = trace.TracerProvider().get_tracer("tests")
    with tracer.start_as_current_span("work") as span:
        logging.getLogger("tests.json").info("traced")
    entry = json.loads(kept.lines[0])
    assert entry["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert entry["span_id"] == f"{span.get_span_context().span_id:016x}"
