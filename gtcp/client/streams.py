"""Streams: the items of one call, taken one by one.

A stream is retried like a call until its first item arrives. After that nothing is sent again, and
an error says how many items came (``received``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import msgspec
from gevent import get_hub
from msgspec import Raw

from gtcp.arguments import check_integer, check_params, check_seconds, check_text
from gtcp.client.any_pool import AnyPool
from gtcp.client.arguments import check_choices, check_request
from gtcp.client.calls import DEFAULT, Calls, Default
from gtcp.client.connections.connection import Connection
from gtcp.client.connections.items import Items
from gtcp.client.connections.reply import error_of, result_of
from gtcp.client.middleware import through
from gtcp.client.names import NamedConnection, NamedPool, warn_if_deprecated
from gtcp.client.pools import never_return, run_in_thread_of, thread_ident
from gtcp.deadline import current, earliest
from gtcp.errors import (
    CommandError,
    ConnectError,
    ConnectionLost,
    Executed,
    GtcpError,
    ProtocolError,
    RemoteError,
)
from gtcp.protocol.messages import GOING_AWAY, OWN_CMDID, Reply

R = TypeVar("R")

#: The classes of the application's errors, by code.
Errors = Mapping[int, type[CommandError]]

#: Frames from a loop over a deprecated command's items to where the warning is issued.
FRAMES = 5

#: Items that may be on their way or not yet taken. The server limits their bytes too.
WINDOW = 256


class Asked(msgspec.Struct):
    """The arguments of a stream; see ``Streams.stream``."""

    cmdid: int | str
    params: Any
    meta: dict[str, str] | None
    hash_key: str | None
    timeout: float | None
    total: float | None
    idempotent: bool
    window: int
    result: Any


class ResultStream(Generic[R]):
    """The items of one stream: an iterator, and a context manager that closes it.

    ``Client.stream`` returns it. It belongs to the thread in which its first item was taken, and to
    one greenlet at a time. Leaving a loop over it closes it as soon as nothing refers to it any
    more; ``close`` and the end of a ``with`` block close it at once.
    """

    def __init__(self, _calls: Streams, _asked: Asked) -> None:
        self._progress = Progress()
        self._items = _taken(_calls, _asked, self._progress)

    def __iter__(self) -> Iterator[R]:
        return self._items

    def __next__(self) -> R:
        return next(self._items)  # type: ignore[no-any-return]

    def __enter__(self) -> ResultStream[R]:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def received(self) -> int:
        """Items taken so far."""
        return self._progress.received

    @property
    def leaving(self) -> bool:
        """Whether the server has said that it is about to stop: it ends the stream if need be."""
        return self._progress.items is not None and self._progress.items.leaving

    def close(self) -> None:
        """Take no more items; the handler is stopped at its next ``yield`` or wait."""
        self._items.close()


class Progress:
    """The progress of a stream, as its user sees it."""

    def __init__(self) -> None:
        self.received = 0
        self.items: Items | None = None


class Streams(Calls):
    """Starts streams; ``Client`` adds the other methods."""

    @overload
    def stream(
        self,
        cmdid: int | str,
        params: Any = None,
        *,
        result: type[R],
        timeout: float | Default | None = ...,
        total: float | None = ...,
        idempotent: bool = ...,
        meta: dict[str, str] | None = ...,
        window: int = ...,
        hash_key: str | None = ...,
    ) -> ResultStream[R]: ...
    @overload
    def stream(
        self,
        cmdid: int | str,
        params: Any = None,
        *,
        timeout: float | Default | None = ...,
        total: float | None = ...,
        idempotent: bool = ...,
        meta: dict[str, str] | None = ...,
        window: int = ...,
        hash_key: str | None = ...,
    ) -> ResultStream[Any]: ...
    def stream(
        self,
        cmdid: int | str,
        params: Any = None,
        *,
        result: Any = Any,
        timeout: float | Default | None = DEFAULT,
        total: float | None = None,
        idempotent: bool = False,
        meta: dict[str, str] | None = None,
        window: int = WINDOW,
        hash_key: str | None = None,
    ) -> ResultStream[Any]:
        """Call a command that streams; iterate over the result to take its items.

        Nothing is sent before the first item is asked for. The server sends ahead, up to
        ``window`` items and its own limit of bytes, while items are taken as slowly as you like.
        Leaving the loop stops the handler.

        Args:
            result: a type that each item is decoded into.
            timeout: seconds to wait for each item; for the first one that includes connecting,
                sending and retries. By default the client's.
            total: seconds for the whole stream, None for no limit. Inside a handler, what is left
                of the request's own time is the limit.
            idempotent: running it twice does no harm: then it is tried again also when it
                may have run, as long as no item has come.
            window: items that may be on their way or not yet taken.
            cmdid, params, meta, hash_key: as for ``call``; a name is looked up once for each
                connection.

        Returns:
            ResultStream: an iterator over the items. Taking an item raises what ``call`` raises;
            ``received`` of the exception says how many items came before. After the first item
            ``executed`` is "maybe", or "yes" if the handler itself has failed.

        Raises:
            TypeError, ValueError: at once, an argument is wrong.
        """
        if self._middleware is not None:
            options = {"result": result, "total": total, "window": window, "hash_key": hash_key}
            items: ResultStream[Any] = through(
                self, "stream", cmdid, params, timeout, meta, idempotent, **options
            )
            return items
        check_request(OWN_CMDID if isinstance(cmdid, str) else cmdid, meta)
        check_params(params)
        check_choices(result, idempotent=idempotent)
        check_seconds("total", total)
        check_integer("window", window, 1)
        seconds = self._seconds(timeout)
        if hash_key is not None:
            check_text("hash_key", hash_key)
        asked = Asked(cmdid, params, meta, hash_key, seconds, total, idempotent, window, result)
        return ResultStream(self, asked)

    def _start(self, pool: AnyPool, asked: Asked, until: float | None, progress: Progress) -> Reply:
        """Send the request, retry it if it fails; return its first reply.

        ``executed`` of an exception covers all attempts together, as for a call.
        """
        deadline = _by(asked.timeout, until)
        attempt = 0
        earlier: Executed = "no"
        try:
            while True:
                try:
                    return _attempt(pool, asked, deadline, until, progress, self._errors)
                except (ConnectError, ConnectionLost, ProtocolError, RemoteError) as exc:
                    attempt += 1
                    harmless = asked.idempotent or pool.idempotent
                    self._retry.wait_or_raise(exc, attempt, harmless, deadline)
                    if exc.executed != "no":
                        earlier = "maybe"
        except GtcpError as exc:
            if pool.left_to_parent:
                never_return()
            if exc.executed == "no":
                exc.executed = earlier
            raise


def _attempt(
    pool: AnyPool,
    asked: Asked,
    deadline: float | None,
    until: float | None,
    progress: Progress,
    errors: Errors,
) -> Reply:
    """Send the request once; return its first reply, or raise the error that it is."""
    cmdid: Any = asked.cmdid
    connection = pool.ready() or pool.get_for(cmdid, asked.params, deadline, asked.meta)
    if isinstance(connection, NamedConnection):
        command = connection.find(cmdid, deadline)
        connection = connection.connection
        if isinstance(command, Reply):
            raise _refused(connection, command, errors, deadline)
        warn_if_deprecated(command.name, command.deprecated, FRAMES)
        cmdid = command.cmdid
    if asked.result is not Any:
        connection.keep_raw()
    items = progress.items = Items(connection, asked.window, asked.timeout, until)
    items.send(cmdid, asked.params, asked.meta, deadline)
    reply = items.take(deadline)
    if reply.code:
        raise _refused(connection, reply, errors, deadline)
    return reply


def _refused(
    connection: Connection, reply: Reply, errors: Errors, deadline: float | None
) -> RemoteError:
    """Return the error that a first reply is; a connection whose server leaves takes no more."""
    if reply.code == GOING_AWAY:
        connection.retire()
    return error_of(reply, errors, deadline)


def _taken(calls: Streams, asked: Asked, progress: Progress) -> Generator[Any, None, None]:
    """Yield the items of a stream.

    It refers to nothing that refers to it, so it is closed when its user forgets it.
    """
    pool = calls._pool(asked.hash_key)
    if isinstance(asked.cmdid, str):
        pool = NamedPool(pool)
    hub, thread = get_hub(), thread_ident()
    until = earliest(_by(asked.total, None), current())
    try:
        reply = calls._start(pool, asked, until, progress)
        while reply.more:
            raw = type(reply.result) is Raw
            value = result_of(reply, asked.result) if raw else reply.result
            progress.received += 1
            yield value
            if thread_ident() != thread:
                raise GtcpError("a stream's items have to be taken in the thread it began in")
            assert progress.items is not None
            deadline = _by(asked.timeout, until)
            reply = progress.items.take(deadline)
        if reply.code:  # that of the first reply was raised before
            raise error_of(reply, calls._errors, deadline)
        _check_end(reply, progress.received)
    except GtcpError as exc:
        exc.received = progress.received
        if exc.received and exc.executed == "no":
            exc.executed = "maybe"
        raise
    finally:
        if progress.items is not None:
            _run_in_thread(thread, hub, progress.items.abandon)


def _run_in_thread(thread: int, hub: Any, function: Callable[[], None]) -> None:
    if thread_ident() == thread:
        function()
    else:
        run_in_thread_of(hub, function)


def _by(seconds: float | None, until: float | None) -> float | None:
    """Return the deadline of one item."""
    return earliest(None if seconds is None else monotonic() + seconds, until)


def _check_end(reply: Reply, received: int) -> None:
    """Raise ProtocolError if this is the reply to an ordinary call: the server is an older one."""
    if not received and reply.result not in (None, _NULL):
        raise ProtocolError("the command does not stream", executed="yes")


_NULL = Raw(b"null")
