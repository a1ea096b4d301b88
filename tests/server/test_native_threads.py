"""Handlers that hand work to native threads and processes, under ``gtcp serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gtcp
from tests.cli.processes import served
from tests.helpers import PATIENCE, eventually

WORK = """\
def square(number):
    return number * number
"""

APP = """\
import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

import gtcp
import work

server = gtcp.Server()
shared, own = gevent.get_hub().threadpool, ThreadPool(2)
processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
Lock = monkey.get_original("_thread", "allocate_lock")  # one for native threads
held = Lock()
held.acquire()

async def coroutine(value):
    await asyncio.sleep(0.05)
    return value

def run(value):
    return asyncio.run(coroutine(value))

@server.handler(1)
def inline(request):
    return run(request.params["n"])

@server.handler(2)
def in_the_shared_pool(request):
    return shared.apply(run, (request.params["n"],))

@server.handler(3)
def in_an_own_pool(request):
    return own.apply(run, (request.params["n"],))

def refuse(data):
    raise gtcp.CommandError(1001, "no tea", data)

@server.handler(4)
def refused(request):
    return shared.apply(refuse, ({"left": 0},))

@server.handler(5)
def refused_in_a_greenlet(request):
    return gtcp.spawn(refuse, {"left": 0}).get()

@server.handler(6)
def fails(request):
    return shared.apply(int, ("no number",))

def wait():
    with held:
        return "waited"

@server.handler(7)
def waits(request):
    return own.apply(wait)

@server.handler(8)
def state(request):
    return {"size": shared.maxsize, "jobs": len(own)}

@server.handler(9)
def release(request):
    held.release()

@server.handler(10)
def computed(request):
    return processes.submit(work.square, request.params["n"]).result()
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def concurrently(
    client: gtcp.Client, cmdid: int, count: int = 50, timeout: float = PATIENCE
) -> list[Any]:
    """Return the result or the error of each of so many concurrent calls."""
    calls = [{"n": n} for n in range(count)]
    return list(client.map(cmdid, calls, return_exceptions=True, window=count, timeout=timeout))


def test_asyncio_fails_in_most_of_many_handlers(app: Path) -> None:
    """The running loop of asyncio is one for each native thread. The first loop may even hang."""
    with served(app, "app", "--bind", "127.0.0.1:0") as running:
        with gtcp.Client(running.address) as client:
            outcomes = concurrently(client, 1, timeout=2)
        assert sum(isinstance(each, gtcp.RemoteError) for each in outcomes) > 25
        assert "cannot be called from a running event loop" in running.end()


@pytest.mark.parametrize("cmdid", [2, 3], ids=["shared", "own"])
def test_asyncio_runs_in_native_threads(app: Path, cmdid: int) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0") as running:
        with gtcp.Client(running.address) as client:
            assert concurrently(client, cmdid) == list(range(50))
        assert "Traceback" not in running.end()


def test_processes_compute_for_handlers(app: Path) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0") as running:
        with gtcp.Client(running.address) as client:
            assert concurrently(client, 10, 20) == [n * n for n in range(20)]
        assert "Traceback" not in running.end()


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one", "workers"])
@pytest.mark.parametrize("cmdid", [4, 5], ids=["thread", "greenlet"])
def test_refusal_reaches_the_caller_and_is_not_printed(
    app: Path, cmdid: int, options: tuple[str, ...]
) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0", *options) as running:
        with gtcp.Client(running.address) as client, pytest.raises(gtcp.RemoteError) as refused:
            client.call(cmdid)
        assert (refused.value.code, refused.value.data) == (1001, {"left": 0})
        assert refused.value.executed == "yes"
        assert "Traceback" not in running.end()


def test_failure_of_a_native_job_is_printed(app: Path) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0") as running:
        with gtcp.Client(running.address) as client, pytest.raises(gtcp.RemoteError) as failed:
            client.call(6)
        assert failed.value.code == 500
        assert "no number" in running.end()


def test_native_job_goes_on_after_the_deadline_and_keeps_its_place(app: Path) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0") as running:  # noqa: SIM117
        with gtcp.Client(running.address) as client:
            assert client.call(8) == {"size": 10, "jobs": 0}
            with pytest.raises(gtcp.CallTimeout):
                client.call(7, timeout=0.05)
            assert client.call(8)["jobs"] == 1
            client.call(9)
            eventually(lambda: client.call(8)["jobs"] == 0)
            assert client.call(7) == "waited"
