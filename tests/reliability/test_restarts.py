"""Planned restarts under steady load: nothing fails, nothing runs twice, nothing is uncertain."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

import gtcp
from tests.client.fakes import soon
from tests.ledger.messages import RUN, Done
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[2]
RESTARTS = int(os.environ.get("LEDGER_RESTARTS", "6"))
CALLERS = 8


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervised]:
    """A gunicorn with two workers that write down what runs."""
    monkeypatch.setenv("LEDGER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LEDGER_WAITED", str(tmp_path / "waited"))
    monkeypatch.setenv("LEDGER_LOADING", str(tmp_path / "loading"))
    arguments = (*GUNICORN, "-w", "2", "-b", "127.0.0.1:0", "tests.ledger.app:server")
    master = Supervised(tmp_path / "log", *arguments, cwd=ROOT)
    yield master
    master.kill()


class Callers:
    """Greenlets that call without a pause, none of it idempotent, and count what they sent."""

    def __init__(self, address: str) -> None:
        self.finished: list[str] = []
        self.problems: list[str] = []
        self._clients = [gtcp.Client(address, min_connections=2) for _ in range(2)]
        self._numbers = itertools.count()
        self._going_on = True
        self._greenlets = [gevent.spawn(self._call, each % 2) for each in range(CALLERS)]

    def _call(self, which: int) -> None:
        while self._going_on:
            number = f"call{next(self._numbers)}"
            sleep = 0.002 if which else 0.0
            try:
                done = self._clients[which].call(RUN, {"id": number, "sleep": sleep}, result=Done)
            except gtcp.GtcpError as exc:
                self.problems.append(f"{number}: {type(exc).__name__} {exc} ({exc.executed})")
            else:
                assert done.id == number
                self.finished.append(number)

    def end(self) -> None:
        self._going_on = False
        gevent.joinall(self._greenlets, raise_error=True)
        for each in self._clients:
            each.close()


def workers(master: Supervised) -> set[int]:
    """Return the workers that the kernel knows: one that ends while it starts logs nothing."""
    pid = master.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_reloads_in_a_row_lose_nothing(master: Supervised, tmp_path: Path) -> None:
    callers = Callers(master.address(workers=2))
    for _ in range(RESTARTS):
        old, before = workers(master), len(callers.finished)
        soon(lambda before=before: len(callers.finished) > before)
        master.send(signal.SIGHUP)
        soon(lambda old=old: len(workers(master)) == 2 and not old & workers(master))
    callers.end()
    assert callers.problems == []
    ran = Counter((tmp_path / "runs").read_text().split())
    assert ran == Counter(callers.finished)
