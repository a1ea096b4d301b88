"""The watch for handlers that block the event loop, without its thread."""

from __future__ import annotations

import _thread
from types import SimpleNamespace
from typing import Any

import pytest

from gtcp.server.admin.blocked import BlockWatch, running, stack_of_thread
from gtcp.server.ops.metrics import OTHER, Metrics


class Scheduler:
    """A scheduler whose state the test sets."""

    def __init__(self) -> None:
        self.awake_since: float | None = None
        self.serving: list[Any] = []

    def run(self, cmdid: int) -> None:
        request = SimpleNamespace(cmdid=cmdid, address="10.0.0.7:1")
        self.serving = [SimpleNamespace(leader=SimpleNamespace(request=request))]


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics({1: "report"})


@pytest.fixture
def watch(scheduler: Scheduler, metrics: Metrics) -> BlockWatch:
    made = BlockWatch(scheduler, metrics)  # type: ignore[arg-type]
    made.close()  # the test looks itself
    return made


def blocked(metrics: Metrics) -> dict[str, float]:
    name = "gtcp_loop_blocked_seconds_total"
    return {dict(s.labels)["rpc_method"]: s.value for s in metrics.samples() if s.name == name}


def test_a_handler_is_named_once_a_second(
    watch: BlockWatch, scheduler: Scheduler, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.awake_since = 10.0
    scheduler.run(1)
    for step in range(60):
        watch.look(10.0 + step * 0.02)
    assert blocked(metrics) == {"report": pytest.approx(1.18)}
    lines = [each.getMessage() for each in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("cmdid 1 (report) of 10.0.0.7:1 has blocked the event loop for 0.1")


def test_a_loop_that_polls_is_not_blocked(
    watch: BlockWatch, scheduler: Scheduler, metrics: Metrics
) -> None:
    scheduler.run(1)
    for step in range(60):
        scheduler.awake_since = None if step % 3 == 0 else 10.0 + step * 0.02
        watch.look(10.0 + step * 0.02)
    assert blocked(metrics) == {}


def test_many_handlers_in_one_iteration_are_none_that_blocks(
    watch: BlockWatch, scheduler: Scheduler, metrics: Metrics
) -> None:
    scheduler.awake_since = 10.0
    for step in range(60):
        scheduler.run(1)  # another request
        watch.look(10.0 + step * 0.02)
    assert blocked(metrics) == {}


def test_code_outside_of_handlers(
    watch: BlockWatch, scheduler: Scheduler, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.awake_since = 10.0
    for step in range(10):
        watch.look(10.0 + step * 0.02)
    assert list(blocked(metrics)) == [OTHER]
    assert "code outside of handlers has blocked" in caplog.text


def test_a_log_level_that_hides_the_line(
    watch: BlockWatch, scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "gtcp.server")
    scheduler.awake_since = 10.0
    for step in range(10):
        watch.look(10.0 + step * 0.02)
    assert caplog.records == []


def test_nothing_runs(scheduler: Scheduler) -> None:
    assert running(scheduler) is None  # type: ignore[arg-type]
    scheduler.serving = [SimpleNamespace(leader=None)]
    assert running(scheduler) is None  # type: ignore[arg-type]


def test_stacks() -> None:
    assert "test_stacks" in stack_of_thread(_thread.get_ident())
    assert stack_of_thread(1) == ""


def test_a_bug_in_the_watch_is_logged(
    watch: BlockWatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_now: float) -> None:
        raise RuntimeError("as asked")

    monkeypatch.setattr(watch, "look", fail)
    watch._closed = False
    watch._run(lambda _seconds: None)
    assert "the watch for handlers that block the event loop has failed" in caplog.text
