"""One client in many OS threads and in forked processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

import gtcp
from tests.client.fakes import (
    FakeServer,
    Peer,
    fake_server,
    full_accept_queue,
    open_sockets,
    outcome,
    soon,
)
from tests.helpers import PATIENCE, Gate, Serving, eventually, free_port, serving

Connect = Callable[..., gtcp.Client]

ROOT = Path(__file__).parents[2]


class App:
    """The server that the programs call; it remembers the ids of calls that must run once."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.gate = Gate()
        self.commands = gtcp.Commands()
        for cmdid, function in enumerate((self.echo, self.sleep, self.once, self.hold), start=1):
            self.commands.handler(cmdid)(function)

    def echo(self, request: gtcp.Request) -> Any:
        return request.params

    def sleep(self, request: gtcp.Request) -> str:
        gevent.sleep(request.params["seconds"])
        return "slept"

    def once(self, request: gtcp.Request) -> Any:
        self.ids.append(request.params["id"])
        return request.params

    def hold(self, request: gtcp.Request) -> None:
        self.gate.wait()


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server(app: App) -> Iterator[Serving]:
    with serving(app.commands) as running:
        yield running


def start(name: str, address: str, *flags: str) -> subprocess.Popen[str]:
    """One of the programs of ``children``."""
    command = [sys.executable, "-m", "tests.client.children", name, address, *flags]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(program: subprocess.Popen[str]) -> None:
    """Wait for a program; fails with what it said when it failed."""
    try:
        out, err = program.communicate(timeout=3 * PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        out, err = program.communicate()
    assert (program.returncode, out.splitlines()[-1:]) == (0, ["done"]), err
    assert "Traceback" not in err, err


@contextmanager
def forking(name: str, address: str, *flags: str) -> Iterator[None]:
    """Run a program; the block is entered when it has forked."""
    program = start(name, address, *flags)
    assert program.stdout is not None
    first = program.stdout.readline()
    if first != "forked\n":
        finish(program)
        pytest.fail("it has not forked")
    try:
        yield
    finally:
        finish(program)


modes = pytest.mark.parametrize("flags", [(), ("--patched",)], ids=["plain", "patched"])


# Threads


@modes
@pytest.mark.parametrize("name", ["threads", "threads_come_and_go"])
@pytest.mark.cover_programs
def test_threads(server: Serving, name: str, flags: tuple[str, ...]) -> None:
    finish(start(name, server.address, *flags))
    eventually(lambda: len(server.server.connections) == 0)


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a thread; the function returned waits and returns the outcome."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(outcome(function)), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE)
        assert results, "the thread does not end"
        return results[0]

    return result


def test_each_thread_has_its_own_connections(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    client.call(1)
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        client.call(1)
        begun.set()
        assert end.wait(PATIENCE)

    result = in_thread(work)
    assert begun.wait(PATIENCE)
    assert client.stats()["connections"] == len(server.server.connections) == 2
    end.set()
    assert result() is None
    eventually(lambda: len(server.server.connections) == 1)
    assert client.stats()["opened"] == 2
    assert client.call(1, {"n": 1}) == {"n": 1}


def test_closing_in_another_thread_tells_the_calls_in_flight(
    connect: Connect, app: App, server: Serving
) -> None:
    client = connect(server.address)
    results = [in_thread(lambda: client.call(4)) for _ in range(3)]
    eventually(lambda: app.gate.waiting == 3)
    in_thread(client.close)()
    errors = [each() for each in results]
    assert [type(each) for each in errors] == [gtcp.ConnectionLost] * 3
    assert {each.executed for each in errors} == {"maybe"}
    eventually(lambda: app.gate.stopped == 3)


def test_closing_reaches_a_thread_that_does_something_else(
    connect: Connect, server: Serving
) -> None:
    client = connect(server.address)
    begun, end = threading.Event(), threading.Event()

    def work() -> Any:
        client.call(1)
        begun.set()
        assert end.wait(PATIENCE)  # not in its event loop
        return outcome(client.call, 1)

    result = in_thread(work)
    assert begun.wait(PATIENCE)
    client.close()
    eventually(lambda: len(server.server.connections) == 0)
    end.set()
    error = result()
    assert isinstance(error, gtcp.ConnectError)
    assert error.executed == "no"
    assert client.stats()["opened"] == 1


def test_closing_while_threads_come_and_go(server: Serving) -> None:
    """The slower one finds the client closed, or its calls lost; nothing else happens."""
    for _ in range(20):
        client = gtcp.Client(server.address, retries=0)

        def work(client: gtcp.Client = client) -> Any:
            for n in range(5):
                client.call(1, {"n": n})

        results = [in_thread(work) for _ in range(5)]
        client.close()
        for each in results:
            error = each()
            assert error is None or isinstance(error, gtcp.ConnectError | gtcp.ConnectionLost)
    eventually(lambda: len(server.server.connections) == 0)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_thread_that_only_closes_leaves_nothing_behind(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    client.call(1)
    before = descriptors()
    for _ in range(3):
        assert in_thread(client.close)() is None
        assert in_thread(client.stats)()["opened"] == 1
    gevent.sleep(0)
    assert descriptors() <= before


def test_a_thread_may_destroy_its_hub(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    client.call(1)

    def work() -> None:
        for n in range(2):
            assert client.call(1, {"n": n}) == {"n": n}
            gevent.get_hub().destroy(destroy_loop=True)

    assert in_thread(work)() is None
    before = descriptors()
    for _ in range(5):
        assert in_thread(work)() is None
    eventually(lambda: descriptors() <= before)
    assert client.call(1, {"n": 1}) == {"n": 1}


def test_a_call_in_gevents_thread_pool(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    pool = gevent.get_hub().threadpool_class(3, hub=gevent.get_hub())
    before = descriptors()
    try:
        assert [pool.apply(client.call, (1, {"n": n})) for n in range(5)] == [
            {"n": n} for n in range(5)
        ]
    finally:
        pool.kill()
    soon(lambda: descriptors() <= before)


def test_closed_clients_leave_nothing_behind_in_a_thread_that_goes_on(server: Serving) -> None:
    def work() -> list[Any]:
        seen = []
        for _ in range(3):
            with gtcp.Client(server.address) as client:
                client.call(1)
                seen.append(weakref.ref(client._pools))
            del client
        gc.collect()
        return [each() for each in seen]

    assert in_thread(work)() == [None, None, None]


def test_counts_of_ended_threads_are_kept(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    results = [in_thread(lambda: [client.call(1) for _ in range(10)]) for _ in range(30)]
    for each in results:
        assert each() == [{}] * 10
    eventually(lambda: client.stats()["connections"] == 0)
    assert client.stats()["sent"] == 300
    assert client.stats()["opened"] == 30


# Forks


@modes
@pytest.mark.parametrize(
    "name",
    [
        "fork",
        "fork_by_multiprocessing",
        "fork_unseen",
        "unseen_fork_and_the_event_loop",
        "fork_before_use",
        "fork_in_the_child_again",
        "fork_in_a_stream",
    ],
)
@pytest.mark.cover_programs
def test_forks(server: Serving, name: str, flags: tuple[str, ...]) -> None:
    finish(start(name, server.address, *flags))


@pytest.mark.parametrize("name", ["fork_with_threads", "fork_in_a_thread"])
@pytest.mark.cover_programs
def test_forks_and_threads(server: Serving, name: str) -> None:
    finish(start(name, server.address))


@modes
@pytest.mark.cover_programs
def test_a_queued_line_is_sent_by_the_parent_alone(
    app: App, server: Serving, flags: tuple[str, ...]
) -> None:
    with forking("fork_with_a_line_queued", server.address, *flags):
        pass
    assert app.ids == ["queued"]


@modes
def test_a_connection_on_its_way_is_the_parents(flags: tuple[str, ...]) -> None:
    with full_accept_queue() as server:
        with forking("fork_while_connecting", server.address, *flags):
            server.accept()
        assert [each["params"] for each in server.lines] == [{"id": "connecting"}]


@modes
@pytest.mark.cover_programs
def test_a_call_is_tried_again_by_the_parent_alone(flags: tuple[str, ...]) -> None:
    port = free_port()
    with forking("fork_while_backing_off", f"127.0.0.1:{port}", *flags):
        server = FakeServer(Peer.echo, port=port)
        server.accept()
    try:
        assert [each["params"] for each in server.lines] == [{"id": "backing off"}]
    finally:
        server.close()


def test_a_fork_says_nothing_on_the_parents_connection() -> None:
    """Nothing but the parent's lines arrives, and no end of the stream."""
    with fake_server(Peer.echo) as server:
        finish(start("fork_before_use", server.address))
        assert sorted(len(each.lines) for each in server.peers) == [1, 1]


# Clients that nobody has any more


def dropped(make: Callable[[], gtcp.Client], count: int) -> None:
    for _ in range(count):
        client = make()
        client.call(1)
    del client
    gc.collect()


def test_dropped_clients_release_their_sockets(server: Serving) -> None:
    before = open_sockets()
    with pytest.warns(ResourceWarning, match="unclosed gtcp.Client") as warned:
        dropped(lambda: gtcp.Client(server.address), 100)
    assert len([each for each in warned if each.category is ResourceWarning]) == 100
    soon(lambda: open_sockets() <= before)
    eventually(lambda: not server.server.connections)


def test_a_client_that_is_dropped_in_another_thread_releases_its_sockets(server: Serving) -> None:
    before = open_sockets()
    held = [gtcp.Client(server.address) for _ in range(20)]
    for client in held:
        client.call(1)
    del client

    def drop() -> None:
        held.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed gtcp.Client"):
        in_thread(drop)()
    eventually(lambda: not server.server.connections)  # before this thread's event loop runs
    soon(lambda: open_sockets() <= before)


def test_a_dropped_stream_releases_everything(server: Serving) -> None:
    before = open_sockets()

    def begin() -> None:
        results = gtcp.Client(server.address).map(1, ({"n": n} for n in range(100)), window=5)
        next(results)
        del results
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed gtcp.Client"):
        begin()
    soon(lambda: open_sockets() <= before)


def test_a_closed_or_unused_client_is_dropped_silently(server: Serving) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gtcp.Client(server.address)
        client = gtcp.Client(server.address)
        client.call(1)
        client.close()
        del client
        gc.collect()
