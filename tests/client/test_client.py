"""The client as its callers see it: params, results, errors, deadlines, closing."""

from __future__ import annotations

import dataclasses
import datetime
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import msgspec
import pytest

import gtcp
from tests.client.fakes import FakeServer, Peer, answers, begin, fake_server, outcome, soon
from tests.helpers import Gate, Serving, serving

Connect = Callable[..., gtcp.Client]
Scripted = Callable[..., tuple[FakeServer, gtcp.Client]]


class Greet(msgspec.Struct):
    content: str
    times: int = 1


@dataclasses.dataclass
class GreetData:
    content: str
    times: int = 1


class App:
    """The commands that most tests call, and what they saw."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.params: list[Any] = []
        self.commands = gtcp.Commands()
        for cmdid, function in enumerate(
            (self.echo, self.typed, self.fail, self.blocked, self.nested), start=1
        ):
            self.commands.handler(cmdid)(function)
        self.inner: gtcp.Client | None = None

    def echo(self, request: gtcp.Request) -> Any:
        self.params.append(request.params)
        return request.params

    def typed(self, request: gtcp.Request[Greet]) -> Greet:
        return request.params

    def fail(self, request: gtcp.Request) -> Any:
        raise gtcp.CommandError(1234, "not today", {"why": request.params})

    def blocked(self, request: gtcp.Request) -> str:
        self.gate.wait()
        return "passed"

    def nested(self, request: gtcp.Request) -> Any:
        assert self.inner is not None
        return self.inner.call(6, request.params, **request.params.get("options", {}))


def through(way: str, client: gtcp.Client, cmdid: Any, params: Any = None, meta: Any = None) -> Any:
    """Call, notify or map, with the same arguments."""
    if way == "map":
        return list(client.map(cmdid, [params], meta=meta))
    return getattr(client, way)(cmdid, params, meta=meta)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server(app: App) -> Iterator[Serving]:
    with serving(app.commands) as running:
        yield running


# Params


@pytest.mark.parametrize(
    "params", [{"content": "hi", "times": 2}, Greet("hi", 2), GreetData("hi", 2)]
)
def test_params_may_be_a_dict_a_struct_or_a_dataclass(
    connect: Connect, server: Serving, params: Any
) -> None:
    client = connect(server.address)
    assert client.call(2, params) == {"content": "hi", "times": 2}
    assert client.call(1) == {}  # without any


@pytest.mark.parametrize(
    "text", ["", "\n", "\r\n", "\u2028", '"\\', "\0", "ü" * 1000, "\U0001f600"]
)
def test_any_text_arrives_as_it_is(connect: Connect, server: Serving, text: str) -> None:
    assert connect(server.address).call(1, {"text": text}) == {"text": text}


def cyclic() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


class Positions(msgspec.Struct, array_like=True):
    n: int = 1


@pytest.mark.parametrize(
    "params",
    [[1], [], (), "text", "", b"{}", 1, 0, 1.5, True, False, {1}, Positions(), msgspec.Raw(b"[1]")],
    ids=lambda each: "Raw" if isinstance(each, msgspec.Raw) else repr(each),
)
@pytest.mark.parametrize("way", ["call", "notify", "map"])
def test_params_that_are_not_an_object_are_a_type_error(
    scripted: Scripted, params: Any, way: str
) -> None:
    server, client = scripted(Peer.echo)
    error = outcome(through, way, client, 1, params)
    assert type(error) is TypeError
    assert str(error) == (
        "params: expected a dict, a msgspec.Struct, a dataclass or None, "
        f"got an object of type {type(params).__name__}"
    )
    assert server.peers == []
    assert client.stats()["opened"] == 0


def test_params_may_be_the_raw_text_of_an_object(connect: Connect, server: Serving) -> None:
    assert connect(server.address).call(1, msgspec.Raw(b' {"n": 1}')) == {"n": 1}


UNWRITABLE = [
    pytest.param(object(), id="object"),
    pytest.param(cyclic(), id="cyclic"),
    pytest.param("\ud800", id="surrogate"),
    pytest.param(msgspec.Raw(b"1\n2"), id="newline"),
]


@pytest.mark.parametrize("value", UNWRITABLE)
@pytest.mark.parametrize("way", ["call", "notify", "map"])
def test_params_that_are_not_json_cost_no_connection(
    scripted: Scripted, value: Any, way: str
) -> None:
    server, client = scripted(Peer.echo)
    error = outcome(through, way, client, 1, {"value": value})
    assert isinstance(error, TypeError | ValueError)
    assert server.peers == []
    assert client.stats()["opened"] == 0


@pytest.mark.parametrize("value", UNWRITABLE)
def test_params_that_are_not_json_disturb_nobody(scripted: Scripted, value: Any) -> None:
    server, client = scripted(Peer.echo)
    calls = [begin(client.call, 1, {"n": n}) for n in range(3)]
    assert isinstance(outcome(client.call, 1, {"value": value}), TypeError | ValueError)
    assert [each.get() for each in calls] == [{"n": n} for n in range(3)]
    assert client.call(1, {"n": 4}) == {"n": 4}
    assert len(server.lines) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"cmdid": b"1"},
        {"cmdid": None},
        {"cmdid": True},
        {"cmdid": 1.0},
        {"cmdid": 1, "meta": {"a": 1}},
        {"cmdid": 1, "meta": {1: "a"}},
        {"cmdid": 1, "meta": "a"},
    ],
)
@pytest.mark.parametrize("way", ["call", "notify", "map"])
def test_what_the_server_would_close_the_connection_for_is_refused(
    connect: Connect, app: App, server: Serving, wrong: dict[str, Any], way: str
) -> None:
    client = connect(server.address)
    other = begin(client.call, 4)
    soon(lambda: app.gate.waiting)
    assert type(outcome(through, way, client, **wrong)) is TypeError
    app.gate.open()
    assert other.get() == "passed"


def test_meta_goes_along(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    client.call(1, meta={"trace": "abc"})
    client.notify(1, meta={"trace": "def"})
    client.call(1)
    metas = [each.get("meta") for each in server.lines]
    assert metas == [{"trace": "abc"}, {"trace": "def"}, None]


# Results


def test_a_result_of_the_type_asked_for(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    assert client.call(2, Greet("hi"), result=Greet) == Greet("hi")
    assert client.call(2, Greet("hi"), result=GreetData) == GreetData("hi")
    assert client.call(1, {"a": 1}, result=dict[str, int]) == {"a": 1}


A_MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("result", "wanted", "expected"),
    [
        ([{"content": "a"}], list[Greet], [Greet("a")]),
        ("2026-01-02T03:04:05Z", datetime.datetime, A_MOMENT),
        ("AAE=", bytes, b"\0\1"),
        ({"1": 2}, dict[int, int], {1: 2}),
        (None, type(None), None),
        (None, int | None, None),
        ([1, 2], tuple[int, int], (1, 2)),
    ],
)
def test_results_of_all_types(scripted: Scripted, result: Any, wanted: Any, expected: Any) -> None:
    _, client = scripted(answers(result=result))
    value = client.call(1, result=wanted)
    assert value == expected
    assert type(value) is type(expected)


def test_a_result_that_does_not_fit(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    error = outcome(client.call, 1, {"content": 5}, result=Greet)
    assert type(error) is gtcp.ProtocolError
    assert error.executed == "maybe"
    assert "$.content" in str(error)
    assert client.call(1, {"n": 1}) == {"n": 1}
    assert client.stats()["opened"] == 1


# Errors


def test_an_error_of_the_application(connect: Connect, server: Serving) -> None:
    error = outcome(connect(server.address).call, 3, {"a": 1})
    assert type(error) is gtcp.RemoteError
    assert (error.code, error.message, error.data) == (1234, "not today", {"why": {"a": 1}})
    assert error.executed == "yes"
    assert str(error) == "1234 not today"


@pytest.mark.parametrize(
    ("code", "executed"),
    [(code, "no") for code in (400, 401, 403, 404, 413, 422, 429, 503)]
    + [(500, "yes"), (1000, "yes"), (-1, "yes")],
)
def test_the_code_says_whether_it_ran(scripted: Scripted, code: int, executed: str) -> None:
    _, client = scripted(answers(code=code, message="sorry", data=[1]), retries=0)
    error = outcome(client.call, 1)
    assert type(error) is gtcp.RemoteError
    assert (error.code, error.data, error.executed) == (code, [1], executed)


@pytest.mark.parametrize(("data", "executed"), [(None, "maybe"), ({"executed": "no"}, "no")])
def test_the_server_says_that_it_is_too_late(scripted: Scripted, data: Any, executed: str) -> None:
    _, client = scripted(answers(code=408, message="too late", data=data))
    error = outcome(client.call, 1)
    assert type(error) is gtcp.RemoteTimeout
    assert isinstance(error, gtcp.CallTimeout)
    assert error.executed == executed


def test_unknown_commands_and_wrong_params(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    for error, code in (
        (outcome(client.call, 999), 404),
        (outcome(client.call, 2, {"content": 1}), 422),
    ):
        assert (error.code, error.executed) == (code, "no")
    assert client.call(1, {"n": 1}) == {"n": 1}
    assert client.stats()["opened"] == 1


def test_errors_can_be_pickled(connect: Connect, server: Serving) -> None:
    error = outcome(connect(server.address).call, 3)
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.message, again.executed) == (1234, "not today", "yes")
    lost = gtcp.ConnectionLost("gone", executed="no")
    assert pickle.loads(pickle.dumps(lost)).executed == "no"


# Deadlines


def test_the_deadline_is_real_and_stops_the_handler(
    connect: Connect, app: App, server: Serving
) -> None:
    client = connect(server.address)
    started = monotonic()
    error = outcome(client.call, 4, timeout=0.1)
    assert 0.09 <= monotonic() - started < 5  # the server may be a millisecond ahead
    assert isinstance(error, gtcp.CallTimeout)
    assert error.executed == "maybe"
    soon(lambda: app.gate.stopped)
    assert app.gate.passed == 0
    assert client.call(1, {"n": 1}) == {"n": 1}


def test_no_time_at_all(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    for _ in range(2):  # without and with a connection
        error = outcome(client.call, 1, timeout=0)
        assert type(error) is gtcp.CallTimeout
        assert error.executed == "no"
        client.call(2)
    assert {each["cmdid"] for each in server.lines} == {2}


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), 1e10])
def test_impossible_timeouts_are_refused(scripted: Scripted, timeout: float) -> None:
    server, client = scripted(Peer.echo)
    with pytest.raises(ValueError, match="timeout"):
        client.call(1, timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        gtcp.Client(server.address, timeout=timeout)


def timeouts_sent(server: Any) -> list[Any]:
    return [each.get("timeout") for each in server.lines]


def test_what_is_left_travels_with_the_request(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo, timeout=20)
    client.call(1)
    client.call(1, timeout=5)
    client.call(1, timeout=None)
    client.notify(1, timeout=5)
    client.call(1, timeout=50)
    first, second, third, fourth, fifth = timeouts_sent(server)
    assert 15_000 < first <= 20_000
    assert 2_000 < second <= 5_000
    assert third is None
    assert 2_000 < fourth <= 5_000
    assert 45_000 < fifth <= 50_000


def test_a_call_inherits_a_narrower_deadline(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo, timeout=20)
    with gtcp.deadline(5):
        client.call(1)
        client.call(1, timeout=None)
        client.call(1, timeout=1)
        client.call(1, timeout=50, detach=True)
        client.notify(1)
        list(client.map(1, [{}]))
    client.call(1)
    sent = timeouts_sent(server)
    assert all(2_000 < each <= 5_000 for each in (sent[0], sent[1], sent[4], sent[5]))
    assert sent[2] <= 1_000
    assert sent[3] > 45_000
    assert sent[6] > 5_000


def test_a_deadline_around_a_call_ends_it(connect: Connect, app: App, server: Serving) -> None:
    client = connect(server.address)
    with pytest.raises(gtcp.CallTimeout) as raised, gtcp.deadline(0.1):
        client.call(4, timeout=None)
    assert raised.value.executed == "maybe"
    soon(lambda: app.gate.stopped)


def test_a_call_inside_a_handler_inherits_what_is_left(connect: Connect, app: App) -> None:
    with fake_server(Peer.echo) as inner, serving(app.commands) as server:
        app.inner = gtcp.Client(inner.address)
        client = connect(server.address)
        client.call(5, timeout=5)
        client.call(5, {"options": {"timeout": 2}}, timeout=5)
        client.call(5, {"options": {"timeout": 60, "detach": True}}, timeout=5)
        client.call(5, timeout=None)
        server.run(app.inner.close)
        sent = timeouts_sent(inner)
        assert 2_000 < sent[0] <= 5_000
        assert sent[1] <= 2_000
        assert sent[2] > 50_000
        assert sent[3] > 20_000  # its own default


# Notify


def test_a_notification_runs(connect: Connect, app: App, server: Serving) -> None:
    client = connect(server.address)
    assert client.notify(1, {"n": 1}) is None
    assert client.call(1, {"n": 2}) == {"n": 2}
    soon(lambda: app.params == [{"n": 1}, {"n": 2}])


def test_nobody_tells_that_a_notification_failed(connect: Connect, server: Serving) -> None:
    client = connect(server.address)
    for cmdid in (999, 3, 2):
        client.notify(cmdid, {"content": 1})
    assert client.call(1, {"n": 2}) == {"n": 2}
    assert client.stats()["dropped"] == 0
    assert client.stats()["opened"] == 1


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "unix"])
def test_addresses(connect: Connect, app: App, host: str, tmp_path: Path) -> None:
    if host == "unix":
        bind = (f"unix:{tmp_path}/socket",)
    elif host == "[::1]":
        bind = ("[::1]:0",)
    else:
        bind = ("127.0.0.1:0",)
    with serving(app.commands, bind=bind) as server:
        address = server.address
        if host == "localhost":
            address = "localhost:" + address.rsplit(":", 1)[1]
        assert connect(address).call(1, {"n": 1}) == {"n": 1}


def test_the_port_is_8889_unless_said() -> None:
    assert repr(gtcp.Client("127.0.0.1")) == "gtcp.Client('127.0.0.1:8889')"
    with pytest.raises(ValueError, match="address"):
        gtcp.Client("host:99999")


# Closing


def test_it_connects_when_it_is_first_used(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    gevent.sleep(0.01)
    assert server.peers == []
    client.call(1)
    assert len(server.peers) == 1


def test_closing_hangs_up(scripted: Scripted) -> None:
    ended: list[bool] = []

    def script(peer: Peer) -> None:
        peer.echo()
        ended.append(True)

    _, client = scripted(script)
    with client:  # a context manager closes it
        client.call(1)
    soon(lambda: ended)
    client.close()


@pytest.mark.parametrize("way", ["call", "notify", "map"])
@pytest.mark.parametrize("used", [False, True])
def test_a_closed_client_can_not_be_used(scripted: Scripted, used: bool, way: str) -> None:
    server, client = scripted(Peer.echo)
    if used:
        client.call(1)
    client.close()
    error = outcome(through, way, client, 1)
    assert isinstance(error, gtcp.ConnectError)
    assert error.executed == "no"
    assert "closed" in str(error)
    assert len(server.peers) == used
    assert client.stats()["retries"] == 0


def test_closing_tells_the_calls_in_flight(scripted: Scripted) -> None:
    server, client = scripted(Peer.silence)
    calls = [begin(client.call, 1) for _ in range(3)]
    soon(lambda: len(server.lines) == 3)
    late = begin(client.call, 2)
    client.close()
    for call in calls:
        error = call.get()
        assert type(error) is gtcp.ConnectionLost
        assert error.executed == "maybe"
    error = late.get()
    assert isinstance(error, gtcp.ConnectError | gtcp.ConnectionLost)
    assert error.executed == "no"


def test_closing_tells_those_who_wait_for_a_place(scripted: Scripted) -> None:
    server, client = scripted(Peer.silence, max_connections=1, max_in_flight=1)
    held = begin(client.call, 1)
    soon(lambda: server.lines)
    waiting = begin(client.call, 1)
    client.close()
    assert isinstance(waiting.get(), gtcp.ConnectError)
    assert held.get().executed == "maybe"


def test_closing_while_it_connects(connect: Connect) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        client = connect(f"127.0.0.1:{listener.getsockname()[1]}")
        call = gevent.spawn(outcome, client.call, 1)
        gevent.sleep(0)
        client.close()
        error = call.get()
        assert isinstance(error, gtcp.ConnectError)
        assert error.executed == "no"


# Stats


def test_stats(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        for request in peer.requests(5):
            peer.answer(request)
        peer.echo()

    server, client = scripted(script)
    names = ("connections", "in_flight", "opened", "waits", "sent", "dropped", "retries")
    nothing = dict.fromkeys(names, 0)
    assert client.stats() == nothing
    calls = [begin(client.call, 1) for _ in range(4)]
    soon(lambda: len(server.lines) == 4)
    expected = {**nothing, "connections": 1, "opened": 1}
    expected["waits"] = 3  # until the connection of the first call was open
    assert client.stats() == {**expected, "in_flight": 4, "sent": 4}
    calls.append(begin(client.call, 1))
    gevent.joinall(calls)
    client.notify(1)
    assert client.stats() == {**expected, "sent": 6}
    client.close()
    assert client.stats() == {**nothing, "opened": 1, "waits": 3, "sent": 6}
