"""Name resolution: it is independent of the application's blocking jobs, and of hung lookups."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.client.dialing import resolve
from gtcp.client.dialing.resolve import Endpoint, interleaved
from tests.client.dialing.names import FakeNames
from tests.client.fakes import Peer, begin, fake_server, outcome, soon
from tests.helpers import PATIENCE, eventually

Connect = Callable[..., gtcp.Client]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNames]:
    fake = FakeNames(monkeypatch)
    yield fake
    fake.release()
    eventually(lambda: not resolve._current_lookups()._running)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def tasks() -> int:
    """How many OS threads this process has."""
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def in_thread(function: Callable[[], Any]) -> list[Any]:
    """The outcome of a function in an OS thread, once there is one."""
    outcomes: list[Any] = []
    threading.Thread(target=lambda: outcomes.append(outcome(function)), daemon=True).start()
    return outcomes


# Independent of the application


def test_a_name_is_resolved_while_all_of_gevents_threads_are_busy(connect: Connect) -> None:
    pool = gevent.get_hub().threadpool
    go_on = threading.Event()
    jobs = [pool.spawn(go_on.wait, PATIENCE) for _ in range(pool.maxsize)]
    try:
        with fake_server(Peer.echo) as server:
            client = connect(f"localhost:{port_of(server.address)}")
            assert client.call(1, {"n": 1}, timeout=PATIENCE / 2) == {"n": 1}
            assert not any(job.ready() for job in jobs)
    finally:
        go_on.set()
        gevent.joinall(jobs)


def test_threads_that_look_up_names_leave_nothing_behind(names: FakeNames) -> None:
    gevent.get_hub()
    before = tasks(), descriptors()
    with fake_server(Peer.echo) as server:

        def work() -> Any:
            with gtcp.Client(f"localhost:{port_of(server.address)}") as client:
                return client.call(1, {"n": 1})

        for _ in range(3):
            result = in_thread(work)
            eventually(lambda result=result: result)
            assert result == [{"n": 1}]
    eventually(lambda: tasks() <= before[0] and descriptors() <= before[1])
    assert names.lookups == ["localhost"] * 3


def test_a_numeric_address_needs_no_lookup(connect: Connect, names: FakeNames) -> None:
    with fake_server(Peer.echo) as server:
        assert connect(server.address).call(1, {"n": 1}) == {"n": 1}
    assert names.lookups == []


class Resolver:
    """A resolver that an application may choose in place of gevent's."""

    def __init__(self, where: tuple[str, int]) -> None:
        self.where = where
        self.asked: list[bytes] = []

    def getaddrinfo(self, host: bytes, *_args: Any) -> Any:
        self.asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", self.where)]

    def close(self) -> None:
        pass


def test_a_resolver_set_on_the_hub_is_used(connect: Connect, names: FakeNames) -> None:
    hub = gevent.get_hub()
    with fake_server(Peer.echo) as server:
        chosen = Resolver(("127.0.0.1", port_of(server.address)))
        before, hub.resolver = hub._resolver, chosen
        try:
            assert connect("somewhere.test").call(1, {"n": 1}) == {"n": 1}
        finally:
            hub.resolver = before
    assert chosen.asked == [b"somewhere.test"]
    assert names.lookups == []


def test_a_resolver_chosen_by_the_environment_is_used() -> None:
    with fake_server(Peer.echo) as server:
        program = f"""if True:
            import gevent, gtcp
            client = gtcp.Client("localhost:{port_of(server.address)}")
            print(client.call(1, {{"n": 1}}), gevent.get_hub()._resolver)
        """
        for name, shown in [("block", "gevent.resolver.blocking"), ("thread", "None")]:
            ended = run(program, GEVENT_RESOLVER=name)
            assert ended.returncode == 0, ended.stderr
            assert ended.stdout.startswith("{'n': 1} ")
            assert shown in ended.stdout


# Lookups that hang


