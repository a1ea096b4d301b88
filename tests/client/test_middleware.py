"""Middleware of a client: what it sees, changes and answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import gtcp
from gtcp.testing import FaultProxy
from tests.helpers import Serving, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Serving]:
    table = gtcp.Commands()

    @table.handler(1)
    def echo(request: gtcp.Request) -> list[Any]:
        return [request.params, request.meta]

    @table.handler(2)
    def numbers(request: gtcp.Request) -> Iterator[list[Any]]:
        for number in range(3):
            yield [number, request.meta]

    @table.handler(3)
    def sleep(request: gtcp.Request) -> None:
        time.sleep(request.params["seconds"])

    with serving(table) as found:
        yield found


class Seen:
    """Middleware that keeps the calls, and passes them on."""

    def __init__(self) -> None:
        self.calls: list[gtcp.ClientCall] = []

    def __call__(self, call: gtcp.ClientCall, call_next: Any) -> Any:
        self.calls.append(call)
        call.meta["seen"] = "yes"
        return call_next(call)


def test_every_kind_of_call(running: Serving) -> None:
    seen = Seen()
    with gtcp.Client(running.address, middleware=[seen], timeout=9) as client:
        assert client.call(1, {"a": 1}, meta={"b": "c"}) == [{"a": 1}, {"b": "c", "seen": "yes"}]
        assert client.call("echo", idempotent=True, timeout=5) == [{}, {"seen": "yes"}]
        assert list(client.map(1, [{"a": 1}])) == [[{"a": 1}, {"seen": "yes"}]]
        with client.stream(2) as items:
            assert list(items) == [[number, {"seen": "yes"}] for number in range(3)]
        client.notify(1)
    assert [(each.kind, each.cmdid, each.name) for each in seen.calls] == [
        ("call", 1, None),
        ("call", None, "echo"),
        ("map", 1, None),
        ("stream", 2, None),
        ("notify", 1, None),
    ]
    assert [each.timeout for each in seen.calls[:2]] == [9, 5]
    assert [each.idempotent for each in seen.calls[:2]] == [False, True]
    assert seen.calls[0].params == {"a": 1}
    assert {each.attempt for each in seen.calls} == {1}


def test_the_first_one_is_outermost_and_may_answer(running: Serving) -> None:
    told: list[str] = []

    def outer(call: gtcp.ClientCall, call_next: Any) -> Any:
        told.append("outer")
        result = call_next(call)
        told.append("outer again")
        return result

    def inner(call: gtcp.ClientCall, call_next: Any) -> Any:
        told.append("inner")
        return "from the cache"

    with gtcp.Client(running.address, middleware=(outer, inner)) as client:
        assert client.call(1) == "from the cache"
        assert client.stats()["sent"] == 0
    assert told == ["outer", "inner", "outer again"]


def test_what_it_changes_is_sent(running: Serving) -> None:
    def change(call: gtcp.ClientCall, call_next: Any) -> Any:
        call.params = {"changed": True}
        if call.cmdid == 3:
            call.params, call.timeout = {"seconds": 1}, 0.05
        return call_next(call)

    with gtcp.Client(running.address, middleware=[change]) as client:
        assert client.call(1, {"a": 1}) == [{"changed": True}, {}]
        with pytest.raises(gtcp.CallTimeout):
            client.call(3, {"seconds": 0})


def test_it_sees_the_failures_of_attempts(running: Serving) -> None:
    seen = Seen()
    with (
        FaultProxy(running.address) as proxy,
        gtcp.Client(proxy.address, middleware=[seen]) as client,
    ):
        client.call(1)
        proxy.set(refuse=True)
        proxy.reset()
        with pytest.raises((gtcp.ConnectError, gtcp.ConnectionLost)):
            client.call(1, timeout=5, idempotent=True)
        assert client.stats()["retries"] == 3
    assert seen.calls[0].failures == []
    assert seen.calls[1].attempt == 4
    assert len(seen.calls[1].failures) == 3


def test_exceptions_pass_through(running: Serving) -> None:
    def translate(call: gtcp.ClientCall, call_next: Any) -> Any:
        try:
            return call_next(call)
        except gtcp.RemoteError as exc:
            raise LookupError(exc.code) from exc

    with gtcp.Client(running.address, middleware=[translate]) as client:
        with pytest.raises(LookupError, match="404"):
            client.call(4711)
        with pytest.raises(TypeError, match="meta"):
            client.call(1, meta={"a": 3})  # type: ignore[dict-item]


def test_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="middleware: expected functions, got 3"):
        gtcp.Client("127.0.0.1", middleware=[3])  # type: ignore[list-item]
