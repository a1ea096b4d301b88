"""What a handler did, as the reply's line: its result, its error, or that it can't be sent."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from gtcp.errors import CommandError
from gtcp.protocol import FAILED, Failure, Request, Success, as_line, encode_reply


class Refused(Exception):
    """An answer with a code of gtcp's own: (code, message, data)."""


def run(request: Request[Any]) -> Success | Failure:
    """Run a request's handler; whatever it raises becomes a reply."""
    try:
        return Success(request._run(), request.id)
    except BaseException as exc:  # a handler may raise anything: SystemExit, a Timeout, ...
        return failure(request, exc)


def failure(request: Request[Any], exc: BaseException) -> Failure:
    """The reply for what a handler raised; what it did not mean to raise is logged."""
    if isinstance(exc, CommandError):
        return Failure(exc.code, str(exc.message), request.id, exc.data)
    if isinstance(exc, Refused):
        code, message, *data = exc.args
        return Failure(code, message, request.id, *data)
    return _failed(request, "raised", exc)


def _directly(function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    function(*args, **kwargs)


def encode_safely(
    reply: Success | Failure,
    request: Request[Any] | None,
    max_bytes: int | None,
    log_by: Callable[..., object] = _directly,
) -> bytes:
    """The reply's line; if it can't be one, the line of a 500 that stands in for it.

    Args:
        log_by: called with the log call and its arguments; in the hub nothing may wait, not
            even a log handler.
    """
    try:
        return encode_reply(reply, max_bytes)
    except Exception as exc:
        if request is None:
            raise  # gtcp's own refusals are always writable
        return _unsendable(request, exc, log_by)


def checked(
    line: bytes, request: Request[Any], max_bytes: int | None, log_by: Callable[..., object]
) -> bytes:
    """An encoded reply with its newline, or the line of a 500; for the rest as above."""
    try:
        return as_line(line, max_bytes)
    except ValueError as exc:
        return _unsendable(request, exc, log_by)


def _unsendable(request: Request[Any], exc: Exception, log_by: Callable[..., object]) -> bytes:
    return encode_reply(_failed(request, "returned what can't be sent", exc, log_by), None)


def _failed(
    request: Request[Any],
    what: str,
    exc: BaseException,
    log_by: Callable[..., object] = _directly,
) -> Failure:
    """Log a handler's failure under an id that its caller is told too."""
    error_id = secrets.token_hex(6)
    command = request._command
    log_by(
        command.logger.error,
        "cmdid %d (%s) %s for %s: %s, error id %s",
        command.cmdid,
        command.name,
        what,
        request.address or "nobody",
        type(exc).__name__,
        error_id,
        exc_info=exc,
    )
    return Failure(
        FAILED, f"the handler failed, error id {error_id}", request.id, {"error_id": error_id}
    )