def test_the_deadline_ends_the_wait_for_a_name(connect: Connect, names: FakeNames) -> None:
    names.hanging.add("hung.test")
    client = connect("hung.test", retries=0, connect_timeout=0.05)
    error = outcome(client.call, 1)
    assert type(error) is gtcp.ConnectError
    assert "the name is still being resolved" in str(error)
    error = outcome(client.call, 1, timeout=0.02)
    assert type(error) is gtcp.CallTimeout
    assert error.executed == "no"
    assert names.lookups == ["hung.test"]  # both waited for the same one


def test_names_that_hang_delay_no_other(connect: Connect, names: FakeNames) -> None:
    hung = [f"hung{n}.test" for n in range(30)]
    names.hanging.update(hung)
    calls = [begin(connect(name).call, 1) for name in hung]
    soon(lambda: set(names.lookups) == set(hung))
    with fake_server(Peer.echo) as server:
        names.add("fine.test", ("127.0.0.1", port_of(server.address)))
        assert connect("fine.test").call(1, {"n": 1}) == {"n": 1}
    assert not any(each.ready() for each in calls)
    gevent.killall(calls)


def test_calls_share_a_lookup_whatever_their_client_and_thread(
    connect: Connect, names: FakeNames
) -> None:
    with fake_server(Peer.echo) as server:
        names.hanging.add("slow.test")
        names.add("slow.test", ("127.0.0.1", port_of(server.address)))

        def call() -> Any:
            with gtcp.Client("slow.test") as client:
                return client.call(1, {"n": 1})

        calls = [begin(call) for _ in range(3)]
        in_threads = [in_thread(call) for _ in range(3)]

        def waiting() -> int:
            running = resolve._current_lookups()._running.get((b"slow.test", 8889), [])
            return sum(len(each.waiting) for each in running)

        soon(lambda: waiting() == 6)
        names.release()
        assert [each.get() for each in calls] == [{"n": 1}] * 3
        soon(lambda: all(in_threads))
        assert in_threads == [[{"n": 1}]] * 3
        assert names.lookups == ["slow.test"]


def test_each_call_gets_an_exception_of_its_own(connect: Connect, names: FakeNames) -> None:
    names.hanging.add("unknown.test")
    calls = [begin(connect("unknown.test", retries=0).call, 1) for _ in range(2)]
    soon(lambda: names.lookups)
    names.release()
    errors = [each.get() for each in calls]
    assert names.lookups == ["unknown.test"]
    assert ["Name or service not known" in str(each) for each in errors] == [True, True]
    assert errors[0].__cause__ is not errors[1].__cause__


def test_a_killed_greenlet_leaves_the_lookup_to_the_others(
    connect: Connect, names: FakeNames
) -> None:
    with fake_server(Peer.echo) as server:
        names.hanging.add("slow.test")
        names.add("slow.test", ("127.0.0.1", port_of(server.address)))
        active = gevent.get_hub().loop.activecnt
        killed = begin(connect("slow.test").call, 1)
        call = begin(connect("slow.test").call, 1, {"n": 1})
        soon(lambda: names.lookups)
        killed.kill()
        names.release()
        assert call.get() == {"n": 1}
        assert names.lookups == ["slow.test"]
    del call, killed
    soon(lambda: gevent.get_hub().loop.activecnt <= active + 1)  # the idle connection's


