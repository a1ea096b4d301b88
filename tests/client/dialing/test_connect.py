"""Connecting to a name with several addresses, some of which do not answer."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from greenlet import greenlet

import gtcp
from gtcp.client.dialing import connect as connecting
from gtcp.client.dialing import history
from gtcp.client.dialing.history import AddressHistory
from gtcp.client.dialing.resolve import Endpoint
from tests.client.dialing.names import FakeNames, Where, dead_address
from tests.client.fakes import FakeServer, Peer, begin, fake_server, open_sockets, outcome, soon
from tests.helpers import PATIENCE, eventually, free_port

Connect = Callable[..., gtcp.Client]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> FakeNames:
    return FakeNames(monkeypatch)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Where]:
    """Socket addresses to which connecting was begun, in order."""
    attempts: list[Where] = []

    class Attempt(connecting._Attempt):
        def __init__(self, endpoint: Endpoint) -> None:
            attempts.append(endpoint.sockaddr)
            super().__init__(endpoint)

    monkeypatch.setattr(connecting, "_Attempt", Attempt)
    return attempts


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server(Peer.echo) as fake:
        yield fake


def where(server: FakeServer) -> Where:
    host, port = server.address.split(":")
    return host, int(port)


def refusing() -> Where:
    return "127.0.0.1", free_port()


# Which address wins


@pytest.mark.parametrize("dead_host", ["127.0.0.2", "::1"])
def test_an_address_that_does_not_answer_is_overtaken(
    connect: Connect, names: FakeNames, tried: list[Where], server: FakeServer, dead_host: str
) -> None:
    with dead_address(dead_host) as dead:
        names.add("two.test", dead, where(server))
        client = connect("two.test", max_in_flight=1)
        held = open_sockets()
        assert client.call(1, {"n": 1}) == {"n": 1}
        assert tried == [dead, where(server)]
        assert open_sockets() <= held + 2  # both ends of the connection, in this process


def test_ipv6_is_tried_next(connect: Connect, names: FakeNames, tried: list[Where]) -> None:
    """Families alternate, and an address of the other family is reached."""
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        dead_address("127.0.0.2") as dead,
        dead_address("127.0.0.3") as dead_too,
    ):
        live = listener.getsockname()[:2]
        names.add("both.test", dead, dead_too, live)
        call = begin(connect("both.test").call, 1, {"n": 1})
        listener.settimeout(0)
        accepted = soon(lambda: _accepted(listener))
        assert tried == [dead, live]
        accepted.close()
        call.kill()


def _accepted(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None


def test_a_failed_attempt_starts_the_next_at_once(
    connect: Connect,
    names: FakeNames,
    tried: list[Where],
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 10 * PATIENCE)
    refused = [refusing(), refusing()]
    names.add("three.test", *refused, where(server))
    assert connect("three.test", connect_timeout=None, retries=0).call(1, {"n": 1}) == {"n": 1}
    assert tried == [*refused, where(server)]


def test_a_family_that_the_system_does_not_have_is_passed_over(
    names: FakeNames, server: FakeServer
) -> None:
    progress = connecting.Progress("odd.test")
    endpoints = [Endpoint(9999, ("10.0.0.1", 1)), Endpoint(socket.AF_INET, where(server))]
    connecting.connect(endpoints, AddressHistory(), progress).close()
    assert progress.failed == {}


def test_an_earlier_attempt_may_still_win(
    connect: Connect, names: FakeNames, tried: list[Where], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.01)
    with dead_address("127.0.0.2") as dead, _slow_server() as slow:
        names.add("slow.test", where(slow), dead)
        call = begin(connect("slow.test").call, 1, {"n": 1})
        soon(lambda: tried == [where(slow), dead])
        slow.accept()
        assert call.get() == {"n": 1}


@contextlib.contextmanager
def _slow_server() -> Iterator[FakeServer]:
    """A server that answers attempts to connect when it begins to accept."""
    slow = FakeServer(Peer.echo, backlog=0)
    fillers = [socket.socket() for _ in range(3)]
    try:
        for each in fillers:
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                each.connect(where(slow))
        yield slow
    finally:
        for each in fillers:
            each.close()
        slow.close()


# Time limits, kills, errors


def test_the_error_names_each_address_and_why(connect: Connect, names: FakeNames) -> None:
    refused = refusing()
    with dead_address("127.0.0.2") as dead:
        names.add("none.test", dead, refused)
        client = connect("none.test:7", retries=0, connect_timeout=0.3)
        error = outcome(client.call, 1)
        assert type(error) is gtcp.ConnectError
        assert str(error) == (
            "none.test:7: not connected within 0.3 s "
            f"(127.0.0.1:{refused[1]}: Connection refused; 127.0.0.2:{dead[1]}: no answer)"
        )
        error = outcome(client.call, 1, timeout=0.05)
        assert type(error) is gtcp.CallTimeout
        assert error.executed == "no"
        assert str(error).startswith("none.test:7: the deadline passed (127.0.0.1:")


def test_of_many_addresses_the_error_names_a_few(connect: Connect, names: FakeNames) -> None:
    refused = [refusing() for _ in range(6)]
    names.add("many.test", *refused)
    error = outcome(connect("many.test:7", retries=0).call, 1)
    assert type(error) is gtcp.ConnectError
    shown = "; ".join(f"{host}:{port}: Connection refused" for host, port in refused[:4])
    assert str(error) == f"can't connect to many.test:7: {shown}; and 2 more"


def test_the_error_of_a_single_address(connect: Connect, names: FakeNames) -> None:
    host, port = refusing()
    names.add("one.test", (host, port))
    error = outcome(connect("one.test:7", retries=0).call, 1)
    assert str(error) == f"can't connect to one.test:7: {host}:{port}: Connection refused"
    error = outcome(connect(f"{host}:{port}", retries=0).call, 1)
    assert str(error) == f"can't connect to {host}:{port}: Connection refused"


def test_a_name_without_addresses(connect: Connect, names: FakeNames) -> None:
    names.add("empty.test")
    error = outcome(connect("empty.test:7", retries=0).call, 1)
    assert str(error) == "can't connect to empty.test:7: the name has no addresses"


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(each, greenlet) and not each.dead for each in gc.get_objects())


@pytest.mark.parametrize("addresses", [1, 3])
def test_a_kill_or_a_timeout_leaves_nothing_behind(
    connect: Connect,
    names: FakeNames,
    tried: list[Where],
    monkeypatch: pytest.MonkeyPatch,
    addresses: int,
) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.01)
    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(dead_address(f"127.0.0.{n + 2}")) for n in range(addresses)]
        names.add("dead.test", *dead)
        client = connect("dead.test", connect_timeout=None)
        loop = gevent.get_hub().loop
        gevent.sleep(0)
        before = open_sockets(), loop.activecnt, greenlets()
        for _ in range(3):
            tried.clear()
            call = begin(client.call, 1, timeout=None)
            soon(lambda: len(tried) == addresses)
            assert (open_sockets(), greenlets()) == (before[0] + addresses, before[2] + 1)
            call.kill()
            del call
            with gevent.Timeout(0.05, False):
                client.call(1, timeout=None)
            assert (open_sockets(), loop.activecnt, greenlets()) == before


# What the client remembers


def test_the_address_that_connected_last_is_tried_first(
    connect: Connect,
    names: FakeNames,
    tried: list[Where],
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "FAILED_FOR", 0.0)
    with dead_address("127.0.0.2") as dead:
        names.add("two.test", dead, where(server))
        client = connect("two.test")
        assert client.call(1, {"n": 1}) == {"n": 1}
        tried.clear()
        threads = [
            threading.Thread(target=lambda: results.append(outcome(client.call, 1, {"n": 2})))
            for _ in range(3)
        ]
        results: list[Any] = []
        for each in threads:
            each.start()
        eventually(lambda: len(results) == 3)
        assert results == [{"n": 2}] * 3  # in other threads, too
        assert tried == [where(server)] * 3


def test_a_deadline_shorter_than_the_delay_reaches_the_next_address(
    connect: Connect, names: FakeNames, tried: list[Where], server: FakeServer
) -> None:
    """Each call is too short to try a second address, but the next one begins with it."""
    with dead_address("127.0.0.2") as dead, dead_address("127.0.0.3") as dead_too:
        names.add("three.test", dead, dead_too, where(server))
        client = connect("three.test")
        assert [type(outcome(client.call, 1, timeout=0.05)) for _ in range(2)] == [
            gtcp.CallTimeout
        ] * 2
        assert client.call(1, {"n": 1}) == {"n": 1}
        assert tried == [dead, dead_too, where(server)]


def endpoint(number: int) -> Endpoint:
    return Endpoint(socket.AF_INET, (f"10.0.0.{number}", 1))


def test_failed_addresses_go_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = endpoints = [endpoint(n) for n in range(3)]
    known = AddressHistory()
    now = 1000.0
    monkeypatch.setattr("gtcp.client.dialing.history.monotonic", lambda: now)
    assert known.ordered(endpoints) == endpoints
    known.failed(one)
    assert known.ordered(endpoints) == [two, three, one]
    known.connected(three)
    assert known.ordered(endpoints) == [three, two, one]
    now += 1
    known.failed(three)
    assert known.ordered(endpoints) == [two, one, three]
    now += 1
    known.failed(one)
    assert known.ordered(endpoints) == [two, three, one]
    now += 31
    assert known.ordered(endpoints) == [three, one, two]
    known.failed(one)
    known.connected(one)
    assert known.ordered(endpoints) == [one, two, three]


def test_the_history_forgets_addresses_that_a_name_no_longer_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = AddressHistory()
    now = 1000.0
    monkeypatch.setattr("gtcp.client.dialing.history.monotonic", lambda: now)
    for number in range(100):
        known.failed(endpoint(number))
        now += 1
    assert len(known._failed) <= 31


# Unix sockets


def test_a_unix_socket_whose_queue_is_full_is_waited_for(connect: Connect, tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(path)
        call = begin(connect(f"unix:{path}", retries=0).call, 1)
        gevent.sleep(0.03)
        assert not call.ready()
        stack.enter_context(listener.accept()[0])
        listener.settimeout(0)
        peer = stack.enter_context(soon(lambda: _accepted(listener)))
        peer.settimeout(0)
        assert soon(lambda: _read(peer)).endswith(b"\n")
        call.kill()


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except BlockingIOError:
        return b""
