"""The base class of the clients that ``gtcp stubs`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from gtcp.arguments import wrong_type
from gtcp.client.calls import Default
from gtcp.client.client import Client
from gtcp.client.names import warn_if_deprecated
from gtcp.errors import CommandError, RemoteError, received
from gtcp.protocol.messages import NOT_FOUND

T = TypeVar("T")

_NULL = msgspec.Raw(b"null")

#: Frames from where a method of a stub is called to where its warning is issued.
_FRAMES = 4


class Stub:
    """A typed client: one method for each command of a server.

    It may be shared as its client may: by greenlets and threads, and across ``fork``.

    Args:
        client: what it calls with. Closing it is up to its owner.

    Raises:
        TypeError: it is no ``gtcp.Client``.
    """

    def __init__(self, client: Client) -> None:
        if not isinstance(client, Client):
            wrong_type("client", "a gtcp.Client", client)
        self._client = client

    def _call(
        self,
        cmdid: int,
        params: Any,
        result: Any,
        *,
        name: str,
        timeout: float | Default | None,
        idempotent: bool,
        meta: dict[str, str] | None,
        hash_key: str | None = None,
        errors: Iterable[type[CommandError]] = (),
        deprecated: str | None = None,
    ) -> Any:
        """Call a command; see ``Client.call``.

        Args:
            name: what the command was called when the stub was written.
            errors: the classes of the errors that it declares.
            deprecated: what to warn with.
        """
        warn_if_deprecated(name, deprecated, _FRAMES)
        try:
            return self._client.call(
                cmdid,
                params,
                timeout=timeout,
                idempotent=idempotent,
                result=result,
                meta=meta,
                hash_key=hash_key,
            )
        except RemoteError as exc:
            error = _translated(exc, name, errors)
            if error is exc:
                raise
            raise error from None

    def _stream(
        self,
        cmdid: int,
        params: Any,
        result: Any,
        *,
        name: str,
        timeout: float | Default | None,
        total: float | None,
        idempotent: bool,
        meta: dict[str, str] | None,
        hash_key: str | None = None,
        errors: Iterable[type[CommandError]] = (),
        deprecated: str | None = None,
    ) -> Iterator[Any]:
        """Call a command that streams; see ``Client.stream``. For the rest as ``_call``."""
        warn_if_deprecated(name, deprecated, _FRAMES)
        stream = self._client.stream(
            cmdid,
            params,
            timeout=timeout,
            total=total,
            idempotent=idempotent,
            result=result,
            meta=meta,
            hash_key=hash_key,
        )
        return _items(iter(stream), name, errors)

    @staticmethod
    def _or_null(params: Any) -> Any:
        """Return params that may be None so that None is sent, too."""
        return _NULL if params is None else params

    @staticmethod
    def _given(name: str, value: T | msgspec.UnsetType) -> T:
        """Return an argument that takes the place of params; raise TypeError if it is missing."""
        if isinstance(value, msgspec.UnsetType):
            raise TypeError(f"missing argument: params or {name}")
        return value


def _items(items: Iterator[Any], name: str, errors: Iterable[type[CommandError]]) -> Iterator[Any]:
    """Yield the items of a stream. When it is closed, so is the stream."""
    try:
        yield from items
    except RemoteError as exc:
        error = _translated(exc, name, errors)
        if error is exc:
            raise
        error.received = exc.received
        raise error from None


def _translated(exc: RemoteError, name: str, errors: Iterable[type[CommandError]]) -> RemoteError:
    if exc.code == NOT_FOUND:
        hint = "its commands have changed, write the stub again with gtcp stubs"
        message = f"{exc.message}: the server has no command {name!r}; {hint}"
        return RemoteError(exc.code, message, exc.data, exc.executed)
    for kind in errors:
        if kind.own_code == exc.code and not isinstance(exc, kind):
            return received(kind, exc.code, exc.message, exc.data, exc.executed)
    return exc
