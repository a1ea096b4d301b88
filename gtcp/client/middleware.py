"""Functions around the calls of a client: each calls the next one.

A client without middleware calls as if there were no such thing. With it, each call is made by a
copy of the client that has none, which shares its connections and its retry budget.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from gtcp.chain import chained
from gtcp.client.retry import Retry
from gtcp.errors import GtcpError

Kind = Literal["call", "notify", "map", "stream"]


class ClientCall(msgspec.Struct, kw_only=True):
    """A call, as the middleware of a client sees it. Its fields may be changed before it is made.

    Attributes:
        kind: the method that was called: "call", "notify", "map" or "stream".
        address: the client's.
        cmdid: the command's number; None if it is called by name.
        name: its name, if it is called by name.
        params: a dict, a msgspec.Struct, a dataclass or None; of a map, the iterable.
        meta: strings that are passed along with the request.
        timeout: seconds, or None for no limit.
        idempotent: whether it may be retried although it may have run.
        attempt: the number of the last attempt, from 1.
        failures: the exceptions of the attempts before it.
    """

    kind: Kind
    address: str
    cmdid: int | None
    name: str | None
    params: Any
    meta: dict[str, str]
    timeout: float | None
    idempotent: bool
    attempt: int = 1
    failures: list[GtcpError] = msgspec.field(default_factory=list)
    _make: Callable[[ClientCall], Any]

    @property
    def command(self) -> Any:
        """The number of the command, or its name."""
        return self.cmdid if self.name is None else self.name


Next = Callable[[ClientCall], Any]
Middleware = Callable[[ClientCall, Next], Any]


class _CountingRetry(Retry):
    """The retries of a client, written down in one call."""

    def __init__(self, retry: Retry, call: ClientCall) -> None:
        self._retry, self._call = retry, call

    def wait_or_raise(
        self, error: GtcpError, attempt: int, idempotent: bool, deadline: float | None
    ) -> None:
        """Like ``Retry.wait_or_raise``."""
        self._retry.wait_or_raise(error, attempt, idempotent, deadline)
        self._call.failures.append(error)
        self._call.attempt = attempt + 1


def composed(middleware: Iterable[Middleware]) -> Next | None:
    """Combine middleware into one function, the first one outermost; return None without any.

    Raises:
        TypeError: one can't be called.
    """
    functions = tuple(middleware)
    for each in functions:
        if not callable(each):
            raise TypeError(f"middleware: expected functions, got {each!r}")
    return chained(functions, _make) if functions else None


def through(
    client: Any,
    kind: Kind,
    command: Any,
    params: Any,
    timeout: Any,
    meta: dict[str, str] | None,
    idempotent: bool = False,
    **options: Any,
) -> Any:
    """Make a call through the middleware of a client.

    Args:
        options: further arguments of the method that was called.
    """
    plain = copy.copy(client)
    plain._middleware = None
    method = getattr(plain, kind)

    def make(call: ClientCall) -> Any:
        if kind != "notify":
            options["idempotent"] = call.idempotent
        meta = call.meta or None
        return method(call.command, call.params, timeout=call.timeout, meta=meta, **options)

    call = ClientCall(
        kind=kind,
        address=str(client.address),
        cmdid=None if isinstance(command, str) else command,
        name=command if isinstance(command, str) else None,
        params=params,
        meta=dict(meta or {}),
        timeout=client._seconds(timeout),
        idempotent=idempotent,
        _make=make,
    )
    plain._retry = _CountingRetry(client._retry, call)
    return client._middleware(call)


def _make(call: ClientCall) -> Any:
    return call._make(call)
