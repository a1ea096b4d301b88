"""One connection: what the peer does to it, and the outcome of each call on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.exceptions import BlockingSwitchOutError

import gtcp
from gtcp.client.connections import closing
from tests.client.fakes import (
    GOODBYE,
    FakeServer,
    Peer,
    answer,
    answers,
    begin,
    fake_server,
    outcome,
    says,
    soon,
)
from tests.helpers import PATIENCE, Gate, free_port, serving

Connect = Callable[..., gtcp.Client]
Scripted = Callable[..., tuple[FakeServer, gtcp.Client]]

#: Params whose line no socket buffer takes whole.
BIG = {"text": "x" * 8_000_000}


def is_error(value: Any, kind: type[gtcp.GtcpError], executed: str) -> bool:
    assert type(value) is kind or kind in type(value).__mro__[1:3], repr(value)
    assert value.executed == executed, repr(value)
    return True


def is_stuck(client: gtcp.Client) -> bool:
    """Whether the kernel has taken a part of what was to be sent, and takes no more."""
    return any(each.writer.blocked for each in client._pools.here().connections)


def is_leaving(client: gtcp.Client) -> bool:
    """Whether the server has said goodbye to a connection that is still open."""
    return any(not each.usable for each in client._pools.here().connections)


@pytest.fixture
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers are not asked for their limits: they follow scripts that do not know it."""
    monkeypatch.setattr(closing, "ASK_ABOVE", inf)


unasked = pytest.mark.usefixtures("_unasked")


