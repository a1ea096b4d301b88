"""Which connection takes a call: opening, queueing, and greenlets that give up on the way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.client.dialing.dial import Options
from tests.client.dialing.names import FakeNames
from tests.client.fakes import (
    FakeServer,
    Peer,
    begin,
    fake_server,
    full_accept_queue,
    open_sockets,
    outcome,
    soon,
)
from tests.helpers import PATIENCE

Connect = Callable[..., gtcp.Client]
Scripted = Callable[..., tuple[FakeServer, gtcp.Client]]


class Holding:
    """A script that answers cmdid 1 immediately, and the others when it may."""

    def __init__(self) -> None:
        self._go_on = threading.Event()

    def __call__(self, peer: Peer) -> None:
        held = []
        while (request := peer.request()) is not None:
            if request["cmdid"] == 1:
                peer.answer(request)
            elif request["cmdid"] == 2:
                held.append(request)
                if self._go_on.is_set():
                    peer.answer(held.pop())
            elif request["cmdid"] == 3:
                self._go_on.set()
                while held:
                    peer.answer(held.pop(0))
                peer.answer(request)


# Opening


def test_one_connection_is_enough_while_it_has_room(scripted: Scripted) -> None:
    _, client = scripted(Holding(), max_in_flight=5)
    held = [begin(client.call, 2) for _ in range(4)]
    client.call(1)
    client.call(3)
    gevent.joinall(held)
    assert client.stats()["opened"] == 1


def test_another_connection_is_opened_when_all_are_full(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_in_flight=2)
    held = []
    for expected in (1, 1, 2, 2, 3):
        held.append(begin(client.call, 2))
        soon(lambda: len(server.lines) == len(held))
        assert client.stats()["opened"] == expected
        assert client.stats()["connections"] == expected
        assert client.stats()["in_flight"] == len(held)
    client.call(3)
    gevent.killall(held)


def test_calls_that_begin_together_open_one_connection(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo)
    calls = [begin(client.call, 1, {"n": n}) for n in range(50)]
    assert [each.get() for each in calls] == [{"n": n} for n in range(50)]
    assert client.stats()["opened"] == 1


def test_more_calls_together_than_one_connection_takes(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo, max_in_flight=3, max_connections=4)
    calls = [begin(client.call, 1, {"n": n}) for n in range(50)]
    assert [each.get() for each in calls] == [{"n": n} for n in range(50)]
    assert client.stats()["opened"] <= 4


def test_min_connections_can_be_opened_beforehand(connect: Connect) -> None:
    with fake_server(*[Peer.echo] * 3) as server:
        client = connect(server.address, min_connections=3)
        client.connect()
        assert client.stats()["connections"] == 3
        client.connect()  # there are as many as are wanted
        assert client.stats()["opened"] == 3
        client.close()
        assert isinstance(outcome(client.connect), gtcp.ConnectError)


def test_connecting_beforehand_tells_why_it_can_not(connect: Connect) -> None:
    client = connect("127.0.0.1:1", min_connections=2)
    error = outcome(client.connect)
    assert isinstance(error, gtcp.ConnectError)
    assert error.executed == "no"
    assert client.stats()["connections"] == 0


def test_min_connections_are_opened_as_there_are_calls_for_them(scripted: Scripted) -> None:
    server, client = scripted(Holding(), min_connections=3)
    client.call(1)
    client.call(1)
    assert client.stats()["opened"] == 1  # one after another they need one only
    held = [begin(client.call, 2) for _ in range(6)]
    soon(lambda: len(server.lines) == 8)
    assert client.stats()["opened"] == 3
    assert all(each.lines for each in server.peers)
    gevent.killall(held)


def test_a_connection_that_can_not_be_opened_does_not_fail_calls_others_can_take(
    scripted: Scripted,
) -> None:
    server, client = scripted(Holding(), retries=0, min_connections=2)
    held = begin(client.call, 2)
    soon(lambda: server.lines)
    server.stop_listening()
    assert client.call(1, {"n": 1}) == {"n": 1}
    client.call(3)
    held.get()


def test_full_connections_are_waited_for_when_no_other_can_be_opened(scripted: Scripted) -> None:
    server, client = scripted(Holding(), retries=0, max_in_flight=2)
    held = [begin(client.call, 2, {"n": n}) for n in range(2)]
    soon(lambda: len(server.lines) == 2)
    server.stop_listening()
    waiting = [begin(client.call, 1, {"n": n}, timeout=5) for n in range(3)]
    soon(lambda: len(client._pools.here()._queue) == 3)
    held.pop().kill()  # makes room for one, whose reply makes room for the next
    assert [each.get() for each in waiting] == [{"n": n} for n in range(3)]


# Waiting for a place


def test_pool_timeout(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    held = begin(client.call, 2)
    soon(lambda: server.lines)
    started = monotonic()
    error = outcome(client.call, 1, timeout=0.1)
    assert 0.1 <= monotonic() - started < 5
    assert type(error) is gtcp.PoolTimeout
    assert error.executed == "no"
    assert isinstance(error, TimeoutError)
    assert client.stats()["waits"] == 1
    held.kill()
    assert client.call(1, {"n": 1}) == {"n": 1}
    assert [each["cmdid"] for each in server.lines] == [2, 0, 1]


def test_places_are_given_in_turn(scripted: Scripted) -> None:
    order = []
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    held = begin(client.call, 2)
    soon(lambda: server.lines)

    def call(number: int) -> None:
        client.call(1)
        order.append(number)

    waiting = [begin(call, number) for number in range(10)]
    held.kill()
    gevent.joinall(waiting)
    assert order == list(range(10))


def test_a_call_that_times_out_gives_its_place_back(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    held = begin(client.call, 2, timeout=0.1)
    soon(lambda: server.lines)
    assert client.call(1, {"n": 1}) == {"n": 1}
    assert type(held.get()) is gtcp.CallTimeout


def test_a_timeout_around_a_call_in_the_queue_stays_what_it_is(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    held = begin(client.call, 2)
    soon(lambda: server.lines)
    timer = gevent.Timeout.start_new(0.05)
    with pytest.raises(gevent.Timeout) as raised:
        client.call(1)
    assert raised.value is timer
    held.kill()
    assert client.call(1, {"n": 1}) == {"n": 1}


def test_a_place_given_to_a_greenlet_that_is_killed_goes_to_the_next(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    held = begin(client.call, 2)
    soon(lambda: server.lines)
    first, second = begin(client.call, 1), begin(client.call, 1, {"n": 2}, timeout=5)
    held.kill(block=False)
    soon(lambda: len(client._pools.here()._queue) < 2)
    first.kill(block=False)
    assert second.get() == {"n": 2}


def test_a_goodbye_lets_the_queue_open_another_connection(scripted: Scripted) -> None:
    answered = threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.go_away()
        assert answered.wait(PATIENCE)
        peer.answer(request)
        peer.silence()

    _, client = scripted(script, Peer.echo, max_connections=1, max_in_flight=1)
    calls = [begin(client.call, 1, {"n": n}) for n in range(3)]
    assert [each.get() for each in calls[1:]] == [{"n": 1}, {"n": 2}]
    answered.set()
    assert calls[0].get() == {"n": 0}


# Connecting


def test_the_deadline_covers_connecting(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address)
        started = monotonic()
        error = outcome(client.call, 1, timeout=0.1)
        assert 0.1 <= monotonic() - started < 3
        assert type(error) is gtcp.CallTimeout
        assert error.executed == "no"


def test_connecting_has_a_limit_of_its_own(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address, connect_timeout=0.1, retries=0)
        error = outcome(client.call, 1)
        assert type(error) is gtcp.ConnectError
        assert error.executed == "no"


def test_no_timeout_at_all(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address, connect_timeout=None, timeout=None)
        call = begin(client.call, 1, {"n": 1})
        gevent.sleep(0.05)
        assert not call.ready()
        server.accept()
        assert call.get() == {"n": 1}
        assert "timeout" not in server.lines[0]


def test_one_that_connects_and_is_killed_is_followed_by_the_next(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address)
        opening = begin(client.call, 1)
        waiting = [begin(client.call, 1, {"n": n}, timeout=None) for n in range(2)]
        opening.kill()
        server.accept()
        assert [each.get() for each in waiting] == [{"n": 0}, {"n": 1}]


def test_one_that_connects_and_runs_out_of_time_is_followed_by_the_next(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address, retries=0)
        opening = begin(client.call, 1, timeout=0.05)
        waiting = begin(client.call, 1, {"n": 1})
        assert type(opening.get()) is gtcp.CallTimeout
        assert not waiting.ready()
        server.accept()
        assert waiting.get() == {"n": 1}


def test_all_who_wait_for_a_connection_learn_that_there_is_none(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address, connect_timeout=0.1, retries=0)
        calls = [begin(client.call, 1) for _ in range(3)]
        errors = [each.get() for each in calls]
        assert [type(each) for each in errors] == [gtcp.ConnectError] * 3
        assert len({id(each) for each in errors}) == 3


@pytest.mark.parametrize(
    "name", ["no-such-host.invalid", "..", "x" * 300, "ü" * 100, "unix:/a\0b", "unix:/no"]
)
def test_names_that_lead_nowhere(connect: Connect, name: str) -> None:
    error = outcome(connect(name, retries=0).call, 1, timeout=10)
    assert type(error) is gtcp.ConnectError
    assert error.executed == "no"


@contextmanager
def no_name_service() -> Iterator[None]:
    """Make lookups hang."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        names = FakeNames(monkeypatch)
        names.hanging.add("localhost")
        try:
            yield
        finally:
            names.release()


