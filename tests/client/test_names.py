"""Calls by name: what a client learns of a command, and when."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gtcp
from tests.client.fakes import GOODBYE, FakeServer, Peer
from tests.helpers import Serving, serving

Scripted = Callable[..., tuple[FakeServer, gtcp.Client]]

commands = gtcp.Commands()


class OutOfStock(gtcp.CommandError, code=1001):
    pass


@commands.handler(7)
def reserve(request: gtcp.Request) -> Any:
    return ["reserved", request.params, request.meta]


@commands.handler(8, deprecated="use reserve")
def old(request: gtcp.Request) -> str:
    return "old"


@commands.handler(9, errors=[OutOfStock])
def refuse(request: gtcp.Request) -> None:
    raise OutOfStock("no")


commands.handler(10)(lambda request: 1)
commands.handler(11)(lambda request: 2)


@pytest.fixture(scope="module")
def running() -> Iterator[Serving]:
    with serving(commands) as running:
        yield running


@pytest.fixture
def client(running: Serving) -> Iterator[gtcp.Client]:
    with gtcp.Client(running.address, errors=[OutOfStock]) as client:
        yield client


def test_a_command_is_called_by_its_name(client: gtcp.Client) -> None:
    assert client.call("reserve", {"n": 1}, meta={"t": "x"}) == ["reserved", {"n": 1}, {"t": "x"}]
    assert client.call("reserve", result=tuple[str, dict[str, int], Any])[0] == "reserved"
    assert client.stats()["sent"] == 3  # the names are asked for once
    with pytest.raises(OutOfStock):
        client.call("refuse")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "404 there is no command named 'nope'"),
        ("<lambda>", "404 there are several commands named '<lambda>': 10, 11"),
    ],
)
def test_a_name_that_leads_to_no_command_is_a_404(
    client: gtcp.Client, name: str, message: str
) -> None:
    with pytest.raises(gtcp.RemoteError) as raised:
        client.call(name)
    assert (str(raised.value), raised.value.executed) == (message, "no")


def test_arguments_are_checked_before_anything_is_sent(client: gtcp.Client) -> None:
    wrong: list[dict[str, Any]] = [
        {"meta": {"a": 1}},
        {"result": 5},
        {"idempotent": 1},
        {"detach": 1},
        {"timeout": "x"},
        {"params": object()},
    ]
    for each in wrong:
        with pytest.raises((TypeError, ValueError)):
            client.call("reserve", **each)
    assert client.stats()["opened"] == 0


def test_a_deprecated_command_warns_where_it_is_called(client: gtcp.Client) -> None:
    with pytest.warns(DeprecationWarning, match="^old is deprecated: use reserve$") as caught:
        assert client.call("old") == "old"
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.call("reserve")
        client.call(8)  # by number nothing is known of it


def test_many_first_calls_at_a_time(client: gtcp.Client) -> None:
    calls = [gevent.spawn(client.call, "reserve", {"n": n}) for n in range(50)]
    gevent.joinall(calls, raise_error=True)
    assert [each.value[1]["n"] for each in calls] == list(range(50))


def test_a_restarted_server_with_other_cmdids_runs_the_right_command() -> None:
    ran: list[str] = []

    def version(**cmdids: int) -> gtcp.Commands:
        table = gtcp.Commands()
        for name, cmdid in cmdids.items():

            def handler(request: gtcp.Request, name: str = name) -> None:
                ran.append(name)

            handler.__name__ = name
            table.handler(cmdid)(handler)
        return table

    with serving(version(reserve=1, erase=2)) as first:
        port = int(first.address.rpartition(":")[2])
        client = gtcp.Client(first.address)
        client.call("reserve")
    with serving(version(reserve=2, erase=1), port=port):
        client.call("reserve")
    with serving(version(erase=1, audit=2), port=port):
        with pytest.raises(gtcp.RemoteError, match="404 there is no command named 'reserve'"):
            client.call("reserve")
        client.close()
    assert ran == ["reserve", "reserve"]


# What the server may do meanwhile


def tell_names(peer: Peer, **command: Any) -> None:
    """Answer the question for the names."""
    request = peer.request()
    assert request["params"] == {"op": "commands", "form": "names"}
    peer.answer(request, result=[{"cmdid": 5, "name": "five", **command}])


def breaking(**command: Any) -> Callable[[Peer], None]:
    """A connection that breaks when the call has come."""

    def script(peer: Peer) -> None:
        tell_names(peer, **command)
        assert peer.request()["cmdid"] == 5
        peer.close()

    return script


def answering(peer: Peer) -> None:
    tell_names(peer)
    peer.answer(peer.request(), result="done")
    peer.silence()


def test_a_command_registered_as_idempotent_is_retried(scripted: Scripted) -> None:
    _, client = scripted(breaking(idempotent=True), answering)
    assert client.call("five") == "done"
    assert client.stats()["retries"] == 1


def test_another_command_is_not_retried(scripted: Scripted) -> None:
    _, client = scripted(breaking(), breaking(), answering)
    with pytest.raises(gtcp.ConnectionLost) as raised:
        client.call("five")
    assert raised.value.executed == "maybe"
    assert client.call("five", idempotent=True) == "done"


def test_what_fails_before_the_names_are_known_did_not_run(scripted: Scripted) -> None:
    def busy(peer: Peer) -> None:
        peer.answer(peer.request(), code=429, message="too busy")
        peer.answer(peer.request(), code=408, message="the deadline passed")
        peer.answer(peer.request(), result="no list")
        peer.request()
        peer.close()

    _, client = scripted(busy, busy, retries=0)
    for expected in (gtcp.RemoteError, gtcp.RemoteTimeout, gtcp.ProtocolError, gtcp.ConnectionLost):
        with pytest.raises(expected) as raised:
            client.call("five")
        assert raised.value.executed == "no"


def test_a_connection_that_breaks_before_the_names_are_known_is_replaced(
    scripted: Scripted,
) -> None:
    def leaving(peer: Peer) -> None:
        peer.request()
        peer.go_away()
        peer.close()

    def broken(peer: Peer) -> None:
        peer.request()
        peer.close()

    _, client = scripted(leaving, broken, answering)
    assert client.call("five") == "done"


def test_a_server_that_leaves_when_it_has_told_its_names(scripted: Scripted) -> None:
    def leaving(peer: Peer) -> None:
        request = peer.request()
        names = {"code": 0, "id": request["id"], "result": [{"cmdid": 5, "name": "five"}]}
        peer.send(names, GOODBYE)
        assert peer.request() is None
        peer.close()

    _, client = scripted(leaving, answering)
    assert client.call("five") == "done"


def test_a_deadline_holds_for_the_question_too(scripted: Scripted) -> None:
    _, client = scripted(Peer.silence)
    with pytest.raises(gtcp.CallTimeout) as raised:
        client.call("five", timeout=0.05)
    assert raised.value.executed == "no"