class Held:
    """A script that reads nothing until it may, and then echoes."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, peer: Peer) -> None:
        assert self.go_on.wait(PATIENCE)
        peer.echo()


# Peers that are no gtcp servers


def test_nobody_listens(connect: Connect) -> None:
    client = connect(f"127.0.0.1:{free_port()}")
    started = monotonic()
    assert is_error(outcome(client.call, 1), gtcp.ConnectError, "no")
    assert monotonic() - started < 5  # not the 30 s a call may take


def test_an_http_server_answers(scripted: Scripted) -> None:
    _, client = scripted(
        says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", end=Peer.close)
    )
    assert is_error(outcome(client.call, 1), gtcp.ProtocolError, "maybe")


def test_closed_before_anything_was_read(scripted: Scripted) -> None:
    _, client = scripted(Peer.close)
    error = outcome(client.call, 1)
    assert isinstance(error, gtcp.ConnectionLost)


@pytest.mark.parametrize(
    "script",
    [
        says(end=Peer.close),
        says(end=Peer.reset),
        says(b'{"code":0,"id":1,"result":1}', end=Peer.close),  # no newline
    ],
    ids=["closed", "reset", "cut"],
)
def test_a_broken_connection_may_have_run_the_call(scripted: Scripted, script: Any) -> None:
    server, client = scripted(script)
    assert is_error(outcome(client.call, 1), gtcp.ConnectionLost, "maybe")
    assert len(server.lines) == 1  # not tried again


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\n",
        b"\n",
        b"[]\n",
        b"1\n",
        b"null\n",
        b'{"id":1}\n',
        b'{"code":"0","id":1}\n',
        b'{"code":0,"id":true}\n',
        b'{"code":0,"id":1,"result":"\xff"}\n',
        b'\xef\xbb\xbf{"code":0,"id":1}\n',
        b'{"code":0,"id":1}\x00\n',
        b'{"code":0,"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"code":0,"id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"code":0,"id":1}{"code":0,"id":2}\n',
        b'{"code":0,"id":1}{"code":0,"id":2}\n\n',
        b'{"code":0,\n"id":1}\n',
        b'{"code":0,"id":1e400}\n',
        b"\x15\x03\x01\x00\x02\x02\n",
    ],
)
def test_garbage(scripted: Scripted, garbage: bytes) -> None:
    _, client = scripted(says(garbage), Peer.echo)
    assert is_error(outcome(client.call, 1, timeout=5), gtcp.ProtocolError, "maybe")
    assert client.call(1, {"a": 1}) == {"a": 1}  # on another connection


def test_replies_before_garbage_still_count(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        first, _ = peer.requests(2)
        peer.send(answer(first), b"garbage\n")
        peer.silence()

    _, client = scripted(script)
    first, second = begin(client.call, 1, {"n": 1}), begin(client.call, 1, {"n": 2})
    assert first.get() == {"n": 1}
    assert is_error(second.get(), gtcp.ProtocolError, "maybe")


def test_a_reply_longer_than_allowed(scripted: Scripted) -> None:
    _, client = scripted(
        says(b'{"code":0,"id":1,"result":"' + b"x" * 100_000), max_reply_bytes=1000
    )
    assert is_error(outcome(client.call, 1), gtcp.ProtocolError, "maybe")


def test_a_reply_as_long_as_allowed(connect: Connect) -> None:
    with fake_server(Peer.echo) as server:
        params = {"text": "x" * 400}
        length = len(json.dumps({"code": 0, "id": 1, "result": params}))
        assert connect(server.address, max_reply_bytes=length).call(1, params) == params
        client = connect(server.address, max_reply_bytes=length - 1)
        assert is_error(outcome(client.call, 1, params), gtcp.ProtocolError, "maybe")


def test_a_reply_in_single_bytes(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        for byte in json.dumps(answer(request)).encode() + b"\n":
            peer.send(bytes([byte]))
        peer.silence()

    _, client = scripted(script)
    assert client.call(1, {"a": "ü"}) == {"a": "ü"}


def test_replies_with_a_carriage_return(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        lines = [json.dumps(answer(each)).encode() + b"\r\n" for each in peer.requests(2)]
        peer.send(*lines)
        peer.silence()

    _, client = scripted(script)
    calls = [begin(client.call, 1, {"n": n}) for n in range(2)]
    assert [each.get() for each in calls] == [{"n": 0}, {"n": 1}]


# Whose reply is it


@pytest.mark.parametrize("wrong", [2, 0, -1, "1", "x"])
def test_a_reply_with_a_wrong_id_reaches_nobody(scripted: Scripted, wrong: Any) -> None:
    def script(peer: Peer) -> None:
        late = peer.request()
        peer.answer({**late, "id": wrong}, result="not yours")
        late_too = peer.request()
        peer.send(answer(late, result="late"), answer(late_too))
        peer.echo()

    _, client = scripted(script)
    assert is_error(outcome(client.call, 1, timeout=0.5), gtcp.CallTimeout, "maybe")
    assert client.stats()["dropped"] == 1
    assert client.call(1, {"a": 1}) == {"a": 1}
    assert client.stats()["dropped"] == 2  # the late reply, too
    assert client.stats()["opened"] == 1


def test_a_duplicated_reply_reaches_nobody(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        first = peer.request()
        peer.send(answer(first), answer(first), answer(first))
        peer.echo()

    _, client = scripted(script)
    assert [client.call(1, {"n": n}) for n in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert client.stats()["dropped"] == 2
    assert client.stats()["opened"] == 1


def test_a_result_without_an_id_reaches_nobody(scripted: Scripted) -> None:
    """It may be the late reply of a call that was given up."""

    _, client = scripted(says({"code": 0, "result": "whose?"}, after=2))
    assert is_error(outcome(client.call, 1, timeout=0.5), gtcp.CallTimeout, "maybe")
    assert is_error(outcome(client.call, 1), gtcp.ProtocolError, "maybe")


def test_64_greenlets_share_a_connection(scripted: Scripted) -> None:
    def backwards(peer: Peer) -> None:
        peer.send(*[answer(each) for each in reversed(peer.requests(64))])
        peer.silence()

    _, client = scripted(backwards)
    calls = [begin(client.call, 1, {"n": n}) for n in range(64)]
    assert [each.get() for each in calls] == [{"n": n} for n in range(64)]
    assert client.stats()["opened"] == 1


# The server goes away, or refuses


def test_no_reply_after_a_goodbye_means_it_did_not_run(connect: Connect) -> None:
    for retries in (0, 3):  # with retries, it is sent elsewhere
        with fake_server(says(GOODBYE, after=2, end=Peer.close), Peer.echo) as server:
            client = connect(server.address, retries=retries)
            calls = [begin(client.call, 1, {"n": n}) for n in range(2)]
            if retries:
                assert [each.get() for each in calls] == [{"n": 0}, {"n": 1}]
                assert client.stats()["retries"] == 2
            else:
                assert all(is_error(each.get(), gtcp.ConnectionLost, "no") for each in calls)


def test_what_is_in_flight_is_answered_after_a_goodbye(scripted: Scripted) -> None:
    answered = threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.go_away()
        assert answered.wait(PATIENCE)  # by the next connection
        peer.answer(request)
        peer.silence()

    _, client = scripted(script, Peer.echo)
    in_flight = begin(client.call, 1, {"n": 1})
    soon(lambda: is_leaving(client))
    assert client.call(1, {"n": 2}) == {"n": 2}
    answered.set()
    assert in_flight.get() == {"n": 1}
    soon(lambda: client.stats()["connections"] == 1)


def test_a_refusal_by_id_is_sent_elsewhere(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.answer(request, code=503, message="going away")

    _, client = scripted(script, Peer.echo)
    assert client.call(1, {"n": 1}) == {"n": 1}
    assert client.stats()["retries"] == 1  # and not on the same connection again
    soon(lambda: client.stats()["connections"] == 1)


def test_a_refusal_by_id_without_retries(scripted: Scripted) -> None:
    _, client = scripted(answers(code=503, message="going away"), retries=0)
    error = outcome(client.call, 1)
    assert is_error(error, gtcp.RemoteError, "no")
    assert error.code == 503


def test_a_refusal_by_id_leaves_the_others_alone(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        first, second = peer.requests(2)
        peer.answer(second, code=503, message="going away")
        peer.server.peers[0].lines.append("refused")
        while len(peer.server.peers) < 2:
            gevent.sleep(0.001)
        peer.answer(first)
        peer.silence()

    _, client = scripted(script, Peer.echo)
    calls = [begin(client.call, 1, {"n": n}) for n in range(2)]
    assert [each.get() for each in calls] == [{"n": 0}, {"n": 1}]


def test_a_refusal_without_id_when_only_one_call_can_be_meant(scripted: Scripted) -> None:
    _, client = scripted(says({"code": 413, "message": "too long"}, end=Peer.close))
    error = outcome(client.call, 1)
    assert is_error(error, gtcp.RemoteError, "no")
    assert error.code == 413


def test_a_refused_line_fails_its_call_and_the_others_are_sent_again(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        first, *_ = peer.requests(4)
        peer.answer(first)
        peer.send({"code": 400, "message": "too deep"})
        peer.close()

    _, client = scripted(script, Peer.echo)
    calls = [begin(client.call, 1, {"n": n}) for n in range(4)]
    answered, refused, *behind = [each.get() for each in calls]
    assert answered == {"n": 0}
    assert is_error(refused, gtcp.RemoteError, "no")
    assert refused.code == 400
    assert behind == [{"n": 2}, {"n": 3}]


def test_after_a_refusal_without_a_clean_end_calls_may_have_run(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        peer.requests(2)
        peer.send({"code": 400, "message": "not a request"})
        peer.reset()

    _, client = scripted(script)
    calls = [begin(client.call, 1) for _ in range(2)]
    assert all(is_error(each.get(), gtcp.ConnectionLost, "maybe") for each in calls)


@pytest.mark.parametrize("way", ["notified", "given up", "expired"])
def test_what_is_refused_and_nobody_waits_for_fails_no_call(scripted: Scripted, way: str) -> None:
    refusal = {"code": 413, "message": "too long"}
    _, client = scripted(says(refusal, after=3, end=Peer.close), Peer.echo)
    if way == "notified":
        client.notify(2)
        calls = [begin(client.call, 1, {"n": n}) for n in range(2)]
    elif way == "given up":
        given_up, *calls = [begin(client.call, 1, {"n": n}) for n in (-1, 0)]
        given_up.kill()
    else:
        expired = begin(client.call, 1, {"n": -1}, timeout=0.05)
        calls = [begin(client.call, 1, {"n": n}) for n in range(1)]
        assert is_error(expired.get(), gtcp.CallTimeout, "maybe")
        calls += [begin(client.call, 1, {"n": n}) for n in range(1, 2)]
    assert [each.get() for each in calls] == [{"n": n} for n in range(len(calls))]


# Lines that are longer than the server takes


def test_a_line_that_is_too_long_fails_its_own_call_only(connect: Connect) -> None:
    commands, gate = gtcp.Commands(), Gate()

    @commands.handler(1)
    def hold(request: gtcp.Request[dict[str, str]]) -> int:
        gate.wait()
        return len(request.params["text"])

    with serving(commands, max_line_bytes=200_000) as server:
        client = connect(server.address)
        neighbours = [begin(client.call, 1, {"text": "x" * n}) for n in range(20)]
        error = outcome(client.call, 1, {"text": "x" * 200_000})
        assert is_error(error, gtcp.RemoteError, "no")
        assert error.code == 413
        assert is_error(outcome(client.notify, 1, {"text": "x" * 200_000}), gtcp.RemoteError, "no")
        outcomes = list(client.map(1, [{"text": "x" * 200_000}], return_exceptions=True))
        assert is_error(outcomes[0], gtcp.RemoteError, "no")
        allowed = begin(client.call, 1, {"text": "x" * 100_000})
        server.run(gate.open)
        assert [each.get() for each in neighbours] == list(range(20))
        assert allowed.get() == 100_000
        assert client.stats()["opened"] == 1


def test_a_line_that_nests_too_deep_fails_its_own_call_only(connect: Connect) -> None:
    commands = gtcp.Commands()
    runs: list[int] = []

    @commands.handler(1)
    def echo(request: gtcp.Request) -> int:
        runs.append(request.params["n"])
        return int(request.params["n"])

    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with serving(commands) as server:
        client = connect(server.address)
        params = [{"n": n, "deep": deep if n == 7 else []} for n in range(30)]
        outcomes = [each.get() for each in [begin(client.call, 1, each) for each in params]]
        error = outcomes.pop(7)
        assert is_error(error, gtcp.RemoteError, "no")
        assert error.code == 400
        assert outcomes == [n for n in range(30) if n != 7]
        assert sorted(runs) == outcomes  # each of them once


def test_an_older_server_is_sent_long_lines_as_they_are(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        question = peer.request()
        assert question["params"] == {"op": "limits"}
        peer.send({"code": 422, "message": "unknown op", "id": question["id"]})
        peer.echo()

    params = {"text": "x" * 100_000}
    server, client = scripted(script)
    assert [client.call(1, params) for _ in range(2)] == [params, params]
    assert [each["cmdid"] for each in server.lines] == [0, 1, 1]


@pytest.mark.parametrize("end", [Peer.close, Peer.reset, Peer.silence])
def test_a_question_for_limits_that_fails_ran_no_call(
    scripted: Scripted, end: Callable[[Peer], None]
) -> None:
    server, client = scripted(says(end=end), retries=0)
    error = outcome(client.call, 1, {"text": "x" * 100_000}, timeout=0.5)
    assert error.executed == "no"
    assert [each["cmdid"] for each in server.lines] == [0]


# What certainly did not leave did not run


class Resetting:
    """A script that reads a request and, when told to, says something and resets."""

    def __init__(self, *last_words: Callable[[Any], dict[str, Any]]) -> None:
        self._last_words = last_words
        self._go_on = threading.Event()
        self._done = threading.Event()

    def __call__(self, peer: Peer) -> None:
        request = peer.request()
        assert self._go_on.wait(PATIENCE)
        peer.send(*[word(request) for word in self._last_words])
        peer.reset()
        self._done.set()

    def reset(self) -> None:
        """Block the event loop until it is done: the client can't know yet."""
        self._go_on.set()
        assert self._done.wait(PATIENCE)


