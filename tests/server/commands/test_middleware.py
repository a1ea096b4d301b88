"""Middleware of servers and tables: order, results, refusals, streams."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Iterator
from typing import Any

import pytest

import gtcp
from tests.helpers import serving

Next = Any

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def answer(target: gtcp.Server | gtcp.Commands, cmdid: int = 1, **request: Any) -> list[Any]:
    commands = target.commands if isinstance(target, gtcp.Server) else target
    line = json.dumps({"cmdid": cmdid, **request}).encode()
    return [json.loads(each) for each in commands.answer(line).splitlines()]


@pytest.fixture
def told() -> list[str]:
    return []


def note(told: list[str], name: str) -> Any:
    def function(request: gtcp.Request, call_next: Next) -> Any:
        told.append(f"{name} in")
        try:
            return call_next(request)
        finally:
            told.append(f"{name} out")

    return function


def test_the_order_is_that_of_registration_and_the_servers_is_first(told: list[str]) -> None:
    server, table, inner = gtcp.Server(gtcp.Settings()), gtcp.Commands(), gtcp.Commands()
    inner.handler(1)(lambda _: told.append("handler"))
    table.include(inner)
    server.include(table)
    server.middleware(note(told, "first"))
    server.middleware(note(told, "second"))
    table.middleware(note(told, "table"))
    inner.middleware(note(told, "inner"))
    server.before_request(lambda _: told.append("before"))
    server.after_request(lambda _, _error: told.append("after"))
    assert answer(server) == [{"code": 0, "result": None}]
    assert told == [
        *("before", "first in", "second in", "table in", "inner in", "handler"),
        *("inner out", "table out", "second out", "first out", "after"),
    ]


def test_each_tables_own_middleware_is_for_its_commands_only(told: list[str]) -> None:
    server, one, other = gtcp.Server(gtcp.Settings()), gtcp.Commands(), gtcp.Commands()
    one.handler(1)(lambda _: 1)
    other.handler(2)(lambda _: 2)
    one.middleware(note(told, "one"))
    server.include(one)
    server.include(other)
    server.include(one)  # once more: nothing happens
    assert answer(server, 2) == [{"code": 0, "result": 2}]
    assert told == []
    assert answer(one) == [{"code": 0, "result": 1}]
    assert told == ["one in", "one out"]


def test_it_may_answer_change_the_result_and_translate_exceptions() -> None:
    table = gtcp.Commands()

    @table.middleware
    def around(request: gtcp.Request, call_next: Next) -> Any:
        if request.params.get("cached"):
            return "from the cache"
        try:
            return call_next(request).upper()
        except KeyError as exc:
            raise gtcp.CommandError(1001, f"there is no {exc}") from exc

    table.handler(1)(lambda request: {"a": "tea"}[request.params["key"]])
    assert answer(table, params={"cached": True}) == [{"code": 0, "result": "from the cache"}]
    assert answer(table, params={"key": "a"}) == [{"code": 0, "result": "TEA"}]
    assert answer(table, params={"key": "b"}) == [{"code": 1001, "message": "there is no 'b'"}]


def test_a_refusal_says_that_the_handler_did_not_run() -> None:
    table = gtcp.Commands()
    table.handler(1)(lambda _: "ran")

    @table.middleware
    def limit(_request: gtcp.Request, _call_next: Next) -> Any:
        raise gtcp.Refused(429, "too many", {"retry_after": 2})

    with (
        serving(table) as running,
        gtcp.Client(running.address) as client,
        pytest.raises(gtcp.RemoteError, match="429 too many") as caught,
    ):
        client.call(1)
    assert (caught.value.executed, caught.value.data) == ("no", {"retry_after": 2})


def test_a_refusal_after_the_handler_is_a_failure() -> None:
    table = gtcp.Commands()
    table.handler(1)(lambda _: "ran")

    @table.middleware
    def late(request: gtcp.Request, call_next: Next) -> Any:
        call_next(request)
        raise gtcp.Refused(429, "too late")

    assert [each["code"] for each in answer(table)] == [500]


def test_a_handler_can_not_refuse() -> None:
    table = gtcp.Commands()

    @table.handler(1)
    def handler(_request: gtcp.Request) -> None:
        raise gtcp.Refused(429, "me")

    assert [each["code"] for each in answer(table)] == [500]
    table.middleware(lambda request, call_next: call_next(request))
    assert [each["code"] for each in answer(table)] == [500]


def test_before_request_may_refuse() -> None:
    server = gtcp.Server(gtcp.Settings())
    server.handler(1)(lambda _: "ran")

    @server.before_request
    def refuse(request: gtcp.Request) -> None:
        if request.meta.get("token") != "right":
            raise gtcp.Refused(401, "no token")

    assert answer(server) == [{"code": 401, "message": "no token"}]
    assert answer(server, meta={"token": "right"}) == [{"code": 0, "result": "ran"}]


@pytest.mark.parametrize("code", [0, 200, 405.0, 408, 500, 1001, "429", True])
def test_codes_that_do_not_refuse(code: Any) -> None:
    with pytest.raises(ValueError, match=r"code: expected one of 400, 401, "):
        gtcp.Refused(code, "no")


def test_a_refusal_as_text() -> None:
    assert str(gtcp.Refused(403, "not you")) == "403 not you"


def test_context_variables_reach_the_handler_and_nobody_else() -> None:
    table = gtcp.Commands()
    table.handler(1)(lambda _: tenant.get())

    @table.middleware
    def by_meta(request: gtcp.Request, call_next: Next) -> Any:
        if "tenant" in request.meta:
            tenant.set(request.meta["tenant"])
        return call_next(request)

    with serving(table) as running, gtcp.Client(running.address) as client:
        assert client.call(1, meta={"tenant": "acme"}) == "acme"
        assert client.call(1) == "nobody"


class Greet(gtcp.BaseHandler):
    def process(self, request: gtcp.Request) -> str:
        return "class"


def test_classes_and_callable_objects() -> None:
    table = gtcp.Commands()
    table.handler(1)(Greet)

    class Loud:
        def __call__(self, request: gtcp.Request, call_next: Next) -> Any:
            return call_next(request) + "!"

    table.middleware(Loud())
    table.middleware(lambda request, call_next: call_next(request) + "?")
    assert answer(table) == [{"code": 0, "result": "class?!"}]


# Streams


def stream_of(*middleware: Any) -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def numbers(_request: gtcp.Request) -> Iterator[int]:
        yield from range(3)

    for each in middleware:
        table.middleware(each)
    return table


def results(table: gtcp.Commands) -> list[Any]:
    return [each.get("result", each["code"]) for each in answer(table, stream=True)]


def test_a_stream_is_an_iterator() -> None:
    def doubled(request: gtcp.Request, call_next: Next) -> Iterator[int]:
        for each in call_next(request):
            yield 2 * each

    def unchanged(request: gtcp.Request, call_next: Next) -> Iterator[int]:
        return iter(call_next(request))

    assert results(stream_of(doubled, unchanged)) == [0, 2, 4, 0]


def test_a_stream_is_refused_before_its_first_item() -> None:
    def refuse(request: gtcp.Request, call_next: Next) -> Iterator[int]:
        if not request.meta:
            raise gtcp.Refused(403, "not you")
        yield from call_next(request)

    assert answer(stream_of(refuse), stream=True) == [{"code": 403, "message": "not you"}]


def test_a_stream_is_not_refused_later() -> None:
    def late(request: gtcp.Request, call_next: Next) -> Iterator[int]:
        yield from call_next(request)
        raise gtcp.Refused(403, "not you")

    assert results(stream_of(late)) == [0, 1, 2, 500]


# Registration


@pytest.mark.parametrize(
    "function",
    [None, 3, lambda: None, lambda _request: None, lambda _a, _b, _c: None],
)
def test_functions_with_other_arguments(function: Any) -> None:
    with pytest.raises(TypeError, match=r"^middleware"):
        gtcp.Commands().middleware(function)


def test_async_functions() -> None:
    async def late(_request: gtcp.Request, _call_next: Next) -> None: ...

    with pytest.raises(TypeError, match="late is an async function: middleware is"):
        gtcp.Server(gtcp.Settings()).middleware(late)


def test_functions_in_c_are_taken() -> None:
    assert gtcp.Commands().middleware(max) is max


def test_a_server_that_has_started() -> None:
    table = gtcp.Commands()
    with serving(table) as running, pytest.raises(RuntimeError, match="has started already"):
        running.server.middleware(lambda request, call_next: call_next(request))
