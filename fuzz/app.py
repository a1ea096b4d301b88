"""The commands that the targets' servers have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from gevent import idle

import gtcp

ECHO, WAITS, FAILS, TYPED, REFUSES, ANY = 1, 2, 3, 4, 5, 6
STREAMS = 8  # 7 is unknown


class Point(msgspec.Struct):
    """Params of a type."""

    x: int
    y: list[float] = []
    name: str | None = None


def commands(ran: list[gtcp.Request[Any]], wait: Callable[[], Any] = idle) -> gtcp.Commands:
    """A table whose handlers note each request that they get; two of them wait."""
    table = gtcp.Commands()

    @table.handler(ECHO)
    def echo(request: gtcp.Request[dict[str, Any]]) -> dict[str, Any]:
        ran.append(request)
        return request.params

    @table.handler(WAITS)
    def waits(request: gtcp.Request[dict[str, Any]]) -> dict[str, Any]:
        ran.append(request)
        wait()
        return request.params

    @table.handler(FAILS)
    def fails(request: gtcp.Request) -> None:
        ran.append(request)
        raise ZeroDivisionError

    @table.handler(TYPED, run_to_end=True)
    def typed(request: gtcp.Request[Point]) -> Point:
        ran.append(request)
        wait()
        return request.params

    @table.handler(REFUSES)
    def refuses(request: gtcp.Request[dict[str, Any]]) -> None:
        ran.append(request)
        raise gtcp.CommandError(1000, "no", request.params)

    @table.handler(ANY)
    def takes_all(request: gtcp.Request[Any]) -> Any:
        ran.append(request)
        return request.params

    @table.handler(STREAMS)
    def streams(request: gtcp.Request[dict[str, Any]]) -> Iterator[Any]:
        ran.append(request)
        for key, value in request.params.items():
            if key == "wait":
                wait()
            yield value

    return table