@pytest.mark.parametrize("way", ["call", "notify"])
def test_a_line_that_the_kernel_refused_did_not_run(scripted: Scripted, way: str) -> None:
    peer = Resetting()
    server, client = scripted(peer, retries=0)
    sent = begin(client.call, 1)
    soon(lambda: server.lines)
    peer.reset()
    assert is_error(outcome(getattr(client, way), 2), gtcp.ConnectionLost, "no")
    assert is_error(sent.get(), gtcp.ConnectionLost, "maybe")


def test_a_line_that_the_kernel_refused_is_sent_elsewhere(scripted: Scripted) -> None:
    peer = Resetting()
    server, client = scripted(peer, Peer.echo)
    sent = begin(client.call, 1)
    soon(lambda: server.lines)
    peer.reset()
    assert client.call(1, {"n": 2}) == {"n": 2}
    assert is_error(sent.get(), gtcp.ConnectionLost, "maybe")


def test_replies_that_came_before_sending_failed_still_count(scripted: Scripted) -> None:
    peer = Resetting(answer, lambda _request: GOODBYE)
    server, client = scripted(peer, retries=0)
    first = begin(client.call, 1, {"n": 1})
    soon(lambda: server.lines)
    peer.reset()
    assert is_error(outcome(client.call, 2), gtcp.ConnectionLost, "no")
    assert first.get() == {"n": 1}


