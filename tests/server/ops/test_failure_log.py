"""Log lines of failing handlers: the first of each kind in full, then a count."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

import gtcp
from gtcp.server.connections import context
from gtcp.server.ops import failure_log
from gtcp.server.ops.failure_log import IN_FULL, MAX_KINDS, WINDOW_SECONDS
from gtcp.server.ops.logger import SERVER
from tests.helpers import eventually, serving


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(failure_log, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def choose(request: Any) -> Any:
    """Fail in one of several ways, on lines of their own."""
    way = request.params["way"]
    if way == "key":
        return {}["content"]
    if way == "another key":
        return {}["content"]
    if way == "value":
        return int("x")
    return object()


def fail(way: str) -> None:
    raise RuntimeError(way)


@pytest.fixture
def commands() -> gtcp.Commands:
    commands = gtcp.Commands()
    commands.handler(1)(choose)
    commands.handler(2)(choose)
    return commands


def ask(commands: gtcp.Commands, way: str, cmdid: int = 1) -> str:
    """Return the error id."""
    line = json.dumps({"cmdid": cmdid, "params": {"way": way}}).encode()
    error_id: str = json.loads(commands.answer(line))["data"]["error_id"]
    return error_id


def full(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


def summaries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if not record.exc_info]


def test_the_first_of_a_kind_are_logged_in_full_and_the_others_counted(
    commands: gtcp.Commands, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [ask(commands, "key") for _ in range(100)]
    logged = [record.getMessage().rpartition(" ")[2] for record in full(caplog)]
    assert logged == ids[:IN_FULL]
    assert len(set(logged)) == IN_FULL
    assert len(caplog.records) == IN_FULL
    clock.now += WINDOW_SECONDS
    ask(commands, "key")
    assert summaries(caplog) == [
        f"cmdid 1 (choose) raised: KeyError, {100 - IN_FULL} more like error id {ids[-1]} "
        "were not logged"
    ]
    assert len(full(caplog)) == IN_FULL + 1  # another minute


def test_the_error_id_of_a_failure_that_is_only_counted_leads_to_one_of_its_kind(
    commands: gtcp.Commands, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(IN_FULL):
        ask(commands, "value")
        last = ask(commands, "key")
    assert ask(commands, "key") == last
    (record,) = [each for each in full(caplog) if last in each.getMessage()]
    assert "KeyError" in record.getMessage()


@pytest.mark.parametrize(
    ("way", "cmdid"), [("value", 1), ("another key", 1), ("key", 2), ("unsendable", 1)]
)
def test_a_different_failure_is_logged_at_once(
    commands: gtcp.Commands, clock: Clock, caplog: pytest.LogCaptureFixture, way: str, cmdid: int
) -> None:
    """Another type, another line, another command, another step."""
    for _ in range(IN_FULL + 1):
        ask(commands, "key")
    caplog.clear()
    error_id = ask(commands, way, cmdid)
    (record,) = caplog.records
    assert record.exc_info
    assert error_id in record.getMessage()


def test_the_line_is_the_handlers_and_that_which_raised(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Two calls of one helper, or of one library, fail for different reasons."""
    commands = gtcp.Commands()

    @commands.handler(1)
    def helped(request: Any) -> None:
        if request.params["way"] == "one":
            fail("one")
        fail("another")

    for _ in range(IN_FULL + 1):
        ask(commands, "one")
    assert len(full(caplog)) == IN_FULL
    ask(commands, "another")
    assert len(full(caplog)) == IN_FULL + 1


def test_all_that_is_due_is_reported_once(
    commands: gtcp.Commands, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (command, _) = commands
    for _ in range(IN_FULL + 3):
        ask(commands, "key")
    ask(commands, "value")
    assert not command.failures.due(clock.now)
    command.failures.report(clock.now)
    assert summaries(caplog) == []
    clock.now += WINDOW_SECONDS
    assert command.failures.due(clock.now)
    command.failures.report(clock.now)
    assert re.findall(r", (\d+) more", "".join(summaries(caplog))) == ["3"]
    assert not command.failures.due(clock.now)
    command.failures.report()
    assert len(summaries(caplog)) == 1


def test_the_kinds_that_are_counted_are_bounded_and_none_is_forgotten(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception type that is made for each request is logged each time: it may be new."""
    commands = gtcp.Commands()

    @commands.handler(1)
    def generate(request: Any) -> None:
        raise type(request.params["way"], (Exception,), {})

    (command,) = commands
    kind = "Same"
    same = type(kind, (Exception,), {})
    for _ in range(IN_FULL + 7):
        command.failures.log("raised", "", same())
    for n in range(MAX_KINDS):
        ask(commands, f"E{n}")
    assert len(command.failures._counts) == MAX_KINDS
    assert [re.findall(r"Same, (\d+) more", each) for each in summaries(caplog)] == [["7"]]


def test_a_server_reports_by_itself(
    commands: gtcp.Commands, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_log, "WINDOW_SECONDS", 0.2)
    monkeypatch.setattr(context, "REPORT_SECONDS", 0.02)
    with serving(commands) as up, up.line() as line:
        line.send(*[{"cmdid": 1, "params": {"way": "key"}} for _ in range(50)])
        replies = line.replies(50)
        eventually(lambda: summaries(caplog))
    ids = {each["data"]["error_id"] for each in replies}
    found = {record.getMessage().rpartition(" ")[2] for record in full(caplog)}
    assert ids == found
    counts = [int(re.findall(r", (\d+) more", each)[0]) for each in summaries(caplog)]
    assert sum(counts) + len(full(caplog)) == 50


def test_a_server_that_stops_reports_what_is_left(
    commands: gtcp.Commands, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(commands) as up, up.line() as line:
        line.send(*[{"cmdid": 1, "params": {"way": "key"}} for _ in range(50)])
        line.replies(50)
        assert summaries(caplog) == []
    assert [re.findall(r", (\d+) more", each) for each in summaries(caplog)] == [
        [str(50 - IN_FULL)]
    ]


def test_requests_can_not_fill_the_log(tmp_path: Any) -> None:
    """The README's first handler without its parameter: bytes of the log beside the requests'."""
    commands = gtcp.Commands()

    @commands.handler(10000)
    def hello(request: Any) -> Any:
        return {"content": request.params["content"]}

    file = tmp_path / "log"
    handler = logging.FileHandler(file)
    logging.getLogger(SERVER).addHandler(handler)
    request = b'{"cmdid":10000}\n'
    count = 2000
    try:
        with serving(commands) as up, up.line() as line:
            for _ in range(count // 50):
                line.send(request * 50)
                line.replies(50)
    finally:
        logging.getLogger(SERVER).removeHandler(handler)
        handler.close()
    assert "Traceback" in file.read_text()
    assert file.stat().st_size < count * len(request)
