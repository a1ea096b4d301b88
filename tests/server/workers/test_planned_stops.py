"""Planned stops of a service with several workers: the outcomes of its calls."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic

import pytest

import gtcp
from tests.helpers import PATIENCE, Line, eventually
from tests.server.services import (
    PID,
    Load,
    Service,
    Start,
    Waiting,
    call,
    pids,
    refused,
    signal_group,
    write_app,
)

pytestmark = [pytest.mark.programs, pytest.mark.untraced]


class TestStop:
    def test_new_calls_are_refused_while_a_call_in_flight_is_finished(
        self, start: Start, tmp_path: Path
    ) -> None:
        service = start()
        where = service.where
        waiting = Waiting(where, tmp_path / "call")
        service.send(signal.SIGTERM)
        eventually(lambda: refused(where))
        for _ in range(20):
            assert refused(where)
        assert waiting.let_go() == "done"
        assert service.end() == 0

    def test_no_call_under_load_is_uncertain(
        self, start: Start, folder: Path, tmp_path: Path
    ) -> None:
        service = start()
        where = service.where
        waiting = Waiting(where, tmp_path / "call")
        load = Load(where, folder)
        load.goes_on()
        service.send(signal.SIGTERM)
        eventually(lambda: len(load.problems) > 20)
        load.end()
        assert waiting.let_go() == "done"
        assert service.end() == 0
        assert set(load.told) == {"no"}, load.problems
        assert load.runs == dict.fromkeys(load.finished, 1)

    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
    def test_a_second_signal_to_the_master_cuts_the_drain_short(
        self, start: Start, tmp_path: Path, second: signal.Signals
    ) -> None:
        service = start("--graceful-timeout", "3600")
        where = service.where
        waiting = Waiting(where, tmp_path / "call")
        service.send(signal.SIGTERM)
        eventually(lambda: refused(where))
        service.send(second)
        assert service.end() == 0
        outcome = waiting.end()
        assert isinstance(outcome, gtcp.ConnectionLost)
        assert outcome.executed == "maybe"

    def test_a_second_sigterm_to_a_worker_cuts_its_drain_short(
        self, start: Start, tmp_path: Path
    ) -> None:
        service = start("--graceful-timeout", "3600")
        where = service.where
        waiting = Waiting(where, tmp_path / "call")
        worker = waiting.worker
        os.kill(worker, signal.SIGTERM)
        eventually(lambda: not listens(worker))  # it drains
        os.kill(worker, signal.SIGTERM)
        assert isinstance(waiting.end(), gtcp.ConnectionLost)
        service.until(lambda: worker not in service.children and len(service.children) == 2)
        assert call(where, PID) != worker

    def test_one_sigterm_to_the_whole_group_does_not_cut_the_drain_short(
        self, start: Start, tmp_path: Path
    ) -> None:
        service = start()
        where = service.where
        waiting = Waiting(where, tmp_path / "call")
        signal_group(service.process.pid, signal.SIGTERM)
        eventually(lambda: refused(where))
        service.until(lambda: len(service.children) == 1)
        assert waiting.let_go() == "done"
        assert service.end() == 0

    def test_a_worker_that_still_starts_tells_those_who_wait_in_the_queue(
        self, folder: Path
    ) -> None:
        go = folder / "go"
        write_app(folder, before=f"while not Path({str(go)!r}).exists(): time.sleep(.01)")
        service = Service("gunicorn", folder, workers=1)
        try:
            service.wait_for("Booting worker")
            where = service.log.partition("Listening at: http://")[2].split()[0]
            with Line(where) as line:
                line.send({"cmdid": PID, "id": 1})
                service.send(signal.SIGTERM)
                service.wait_for("Handling signal: term")
                go.touch()
                assert {"code": 503, "message": "going away"} in line.rest()
            assert service.end() == 0
        finally:
            service.kill()


class TestReplacement:
    def test_max_requests_starts_the_next_worker_first(self, folder: Path, tmp_path: Path) -> None:
        service = Service("gunicorn", folder, "--max-requests", "20", workers=1)
        try:
            where = service.where
            waiting = Waiting(where, tmp_path / "call")
            (first,) = service.children
            load = Load(where, folder, threads=4, clients=2)
            service.until(lambda: set(load.pids) - {first})
            load.goes_on()  # while the first one still waits for its call
            load.end()
            assert first in service.children
            assert waiting.let_go() == "done"
            assert load.problems == []
        finally:
            service.kill()

    def test_a_worker_that_crashes_is_replaced(self, start: Start) -> None:
        service = start()
        where = service.where
        killed = min(service.children)
        os.kill(killed, signal.SIGKILL)
        service.until(lambda: len(service.children) == 2 and killed not in service.children)
        service.until(lambda: set(pids(where)) == service.children)


def listens(pid: int) -> bool:
    """Whether a process has a listening TCP socket open."""
    inodes = set()
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = row.split()
        if fields[3] == "0A":
            inodes.add(f"socket:[{fields[9]}]")
    end = monotonic() + PATIENCE
    while monotonic() < end:
        try:
            return bool(inodes & {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()})
        except FileNotFoundError:
            continue  # a descriptor was closed meanwhile
    raise AssertionError("descriptors come and go")