@unasked
@pytest.mark.parametrize("way", ["call", "notify"])
def test_a_line_that_left_in_part_did_not_run(scripted: Scripted, way: str) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        assert go_on.wait(PATIENCE)
        peer.reset()

    _, client = scripted(script, retries=0)
    whole = begin(client.call, 1)
    partly = begin(getattr(client, way), 2, BIG)
    soon(lambda: is_stuck(client))
    behind = begin(client.call, 3)
    gevent.sleep(0)
    go_on.set()
    assert is_error(whole.get(), gtcp.ConnectionLost, "maybe")
    assert is_error(partly.get(), gtcp.ConnectionLost, "no")
    assert is_error(behind.get(), gtcp.ConnectionLost, "no")


@unasked
@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize(("way", "result"), [("call", BIG), ("notify", None)])
def test_what_is_given_up_before_its_line_left_never_runs(
    scripted: Scripted, way: str, result: Any, killed: bool
) -> None:
    held = Held()
    server, client = scripted(held)
    send = getattr(client, way)
    big = begin(send, 1, BIG)
    soon(lambda: is_stuck(client))
    if killed:
        begin(send, 2).kill()
    else:
        assert is_error(outcome(send, 2, timeout=0.05), gtcp.CallTimeout, "no")
    held.go_on.set()
    assert big.get() == result
    assert client.call(3, {"n": 3}) == {"n": 3}
    assert [each["cmdid"] for each in server.lines] == [1, 3]


