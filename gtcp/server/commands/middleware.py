"""Functions around the handlers of a server or of a table: each calls the next one.

They are composed when the server starts. A command without middleware is called as if there were no
such thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gtcp.chain import chained
from gtcp.protocol.messages import Request
from gtcp.server.commands.annotations import check_arguments, name_of, refuse_async
from gtcp.server.commands.command import Handler

Middleware = Callable[[Any, Handler], Any]
MiddlewareT = TypeVar("MiddlewareT", bound=Callable[..., Any])


def check_middleware(function: Callable[..., Any]) -> None:
    """Raise TypeError if it can't be called with a request and the next function."""
    refuse_async(function, name_of(function), "middleware is a plain function")
    check_arguments("middleware", function, ("the request", "the next function"))


def composed(middleware: Iterable[Middleware], handler: Handler) -> Handler:
    """Return the handler with functions around it.

    Args:
        middleware: the outermost first; at least one.
        handler: takes the request; returns the result, or the iterator of a stream.
    """

    def call(request: Request[Any]) -> Any:
        request._source.refusable = False
        return handler(request)

    first, *others = middleware
    following = chained(others, call)

    def run(request: Request[Any]) -> Any:
        request._source.refusable = True
        return first(request, following)

    return run
