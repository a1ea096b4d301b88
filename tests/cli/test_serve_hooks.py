"""on_start and on_stop in real processes: once for each that serves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gtcp
from tests.cli.processes import COMMAND, only_line, run, served
from tests.helpers import eventually
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

APP = """\
import os
import time

import gtcp

server = gtcp.Server()

def note(what):
    with open("ran", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")

@server.on_start
def open_pool():
    if os.path.exists("broken"):
        raise ConnectionError("no database\\nat 10.0.0.1")
    note("start")

@server.on_stop
def close_pool():
    note("stop")
    while os.path.exists("hang"):
        time.sleep(0.01)

@server.handler(1)
def pid(request):
    return os.getpid()

@server.handler(2)
def slow(request):
    open("slow", "w").close()
    time.sleep(0.3)
    note("slow")
    return "done"
"""

FAILURE = "on_start open_pool failed: ConnectionError: no database at 10.0.0.1"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def ran(app: Path) -> list[str]:
    return (app / "ran").read_text().splitlines()


class TestOneProcess:
    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
    def test_start_runs_before_it_listens_and_stop_after_the_drain(
        self, app: Path, sig: signal.Signals
    ) -> None:
        with served(app, "app", "--bind", "127.0.0.1:0") as running:
            pid = running.process.pid
            assert ran(app) == [f"start {pid}"]
            with gtcp.Client(running.address) as client:
                client.notify(2)
                eventually((app / "slow").exists)
                running.end(sig)
        assert ran(app) == [f"start {pid}", f"slow {pid}", f"stop {pid}"]

    def test_a_failing_start_is_one_line_and_status_1(self, app: Path) -> None:
        (app / "broken").touch()
        ended = run("serve", "app", "--bind", "127.0.0.1:0", cwd=app)
        assert ended.returncode == 1
        assert only_line(ended.stderr) == f"error: {FAILURE}"
        debug = run("serve", "app", "--bind", "127.0.0.1:0", "--log-level", "debug", cwd=app)
        assert debug.returncode == 1
        assert "in open_pool" in debug.stderr  # the traceback

    def test_a_second_signal_ends_a_stop_that_hangs(self, app: Path) -> None:
        (app / "hang").touch()
        with served(app, "app", "--bind", "127.0.0.1:0") as running:
            running.process.send_signal(signal.SIGTERM)
            eventually(lambda: any(each.startswith("stop") for each in ran(app)))
            running.process.send_signal(signal.SIGTERM)
            running.drained()


@pytest.mark.programs
class TestWorkers:
    @pytest.fixture
    def stack(self) -> Iterator[ExitStack]:
        with ExitStack() as stack:
            yield stack

    @pytest.fixture(params=["serve", "gunicorn"])
    def command(self, request: pytest.FixtureRequest) -> list[str]:
        if request.param == "serve":
            return [*COMMAND[3:], "serve", "app:server", "--workers", "2", "--bind", "127.0.0.1:0"]
        return [*GUNICORN, "app:server", "-w", "2", "-b", "127.0.0.1:0"]

    def start(self, stack: ExitStack, app: Path, command: list[str]) -> Supervised:
        one = Supervised(app / "output", *command, cwd=app)
        stack.callback(one.kill)
        return one

    def test_each_worker_runs_them_once(
        self, app: Path, command: list[str], stack: ExitStack
    ) -> None:
        master = self.start(stack, app, command)
        eventually(lambda: (app / "ran").exists() and len(ran(app)) == 2)
        workers = {line.removeprefix("start ") for line in ran(app)}
        assert str(master.process.pid) not in workers
        master.until(lambda: master.workers == set(map(int, workers)))
        (ended, other) = workers
        os.kill(int(ended), signal.SIGTERM)  # this one drains, and another takes its place
        eventually(lambda: len(ran(app)) == 4)
        assert f"stop {ended}" in ran(app)
        (new,) = {line.split()[1] for line in ran(app)} - workers
        master.until(lambda: int(new) in master.workers)
        master.send(signal.SIGTERM)
        assert master.end() == 0
        assert sorted(ran(app)[4:]) == sorted([f"stop {other}", f"stop {new}"])
        assert len(ran(app)) == 6

    def test_a_failing_start_ends_gunicorn_with_one_line_of_each_worker(
        self, app: Path, command: list[str], stack: ExitStack
    ) -> None:
        (app / "broken").touch()
        master = self.start(stack, app, command)
        # 3 is gunicorn's status when a worker fails to boot; by itself it ends with 1 when the next
        # worker fails while it stops.
        assert master.end() in ((3,) if "serve" in command else (1, 3))
        assert FAILURE in master.log
        assert "in open_pool" not in master.log  # no traceback of it
        assert "stop" in (app / "ran").read_text()
