"""The client: an ordinary call that returns the result or raises.

The path of a call: find the deadline (``calls``), let the pool pick a connection (``pool``), encode
and send the request and wait for the reply (``connections``), return or raise.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal, TypeVar, overload

from msgspec import Raw

from gtcp.arguments import check_text
from gtcp.client.arguments import check_choices, check_map, check_options, check_request
from gtcp.client.calls import DEFAULT, Calls, Default, result_from
from gtcp.client.credentials import key_of, tls_of
from gtcp.client.dialing.dial import Dialled, Options, Trust, dial
from gtcp.client.dialing.history import AddressHistory
from gtcp.client.pool import Pool
from gtcp.client.pools import Pools
from gtcp.client.retry import Retry
from gtcp.errors import ConnectError, ConnectionLost
from gtcp.transport.address import parse

R = TypeVar("R")

DEFAULT_TIMEOUT = 30.0


class Client(Calls):
    """Calls the commands of one server.

    One client serves any number of greenlets and OS threads (each thread has connections of
    its own), and survives ``fork``: the child opens its own. It connects when it is first
    used, and again whenever it has to.

    Args:
        address: "host", "host:port", "[v6]:port" or "unix:/path"; port 8889 unless said. With
            "tls://" before it TLS is spoken, and the server's certificate verified.
        timeout: seconds a call may take in all, unless the call says otherwise; None for no
            limit.
        retries: how often a call that certainly did not run (or any, if it is idempotent)
            is tried again after the connection failed; 0 for never.
        connect_timeout: seconds to resolve the name, connect and introduce each other, within
            the call's timeout; None for no other limit.
        min_connections: connections opened as soon as there are calls for them; as many as
            the server has workers, to use them all.
        max_connections: at most so many per OS thread.
        max_in_flight: calls in flight on one connection before another is opened.
        max_reply_bytes: the longest reply taken; None for no limit.
        keepalive: seconds within which a dead server is found without traffic.
        busy_poll: seconds for which a call stays awake for its reply before it sleeps, where it
            is the only thing that goes on in its thread; from 0, for never, to 0.005. It is
            left out with servers that take longer.
        ca: PEM file with the authorities that a server's certificate may be of; None for the
            system's.
        cert: PEM file with the client's own certificate, if the server asks for one.
        key: PEM file with its private key, unless that is in the same file.
        server_name: the name that the server's certificate must be for; None for the host of
            the address.
        secret: what both sides prove to know, "name:secret"; by default the first in
            GTCP_SECRET or in the file that GTCP_SECRET_FILE names, if there is one; None for
            none.
        secret_file: a file whose first line is the secret.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the address is none, a limit is impossible, a file can't be used, or a
            secret is malformed; no message holds a secret.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        retries: int = 3,
        connect_timeout: float | None = Options().connect_timeout,
        min_connections: int = Options().min_connections,
        max_connections: int = Options().max_connections,
        max_in_flight: int = Options().max_in_flight,
        max_reply_bytes: int | None = Options().max_reply_bytes,
        keepalive: float | None = Options().keepalive,
        busy_poll: float = Options().busy_poll,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        server_name: str | None = None,
        secret: str | bytes | Default | None = DEFAULT,
        secret_file: str | None = None,
    ) -> None:
        check_text("address", address)
        self.address = parse(address)
        tls = tls_of(self.address, ca, cert, key, server_name)
        proven = key_of(secret, secret_file, DEFAULT)
        self._trust = None
        if tls is not None or proven is not None:
            self._trust = Trust(tls, server_name or self.address.host, proven)
        options: dict[str, Any] = {
            "connect_timeout": connect_timeout,
            "min_connections": min_connections,
            "max_connections": max_connections,
            "max_in_flight": max_in_flight,
            "max_reply_bytes": max_reply_bytes,
            "keepalive": keepalive,
            "busy_poll": busy_poll,
        }
        check_options({**options, "timeout": timeout, "retries": retries})
        self._options = Options(**options)
        self._history = AddressHistory()
        make = partial(Pool, self.address, self._options, self._trust, self._history)
        super().__init__(timeout, Retry(retries), Pools(make))
        # Otherwise the event loop would keep the connections of a client that is forgotten.
        weakref.finalize(self, self._pools.drop, repr(self)).atexit = False

    def __repr__(self) -> str:
        return f"gtcp.Client({str(self.address)!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @overload
    def call(
        self,
        cmdid: int,
        params: Any = None,
        *,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        result: type[R],
        meta: dict[str, str] | None = ...,
        detach: bool = ...,
    ) -> R: ...
    @overload
    def call(
        self,
        cmdid: int,
        params: Any = None,
        *,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        meta: dict[str, str] | None = ...,
        detach: bool = ...,
    ) -> Any: ...
    def call(
        self,
        cmdid: int,
        params: Any = None,
        *,
        timeout: float | Default | None = DEFAULT,
        idempotent: bool = False,
        result: Any = Any,
        meta: dict[str, str] | None = None,
        detach: bool = False,
    ) -> Any:
        """Call a command and return its result.

        Args:
            cmdid: the command's number.
            params: a dict, a msgspec.Struct or a dataclass; None for no params.
            timeout: seconds for everything: waiting for a connection, connecting, sending,
                the handler, receiving, retries. By default the client's. Inside a handler,
                what is left of the request's own time is the limit.
            idempotent: running it twice does no harm: then it is tried again also when it
                may have run.
            result: a type the result is decoded into.
            meta: strings passed along with the request.
            detach: inside a handler, take ``timeout`` even if the request has less left.

        Raises:
            RemoteError: the server answered with a code other than 0.
            CallTimeout: the deadline passed.
            PoolTimeout: every connection was full until the deadline.
            ConnectError: no connection came about.
            ConnectionLost: the connection broke during the call.
            ProtocolError: the peer does not speak gtcp, or the result does not fit ``result``.
            TypeError, ValueError: an argument is wrong, or params are not JSON; nothing was sent.
        """
        if type(cmdid) is not int or meta is not None:
            check_request(cmdid, meta)
        raw = result is not Any
        if raw or idempotent is not False or detach is not False:
            check_choices(result, idempotent=idempotent, detach=detach)
        deadline = self._deadline(timeout, detach)
        pool = self._pools.here()
        reply = self._complete(pool, cmdid, params, deadline, meta, idempotent, raw)
        if reply.code == 0 and type(reply.result) is not Raw:
            return reply.result
        return result_from(reply, result)

    def notify(
        self,
        cmdid: int,
        params: Any = None,
        *,
        timeout: float | Default | None = DEFAULT,
        meta: dict[str, str] | None = None,
    ) -> None:
        """Send a request that gets no reply; returns when the kernel has the whole line.

        Whether the handler runs, nobody will tell.

        Raises:
            CallTimeout, PoolTimeout, ConnectError, ConnectionLost: as for ``call``; with
                ``executed`` "no" the line did not leave whole.
            TypeError, ValueError: an argument is wrong, or params are not JSON; nothing was sent.
        """
        check_request(cmdid, meta)
        deadline = self._deadline(timeout, detach=False)
        pool = self._pools.here()
        attempt = 0
        while True:
            try:
                connection = pool.ready() or pool.get_for(cmdid, params, deadline, meta)
                connection.notify(cmdid, params, deadline, meta)
            except (ConnectError, ConnectionLost) as exc:
                attempt += 1
                self._retry.wait_or_raise(exc, attempt, False, deadline)
            else:
                return

    @overload
    def map(
        self,
        cmdid: int,
        params_iterable: Iterable[Any],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        result: type[R],
        meta: dict[str, str] | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        cmdid: int,
        params_iterable: Iterable[Any],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        result: type[R],
        meta: dict[str, str] | None = ...,
        return_exceptions: bool,
    ) -> Iterator[R | Exception]: ...
    @overload
    def map(
        self,
        cmdid: int,
        params_iterable: Iterable[Any],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        meta: dict[str, str] | None = ...,
        return_exceptions: bool = ...,
    ) -> Iterator[Any]: ...
    def map(
        self,
        cmdid: int,
        params_iterable: Iterable[Any],
        *,
        window: int = Options().max_in_flight,
        ordered: bool = True,
        timeout: float | Default | None = DEFAULT,
        idempotent: bool = False,
        result: Any = Any,
        meta: dict[str, str] | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Call a command for every item of an iterable, many at a time; yield the results.

        Nothing is sent before the first result is asked for. Memory stays bounded by the
        window however long the iterable is. Closing the generator cancels what is in flight.

        Args:
            params_iterable: the params of each call.
            window: calls in flight at the same time; by default what one connection takes.
            ordered: yield results in the order of the params; otherwise as they come in.
            timeout: seconds for each call, from when it is sent.
            return_exceptions: yield a call's exception in place of its result, and go on.

        Raises:
            TypeError, ValueError: at once, an argument is wrong.
            GtcpError, TypeError, ValueError: what ``call`` raises, unless
                ``return_exceptions``; the rest of the calls is cancelled.
            GtcpError: a result is asked for in another thread than the first one was; the
                rest of the calls is cancelled.
        """
        check_request(cmdid, meta)
        check_choices(
            result, ordered=ordered, idempotent=idempotent, return_exceptions=return_exceptions
        )
        source = check_map(window, params_iterable)
        seconds = self._seconds(timeout)
        return self._stream(
            cmdid, source, window, ordered, seconds, idempotent, result, meta, return_exceptions
        )

    def connect(self, *, timeout: float | Default | None = DEFAULT) -> None:
        """Open ``min_connections`` now, not when there are calls for them.

        Args:
            timeout: seconds for all of them; by default the client's.

        Raises:
            ConnectError: one of them did not come about; the others stay open.
            CallTimeout: the deadline passed.
        """
        self._pools.here().fill(self._deadline(timeout, detach=False))

    def close(self) -> None:
        """Close all connections, also those of other threads. Calls in flight raise
        ConnectionLost, later calls ConnectError."""
        self._pools.close()

    def dial(self, deadline: float | None) -> Dialled:
        """Return the socket of a new connection, to read and write bytes; see ``dial.dial``."""
        return dial(self.address, self._options, self._trust, self._history, deadline)

    def stats(self) -> dict[str, int]:
        """Counts since the client was made.

        Returns:
            dict: ``connections`` and ``in_flight`` now; ``opened`` connections, ``sent``
            request lines, ``dropped`` replies nobody waited for, and ``retries`` so far.
        """
        return {**self._pools.counts(), "retries": self._retry.count}