def test_an_old_lookup_is_not_joined_and_their_number_is_bounded(
    connect: Connect, names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_server(Peer.echo) as server:
        names.hanging.add("slow.test")
        names.add("slow.test", ("127.0.0.1", port_of(server.address)))
        monkeypatch.setattr(resolve, "STALE_AFTER", 0.0)
        hung = []
        for number in range(1, resolve.MAX_LOOKUPS + 1):
            hung.append(begin(connect("slow.test").call, 1, {"n": number}))
            soon(lambda number=number: len(names.lookups) == number)
        hung.append(begin(connect("slow.test").call, 1, {"n": 0}))
        gevent.sleep(0.01)
        assert len(names.lookups) == resolve.MAX_LOOKUPS
        names.hanging.clear()
        names.release()
        assert [each.get()["n"] for each in hung] == [1, 2, 3, 4, 0]


def test_a_new_lookup_succeeds_beside_one_that_hangs_for_ever(
    connect: Connect, names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_server(Peer.echo) as server:
        names.hanging.add("slow.test")
        names.add("slow.test", ("127.0.0.1", port_of(server.address)))
        first = outcome(connect("slow.test").call, 1, timeout=0.02)
        assert type(first) is gtcp.CallTimeout
        names.hanging.clear()  # for lookups that begin from now on
        monkeypatch.setattr(resolve, "STALE_AFTER", 0.0)
        assert connect("slow.test").call(1, {"n": 1}) == {"n": 1}


def test_a_thread_that_ends_during_its_lookup(names: FakeNames) -> None:
    names.hanging.add("hung.test")

    def work() -> None:
        greenlet = begin(gtcp.Client("hung.test").call, 1)
        soon(lambda: names.lookups)
        assert not greenlet.ready()
        gevent.get_hub().destroy(destroy_loop=True)

    ended = in_thread(work)
    eventually(lambda: ended)
    assert ended == [None]
    names.release()  # the fixture waits until the lookup has ended, without an error


def test_no_thread_can_be_started(
    connect: Connect, names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_args: Any) -> None:
        raise RuntimeError("can't start new thread")

    with fake_server(Peer.echo) as server:
        names.add("fine.test", ("127.0.0.1", port_of(server.address)))
        client = connect("fine.test", retries=0)
        with monkeypatch.context() as patch:
            patch.setattr(resolve, "_start_thread", no_thread)
            error = outcome(client.call, 1)
        assert type(error) is gtcp.ConnectError
        assert "can't start new thread" in str(error)
        assert client.call(1, {"n": 1}) == {"n": 1}


# Processes

HANG = """if True:
    import _socket, ctypes, os, sys
    import gevent, gtcp
    from gtcp.transport.sockets import original as system
    original = _socket.getaddrinfo
    parent = os.getpid()
    begun = []
    never = system("_thread", "allocate_lock")()
    never.acquire()

    def hang(host, *args):
        if host == b"localhost" and os.getpid() == parent and not args[4:]:
            begun.append(host)
            never.acquire()
        return original(host, *args)

    _socket.getaddrinfo = hang
    client = gtcp.Client(sys.argv[1])
"""


def run(program: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("patched", [False, True])
def test_a_lookup_that_hangs_does_not_keep_the_program_from_ending(patched: bool) -> None:
    patch = "from gevent import monkey; monkey.patch_all()\n" if patched else ""
    program = (
        patch
        + HANG
        + """
    try:
        client.call(1, timeout=0.1)
    except gtcp.CallTimeout as exc:
        print(exc, flush=True)
    """
    )
    ended = run(program, "localhost:1")
    assert ended.returncode == 0, ended.stderr
    assert "the name is still being resolved" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"])
@pytest.mark.cover_programs
def test_a_forked_child_looks_up_for_itself(fork: str) -> None:
    """Also after a fork that Python does not know of."""
    program = (
        HANG
        + f"""
    call = gevent.spawn(client.call, 1)
    while not begun:
        gevent.sleep(0.001)
    if (pid := {fork}) == 0:
        status = 1
        try:
            result = gtcp.Client(sys.argv[1], retries=0).call(1, {{"n": 1}})
            status = 0 if result == {{"n": 1}} else 2
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), call.ready(), flush=True)
    """
    )
    with fake_server(Peer.echo) as server:
        ended = run(program, f"localhost:{port_of(server.address)}")
    assert ended.stdout == "0 False\n", ended.stderr
    assert ended.returncode == 0


# The order of addresses


def test_families_alternate_and_the_first_ones_family_is_first() -> None:
    v4 = [Endpoint(socket.AF_INET, (f"10.0.0.{n}", 1)) for n in range(4)]
    v6 = [Endpoint(socket.AF_INET6, (f"fd00::{n}", 1, 0, 0)) for n in range(2)]
    assert interleaved([*v6, *v4]) == [v6[0], v4[0], v6[1], v4[1], v4[2], v4[3]]
    assert interleaved([v4[0], *v6, v4[1]]) == [v4[0], v6[0], v4[1], v6[1]]
    assert interleaved([v4[0], v4[0], v4[1], v4[0]]) == v4[:2]
    assert interleaved([]) == []
