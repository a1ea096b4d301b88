"""The end of a process that has drained, when something keeps it from ending."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers import Line, eventually
from tests.server.process.exit_app import ATEXIT, FORK, OBJECT, PID, PROCESS, THREAD, WAIT
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

SERVE = ("-m", "gtcp", "serve", "exit_app:server", "--bind", "127.0.0.1:0")

Start = Callable[..., tuple[Supervised, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*arguments: str) -> tuple[Supervised, str]:
            process = Supervised(tmp_path / "output", *arguments, cwd=Path(__file__).parent)
            stack.callback(process.kill)
            process.until(lambda: "gtcp: listening on " in process.log)
            where = process.log.split("gtcp: listening on ")[1].split(",")[0]
            return process, where

        yield start


def told_to_stop(start: Start, cmdid: int, *flags: str) -> Supervised:
    """Start a server, call a command, and stop the server."""
    process, address = start(*SERVE, *flags)
    with Line(address) as line:
        assert line.ask({"cmdid": cmdid})["code"] == 0
    process.send(signal.SIGTERM)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cmdid", "flags", "hangs"),
    [
        (PROCESS, (), "process a-process-that-hangs (pid "),
        (THREAD, ("--no-patch",), "thread a-thread-that-hangs, "),
    ],
    ids=["process", "thread"],
)
def test_it_ends_some_seconds_after_the_drain_and_says_what_hangs(
    start: Start, cmdid: int, flags: tuple[str, ...], hangs: str
) -> None:
    process = told_to_stop(start, cmdid, *flags)
    assert process.end() == 1
    assert f"not ended 10 s after the drain, ending now; it waits for {hangs}" in process.log


@pytest.mark.parametrize(
    ("cmdid", "flags", "said"),
    [
        (ATEXIT, (), "it waits for code that is not Python"),
        (PROCESS, (), "it waits for process a-process-that-hangs (pid "),
        (THREAD, ("--no-patch",), "it waits for thread a-thread-that-hangs, _shutdown ("),
    ],
)
@pytest.mark.cover_programs
def test_it_ends_sooner_after_a_second_signal(
    start: Start, cmdid: int, flags: tuple[str, ...], said: str
) -> None:
    process, address = start(*SERVE, *flags)
    with Line(address) as line, Line(address) as waiting:
        assert line.ask({"cmdid": cmdid})["code"] == 0
        waiting.send({"cmdid": WAIT})
        eventually(lambda: line.ask({"cmdid": PID})["result"][1] == 1)
        process.send(signal.SIGTERM)
        assert line.reply()["code"] == 503
        process.send(signal.SIGTERM)
        assert process.end() == 128 + signal.SIGTERM
    assert "not ended 1 s after the drain" in process.log
    assert said in process.log


@pytest.mark.slow
def test_it_ends_when_no_other_thread_runs_any_more(start: Start) -> None:
    process = told_to_stop(start, OBJECT)
    assert process.end() == 1
    assert "not ended 10 s after" not in process.log
    assert "in __del__" in process.log
    assert process.log.count("Timeout (0:00:11)!") == 1


def test_a_process_that_is_forked_at_exit_ends(start: Start) -> None:
    assert told_to_stop(start, FORK).end() == 0


def test_a_signal_during_shutdown_ends_it(start: Start) -> None:
    process, address = start(*SERVE)
    with Line(address) as line:
        assert line.ask({"cmdid": ATEXIT})["code"] == 0
    process.send(signal.SIGTERM)
    eventually(lambda: not _listens(address))
    process.send(signal.SIGTERM)
    # The signal may come a moment before interpreter shutdown; then it cuts the drain.
    assert process.end() in (-signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.programs
@pytest.mark.cover_programs
def test_a_worker_of_gunicorn_ends_too(start: Start) -> None:
    process, address = start(*GUNICORN, "-b", "127.0.0.1:0", "exit_app:server")
    with Line(address) as line:
        worker = line.ask({"cmdid": PID})["result"][0]
        assert line.ask({"cmdid": PROCESS})["code"] == 0
    os.kill(worker, signal.SIGTERM)
    process.wait_for(f"Worker (pid:{worker}) exited with code 1")
    assert "not ended 10 s after the drain" in process.log
    assert "process a-process-that-hangs" in process.log
    with Line(address) as line:
        assert line.ask({"cmdid": PID})["result"][0] != worker


def _listens(address: str) -> bool:
    with suppress(ConnectionRefusedError):
        Line(address).close()
        return True
    return False