def test_a_call_killed_in_the_turn_it_was_queued_never_runs(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    client.call(1)
    killed = gevent.spawn(client.call, 2)
    killed.start()
    gevent.spawn(killed.kill, block=False)
    gevent.sleep(0)
    killed.join()
    client.call(3)
    cmdids = [each["cmdid"] for each in server.lines]
    assert cmdids in ([1, 3], [1, 2, 0, 3])  # never sent, or told to stop


# Giving up


def give_up_by_kill(client: gtcp.Client, until: Callable[[], Any]) -> None:
    call = gevent.spawn(client.call, 1, {"n": 1})
    soon(until)
    call.kill()


def give_up_by_timeout(client: gtcp.Client, until: Callable[[], Any]) -> None:
    with gevent.Timeout(0.05, False):
        client.call(1, {"n": 1})
        pytest.fail("nobody has answered")


@pytest.mark.parametrize("give_up", [give_up_by_kill, give_up_by_timeout])
def test_giving_up_tells_the_server_and_disturbs_nobody(
    scripted: Scripted, give_up: Callable[..., None]
) -> None:
    def script(peer: Peer) -> None:
        given_up, cancel = peer.requests(2)
        assert (cancel["cmdid"], cancel["oneway"]) == (0, True)
        assert cancel["params"] == {"op": "cancel", "id": given_up["id"]}
        peer.answer(given_up, result="too late")
        peer.echo()

    server, client = scripted(script)
    give_up(client, lambda: server.lines)
    assert client.call(1, {"n": 2}) == {"n": 2}
    stats = client.stats()
    assert (stats["opened"], stats["dropped"], stats["in_flight"]) == (1, 1, 0)


def test_giving_up_tells_a_server_that_goes_too(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        given_up, other = peer.requests(2)
        peer.go_away()
        cancel = peer.request()
        assert cancel["params"] == {"op": "cancel", "id": given_up["id"]}
        peer.answer(other)
        peer.silence()

    _, client = scripted(script)
    given_up, other = begin(client.call, 1), begin(client.call, 1, {"n": 2})
    soon(lambda: is_leaving(client))
    given_up.kill()
    assert other.get() == {"n": 2}


def test_giving_up_the_last_call_of_a_server_that_goes_closes(scripted: Scripted) -> None:
    _, client = scripted(says(GOODBYE), Peer.echo)
    call = begin(client.call, 1)
    soon(lambda: is_leaving(client))
    call.kill()
    soon(lambda: client.stats()["connections"] == 0)


def test_a_kill_between_reply_and_return(scripted: Scripted) -> None:
    """The reply has come, the greenlet has not run yet, and is killed by one that has."""
    calls: list[Any] = []

    def script(peer: Peer) -> None:
        peer.send(*[answer(each) for each in peer.requests(2)])
        peer.echo()

    def kill_the_other(client: gtcp.Client) -> Any:
        result = client.call(1, {"n": 1})
        calls[1].kill(block=False)
        return result

    _, client = scripted(script)
    calls.append(begin(kill_the_other, client))
    calls.append(begin(client.call, 1, {"n": 2}))
    gevent.joinall(calls)
    assert calls[0].value == {"n": 1}
    assert client.call(1, {"n": 3}) == {"n": 3}
    assert client.stats()["in_flight"] == 0
    assert client.stats()["opened"] == 1


def test_a_reply_that_came_in_time_counts_though_nobody_read_it(scripted: Scripted) -> None:
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        sent.set()
        peer.silence()

    def block() -> None:
        assert sent.wait(PATIENCE)
        until = monotonic() + 0.3
        while monotonic() < until:
            pass

    server, client = scripted(script)
    call = begin(client.call, 1, {"n": 1}, timeout=0.2)
    soon(lambda: server.lines)
    block()
    assert call.get() == {"n": 1}


def test_a_deadline_that_passes_while_others_come_in(scripted: Scripted) -> None:
    """Deadlines are watched by one timer; each call has its own all the same."""

    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request["cmdid"] == 1:
                peer.answer(request)

    _, client = scripted(script)
    waits = [0.3, 0.05, 0.1]

    def timed(seconds: float) -> float:
        started = monotonic()
        assert is_error(outcome(client.call, 2, timeout=seconds), gtcp.CallTimeout, "maybe")
        return monotonic() - started

    calls = [gevent.spawn(timed, each) for each in waits]
    while not all(each.ready() for each in calls):
        client.call(1, timeout=5)
    for seconds, call in zip(waits, calls, strict=True):
        assert seconds <= call.get() < seconds + 2


def test_a_call_in_a_callback_of_the_loop_raises(scripted: Scripted) -> None:
    outcomes: list[Any] = []
    server, client = scripted(Peer.echo)
    client.call(1)
    hub = gevent.get_hub()
    hub.loop.run_callback(lambda: outcomes.append(outcome(client.call, 2)))
    soon(lambda: outcomes)
    assert isinstance(outcomes[0], BlockingSwitchOutError)
    client.call(3)
    assert [each["cmdid"] for each in server.lines] == [1, 3]


# Notifications


def test_a_notification_has_no_id(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    client.notify(1, {"n": 1})
    client.call(2)
    first = server.lines[0]
    assert (first["cmdid"], first["params"], first["oneway"]) == (1, {"n": 1}, True)
    assert "id" not in first


@unasked
def test_a_big_notification_returns_when_the_kernel_has_it(connect: Connect) -> None:
    held = Held()
    with fake_server(held, receive_buffer=4096) as server:
        client = connect(server.address)
        notification = begin(client.notify, 1, BIG)
        soon(lambda: is_stuck(client))
        gevent.sleep(0.05)
        assert not notification.ready()
        held.go_on.set()
        assert notification.get() is None
        assert client.call(2, {"n": 2}) == {"n": 2}
        assert server.lines[0]["params"] == BIG


@unasked
def test_a_notification_that_times_out_half_sent_may_run(scripted: Scripted) -> None:
    held = Held()
    server, client = scripted(held)
    assert is_error(outcome(client.notify, 1, BIG, timeout=0.5), gtcp.CallTimeout, "maybe")
    held.go_on.set()
    client.call(2)
    assert [each["cmdid"] for each in server.lines] == [1, 2]


@unasked
def test_a_notification_may_close_the_client_that_others_notify_through(scripted: Scripted) -> None:
    held = Held()
    _, client = scripted(held, retries=0)
    big = begin(client.notify, 1, BIG)
    soon(lambda: is_stuck(client))

    def notify_and_close() -> None:
        client.notify(2)
        client.close()

    closing, other = begin(notify_and_close), begin(client.notify, 3)
    held.go_on.set()
    assert [big.get(), closing.get()] == [None, None]
    assert other.get() is None or is_error(other.get(), gtcp.ConnectionLost, "maybe")


# Idle connections


def test_a_connection_closed_while_idle_costs_nothing(scripted: Scripted) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.sock.close()
        closed.set()

    _, client = scripted(script, Peer.echo, retries=0)
    client.call(1)
    assert closed.wait(PATIENCE)  # blocks the event loop: the client has not seen it
    until = monotonic() + 0.005
    while monotonic() < until:
        pass
    assert client.call(1, {"n": 2}) == {"n": 2}
    assert client.stats()["opened"] == 2


def test_a_goodbye_costs_nothing_where_nothing_is_in_flight(scripted: Scripted) -> None:
    """A server that refuses a connection says so before it has read anything."""

    def idle(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.go_away()
        peer.silence()

    _, client = scripted(says(GOODBYE, after=0, end=Peer.close), idle, Peer.echo)
    assert client.call(1, {"n": 1}) == {"n": 1}
    soon(lambda: client.stats()["connections"] == 0)
    assert client.call(1, {"n": 2}) == {"n": 2}
