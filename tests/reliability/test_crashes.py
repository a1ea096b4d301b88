"""Processes that die, stop or return, under real gunicorn: the outcomes of calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest

import gtcp
from tests.helpers import eventually
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

pytestmark = pytest.mark.programs

APP = '''
import os

import gevent

import gtcp

server = gtcp.Server()


@server.handler(1)
def pid(request):
    return os.getpid()


@server.handler(2)
def wait(request):
    """Write the call down, wait, answer with the pid."""
    with open(request.params["file"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    gevent.sleep(request.params["seconds"])
    return os.getpid()
'''


class Cluster:
    """A gunicorn with two workers that can be started again on its address."""

    def __init__(self, folder: Path) -> None:
        (folder / "app.py").write_text(APP)
        self._folder = folder
        self._starts = 0
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        self._starts += 1
        self.gunicorn = Supervised(
            self._folder / f"log{self._starts}",
            *GUNICORN, "-w", "2", "-b", self.address, "--log-level", "info",
            "--graceful-timeout", "5", "--timeout", "30", "app:server",
            cwd=self._folder,
        )  # fmt: skip
        self.address = self.gunicorn.address(workers=2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(tmp_path)
    try:
        yield one
    finally:
        one.gunicorn.kill()


def waiting_call(client: gtcp.Client, file: Path, **options: Any) -> tuple[Any, int]:
    """A call that is being run, and the pid of the worker that runs it."""
    before = file.read_text() if file.exists() else ""
    seconds = options.pop("seconds", 30)
    call = gevent.spawn(client.call, 2, {"file": str(file), "seconds": seconds}, **options)

    def running() -> str:
        gevent.sleep(0.002)
        return file.read_text()[len(before) :] if file.exists() else ""

    return call, int(eventually(running))


def test_a_killed_worker_breaks_its_call_as_maybe(cluster: Cluster, tmp_path: Path) -> None:
    with gtcp.Client(cluster.address) as client:
        call, worker = waiting_call(client, tmp_path / "runs")
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(gtcp.ConnectionLost) as caught:
            call.get(timeout=10)
        assert caught.value.executed == "maybe"
        assert client.call(1, timeout=10) != worker


def test_an_idempotent_call_survives_the_death_of_its_worker(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "runs"
    with gtcp.Client(cluster.address) as client:
        call, worker = waiting_call(client, file, idempotent=True, seconds=1, timeout=20)
        os.kill(worker, signal.SIGKILL)
        assert call.get(timeout=20) != worker
    assert len(file.read_text().split()) == 2


def test_a_worker_killed_between_calls_costs_no_call(cluster: Cluster) -> None:
    with gtcp.Client(cluster.address) as client:
        for _ in range(3):
            worker = client.call(1)
            os.kill(worker, signal.SIGKILL)
            eventually(lambda pid=worker: not alive(pid))
            assert client.call(1) != worker


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return False
    return state != "Z"


def test_when_master_and_workers_are_killed_the_next_server_serves_at_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    with gtcp.Client(cluster.address) as client:
        call, _ = waiting_call(client, tmp_path / "runs")
        workers = cluster.gunicorn.workers
        cluster.gunicorn.kill()
        eventually(lambda: not any(map(alive, workers)))
        with pytest.raises(gtcp.ConnectionLost):
            call.get(timeout=10)
        with pytest.raises(gtcp.ConnectError) as caught:
            client.call(1, timeout=5)
        assert caught.value.executed == "no"
        cluster.start()
        assert client.call(1, timeout=1) > 0


def test_workers_whose_master_is_killed_answer_what_is_in_flight(
    cluster: Cluster, tmp_path: Path
) -> None:
    with gtcp.Client(cluster.address) as client:
        call, worker = waiting_call(client, tmp_path / "runs", seconds=3)
        cluster.gunicorn.process.kill()
        assert call.get(timeout=20) == worker


def test_a_stopped_worker_delays_and_loses_nothing(cluster: Cluster) -> None:
    with gtcp.Client(cluster.address) as client:
        worker = client.call(1)
        os.kill(worker, signal.SIGSTOP)
        try:
            started = monotonic()
            with pytest.raises(gtcp.CallTimeout) as caught:
                client.call(1, timeout=0.5)
            assert 0.5 <= monotonic() - started < 5
            assert caught.value.executed == "maybe"
        finally:
            os.kill(worker, signal.SIGCONT)
        assert client.call(1, timeout=5) == worker
        assert client.stats()["opened"] == 1
        gevent.sleep(0)
        # The late one was refused by the server, or answered for nobody.
        assert client.stats()["dropped"] in (0, 1)


def test_a_caller_that_is_killed_has_its_handler_cancelled(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        APP
        + """

@server.handler(3)
def tell(request):
    try:
        gevent.sleep(60)
    except gtcp.Cancelled:
        open(request.params["file"], "w").write("cancelled")
        raise
"""
    )
    gunicorn = Supervised(
        tmp_path / "log", *GUNICORN, "-w", "1", "-b", "127.0.0.1:0", "app:server", cwd=tmp_path
    )
    try:
        address = gunicorn.address()
        file = tmp_path / "told"
        code = (
            "import gtcp, gevent, sys\n"
            f"client = gtcp.Client({address!r})\n"
            f"call = gevent.spawn(client.call, 3, {{'file': {str(file)!r}}})\n"
            "gevent.sleep(0)\n"
            "while not client.stats()['in_flight']: gevent.sleep(0.001)\n"
            "client.call(1)\n"  # the server has seen the one before it
            "print('calling', flush=True)\n"
            "call.get()\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as caller:
            assert caller.stdout is not None
            assert caller.stdout.readline() == b"calling\n"
            caller.kill()
        eventually(lambda: file.exists() and file.read_text() == "cancelled")
    finally:
        gunicorn.kill()
