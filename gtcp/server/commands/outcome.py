"""From what a handler did to the line of its reply."""

from __future__ import annotations

from typing import Any

from gtcp.errors import CommandError, Refused
from gtcp.protocol.messages import FAILED, Failure, Request, Success, encode_reply


class Refusal(Exception):
    """A refusal with one of gtcp's own codes: (code, message, data)."""


def run(request: Request[Any]) -> Success | Failure:
    """Run a request's handler and return its reply, also when it raises."""
    try:
        return Success(request._run(), request.id)
    except BaseException as exc:  # a handler may raise anything: SystemExit, a Timeout, ...
        return failure(request, exc)


def failure(request: Any, exc: BaseException) -> Failure:
    """Return the reply for an exception of a handler, which is logged unless it is a reply."""
    if isinstance(exc, CommandError) and _is_an_answer(request, exc):
        return Failure(exc.code, str(exc.message), request.id, exc.data)
    if isinstance(exc, Refusal):
        code, message, *data = exc.args
        return Failure(code, message, request.id, *data)
    if isinstance(exc, Refused) and request._source.refusable:
        return Failure(exc.code, str(exc.message), request.id, exc.data)
    return _failed(request, "raised", exc)


def _is_an_answer(request: Any, exc: CommandError) -> bool:
    """Return whether it is the handler's answer.

    The error of another server, received by a call of the handler, is passed on only if the
    command declares its class: codes of two servers need not mean the same.
    """
    return not exc._from_reply or isinstance(exc, request._command.errors)


def encode_safely(reply: Success | Failure, request: Any, max_bytes: int | None) -> bytes:
    """Return the reply's line; if it can't be one, the line of a 500 in its place.

    The failure is logged, which may wait.
    """
    try:
        return encode_reply(reply, max_bytes)
    except Exception as exc:
        if request is None:
            raise  # gtcp's own refusals can always be encoded
        return encode_reply(_failed(request, "returned what can't be sent", exc), None)


def unsendable(request: Any, exc: BaseException) -> Refusal:
    """Return the refusal that ends a stream with an item that can't be sent; it is logged."""
    reply = _failed(request, "yielded what can't be sent", exc)
    return Refusal(reply.code, reply.message, reply.data)


def _failed(request: Any, what: str, exc: BaseException) -> Failure:
    """Log a handler's failure under an id that its caller receives too."""
    error_id = request._command.failures.log(what, request.address, exc)
    return Failure(
        FAILED, f"the handler failed, error id {error_id}", request.id, {"error_id": error_id}
    )