def test_the_deadline_covers_looking_up_the_name(connect: Connect) -> None:
    client = connect("localhost:1")
    with no_name_service():
        error = outcome(client.call, 1, timeout=0.05)
    assert type(error) is gtcp.CallTimeout
    assert error.executed == "no"


# Killed at every point


def test_a_kill_in_name_lookup_leaves_the_pool_whole(connect: Connect) -> None:
    with fake_server(Peer.echo) as server:
        client = connect("localhost:" + server.address.split(":")[1])
        with no_name_service():
            call = begin(client.call, 1)
            call.kill()
        assert client.call(1, {"n": 1}) == {"n": 1}


def test_a_kill_while_connecting_leaves_the_pool_whole(connect: Connect) -> None:
    with full_accept_queue() as server:
        client = connect(server.address)
        before = open_sockets()
        for _ in range(20):
            begin(client.call, 1).kill()
        soon(lambda: open_sockets() == before)
        server.accept()
        assert client.call(1, {"n": 1}) == {"n": 1}


def test_a_kill_in_the_queue_leaves_the_pool_whole(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    held = begin(client.call, 2)
    soon(lambda: server.lines)
    for _ in range(5):
        begin(client.call, 1).kill()
    held.kill()
    assert client.call(1, {"n": 1}) == {"n": 1}


def test_a_kill_while_it_waits_for_the_reply_leaves_the_pool_whole(scripted: Scripted) -> None:
    server, client = scripted(Holding(), max_connections=1, max_in_flight=1)
    for number in range(5):
        call = begin(client.call, 2)
        soon(lambda count=2 * number + 1: len(server.lines) == count)
        call.kill()
        soon(lambda count=2 * number + 2: len(server.lines) == count)
    assert client.call(1, {"n": 1}) == {"n": 1}
    assert [each["cmdid"] for each in server.lines] == [2, 0] * 5 + [1]


def test_a_kill_while_it_backs_off_leaves_the_pool_whole(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    server.stop_listening()
    call = begin(client.call, 1)
    soon(lambda: client.stats()["retries"])
    call.kill()
    assert client.stats()["in_flight"] == 0


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.001, 0.002, 0.004])
def test_timeouts_that_strike_anywhere_leave_the_pool_whole(
    scripted: Scripted, seconds: float
) -> None:
    _, client = scripted(Peer.echo, max_connections=2, max_in_flight=2)
    wrong: list[Any] = []

    def call(worker: int) -> None:
        for number in range(30):
            params = {"worker": worker, "number": number}
            with gevent.Timeout(seconds, False):
                result = client.call(1, params)
                if result != params:
                    wrong.append((params, result))

    gevent.joinall([gevent.spawn(call, worker) for worker in range(8)])
    assert wrong == []
    calls = [begin(client.call, 1, {"n": n}, timeout=5) for n in range(8)]
    assert [each.get() for each in calls] == [{"n": n} for n in range(8)]
    assert client.stats()["in_flight"] == 0


# Keepalive, options


def test_connections_keep_themselves_alive(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo, keepalive=12)
    client.call(1)
    sock = client._pools.here().connections[0]._sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 6
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 2
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"min_connections": 0},
        {"min_connections": 3, "max_connections": 2},
        {"busy_poll": -1e-6},
        {"busy_poll": float("nan")},
        {"busy_poll": 0.0051},
        {"max_in_flight": 0},
        {"connect_timeout": 0},
        {"connect_timeout": -1},
        {"max_reply_bytes": 0},
        {"keepalive": 0},
        {"keepalive": -1},
        {"keepalive": float("nan")},
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        gtcp.Client("127.0.0.1", **options)


def test_none_means_no_limit() -> None:
    Options(connect_timeout=None, max_reply_bytes=None, keepalive=None)
