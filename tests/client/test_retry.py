"""When a failed call is tried again, and how often."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent
import pytest

import gtcp
from gtcp.client.retry import BUDGET, Retry
from tests.client.fakes import FakeServer, Peer, answer, begin, fake_server, outcome
from tests.helpers import free_port

Connect = Callable[..., gtcp.Client]


def read_and_close(peer: Peer) -> None:
    peer.request()
    peer.close()


def test_what_may_have_run_is_not_tried_again(connect: Connect) -> None:
    with fake_server(read_and_close, Peer.echo) as server:
        error = outcome(connect(server.address).call, 1)
        assert type(error) is gtcp.ConnectionLost
        assert error.executed == "maybe"
        assert len(server.peers) == 1


def test_what_may_have_run_is_tried_again_when_it_is_idempotent(connect: Connect) -> None:
    with fake_server(read_and_close, read_and_close, Peer.echo) as server:
        client = connect(server.address)
        assert client.call(1, {"n": 1}, idempotent=True) == {"n": 1}
        assert client.stats()["retries"] == 2
        assert len(server.lines) == 3


def test_retries_end(connect: Connect) -> None:
    with fake_server(read_and_close) as server:
        error = outcome(connect(server.address, retries=2).call, 1, idempotent=True)
        assert error.executed == "maybe"
        assert len(server.lines) == 3


def test_a_later_attempt_that_surely_did_not_run_says_nothing_of_the_first(
    connect: Connect,
) -> None:
    def refused(peer: Peer) -> None:
        peer.answer(peer.request(), code=429, message="no")
        peer.silence()

    with fake_server(read_and_close, refused) as server:
        error = outcome(connect(server.address).call, 1, idempotent=True)
        assert (error.code, error.executed) == (429, "maybe")

    def read_and_die(peer: Peer) -> None:
        peer.request()
        peer.server.stop_listening()
        peer.close()

    with fake_server(read_and_die) as server:
        error = outcome(connect(server.address).call, 1, idempotent=True, timeout=0.3)
        assert type(error) is gtcp.ConnectError
        assert error.executed == "maybe"


def test_a_stream_remembers_that_the_first_attempt_may_have_run(connect: Connect) -> None:
    def refused(peer: Peer) -> None:
        peer.answer(peer.request(), code=429, message="no")
        peer.silence()

    with fake_server(read_and_close, refused) as server:
        stream = connect(server.address).map(1, [{}], idempotent=True, return_exceptions=True)
        assert [(each.code, each.executed) for each in stream] == [(429, "maybe")]


def test_retries_can_be_turned_off(connect: Connect) -> None:
    with fake_server(read_and_close) as server:
        client = connect(server.address, retries=0)
        assert type(outcome(client.call, 1, idempotent=True)) is gtcp.ConnectionLost
        assert len(server.lines) == 1
    assert type(outcome(client.call, 1)) is gtcp.ConnectError
    assert client.stats()["retries"] == 0


@pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 413, 422, 429, 500, 1000])
def test_other_answers_are_final(connect: Connect, code: int) -> None:
    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.answer(request, code=code, message="no")

    with fake_server(script) as server:
        error = outcome(connect(server.address).call, 1, idempotent=True)
        assert isinstance(error, gtcp.RemoteError)
        assert error.code == code
        assert len(server.lines) == 1


def test_a_timeout_is_final(connect: Connect) -> None:
    with fake_server(Peer.silence) as server:
        error = outcome(connect(server.address).call, 1, idempotent=True, timeout=0.05)
        assert type(error) is gtcp.CallTimeout
        assert len(server.lines) == 1


def test_a_server_that_comes_back_is_found(connect: Connect) -> None:
    port = free_port()
    client = connect(f"127.0.0.1:{port}", retries=50)
    call = begin(client.call, 1, {"n": 1})
    while client.stats()["retries"] < 3:
        gevent.sleep(0.001)
    server = FakeServer(Peer.echo, port=port)
    server.accept()
    try:
        assert call.get() == {"n": 1}
    finally:
        server.close()


def test_a_notification_that_did_not_leave_is_tried_again(connect: Connect) -> None:
    port = free_port()
    client = connect(f"127.0.0.1:{port}", retries=50)
    notification = begin(client.notify, 1, {"n": 1})
    while client.stats()["retries"] < 3:
        gevent.sleep(0.001)
    server = FakeServer(Peer.echo, port=port)
    server.accept()
    try:
        assert notification.get() is None
        client.call(2)
        assert [each["cmdid"] for each in server.lines] == [1, 2]
    finally:
        server.close()


def test_no_pause_is_longer_than_what_is_left(connect: Connect) -> None:
    client = connect(f"127.0.0.1:{free_port()}", retries=1000)
    started = monotonic()
    error = outcome(client.call, 1, timeout=0.3)
    assert type(error) is gtcp.ConnectError  # says why, rather than that time is up
    assert monotonic() - started < 0.3 + 2
    assert client.stats()["retries"] >= 1


def test_pauses_grow_and_vary() -> None:
    error = gtcp.ConnectError("refused")
    pauses = [[Retry._pause(error, attempt) for _ in range(50)] for attempt in (1, 4, 30)]
    assert max(pauses[0]) < min(pauses[1]) < max(pauses[1]) < min(pauses[2])
    assert max(pauses[2]) <= 1.0
    assert len(set(pauses[0])) > 40


def test_a_dead_server_does_not_get_several_times_the_load(connect: Connect) -> None:
    calls = 400
    with fake_server(Peer.reset) as server:
        client = connect(server.address, max_connections=1)
        started = monotonic()
        errors = [begin(client.call, 1, idempotent=True) for _ in range(calls)]
        assert all(isinstance(each.get(), gtcp.GtcpError) for each in errors)
        refilled = (monotonic() - started) * 10
        assert BUDGET <= client.stats()["retries"] <= BUDGET + refilled + 1
        assert len(server.peers) <= calls + BUDGET + refilled + 1


def test_refusals_cost_nothing_of_the_budget(connect: Connect) -> None:
    """All calls in flight of a server that restarts, more than the budget, survive it."""
    count = int(BUDGET) * 3

    def goes_away(peer: Peer) -> None:
        peer.requests(count)
        peer.go_away()
        peer.close()

    def refuses_each(peer: Peer) -> None:
        for request in peer.requests(count):
            peer.send(answer(request, code=503, message="going away"))
        peer.close()

    with fake_server(goes_away, refuses_each, Peer.echo) as server:
        client = connect(server.address, max_in_flight=count, max_connections=1)
        calls = [begin(client.call, 1, {"n": n}) for n in range(count)]
        assert [each.get() for each in calls] == [{"n": n} for n in range(count)]
        assert client.stats()["retries"] == 2 * count


def test_a_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(ValueError, match="retries"):
        gtcp.Client("127.0.0.1", retries=-1)
