"""The client: an ordinary call that returns the result or raises.

The path of a call: find the deadline (``calls``), let the pool pick a connection (``pool``), encode
and send the request and wait for the reply (``connections``), return or raise.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, overload

from msgspec import Raw

from gtcp.arguments import check_params, error_classes
from gtcp.client.arguments import check_choices, check_map, check_options, check_request
from gtcp.client.calls import DEFAULT, Default, result_from
from gtcp.client.dialing.dial import Options
from gtcp.client.hosts.resolver import Host, Resolver
from gtcp.client.middleware import Middleware, through
from gtcp.client.pools import Pools
from gtcp.client.retry import Retry
from gtcp.client.streams import Streams
from gtcp.client.target import target_of
from gtcp.errors import CommandError, ConnectError, ConnectionLost

R = TypeVar("R")

DEFAULT_TIMEOUT = 30.0


class Client(Streams):
    """Calls the commands of one server, or of a service with several hosts.

    One client serves any number of greenlets and OS threads (each thread has its own connections).
    After ``fork`` the child opens its own. It connects when it is first used, and reconnects when
    necessary. It is a context manager: the end of the block closes it.

    Args:
        address: "host", "host:port", "[v6]:port", "unix:/path" or "unix:@name"; the default port is
            8889. "tls://" before it means TLS, and the server's certificate is verified. For
            several hosts: a list of these, or one text with commas; "dns://name:port",
            "srv://name" or "zk://host:port/path"; or a ``gtcp.Resolver``.
        timeout: default deadline of a call, in seconds; None for no limit.
        retries: maximum number of retries of a call that certainly did not run (of any call, if it
            is idempotent) after the connection failed; 0 for no retry.
        connect_timeout: seconds to resolve the name, connect, and do the handshake, within the
            call's timeout; None for no other limit.
        min_connections: connections to open before calls share one; set it to the number of the
            server's workers to use them all.
        max_connections: maximum number of connections per OS thread (to each host).
        max_in_flight: calls in flight on each connection before another one is opened.
        max_reply_bytes: maximum length of a reply line, in bytes; None for no limit.
        keepalive: seconds within which TCP keepalive detects a dead server; None to turn it off.
        busy_poll: seconds to poll for a reply before sleeping, if the call is the only activity of
            its thread; from 0 (never) to 0.005. Not used with servers that take longer.
        ca: PEM file with the authorities trusted to sign the server's certificate; None for the
            system's.
        cert: PEM file with the client's certificate, if the server requires one.
        key: PEM file with the private key, if it is not in the file of the certificate.
        server_name: name that the server's certificate must have; None for the host of the address.
        secret: shared secret, "name:secret"; by default the first in GTCP_SECRET or in the file
            given by GTCP_SECRET_FILE, if one is set; None for no secret.
        secret_file: file whose first line is the secret.
        errors: subclasses of ``CommandError`` with a code of their own: a reply with that code is
            raised as that class.
        middleware: functions that are called around each call, the first one outermost:
            ``function(call, call_next)`` with a ``gtcp.ClientCall``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an invalid address, an impossible limit, a file that can't be used, or a
            malformed secret; no message holds a secret.
    """

    def __init__(
        self,
        address: str | Iterable[str | Host] | Resolver,
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
        errors: Iterable[type[CommandError]] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None:
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
        files = {"ca": ca, "cert": cert, "key": key}
        target = target_of(address, self._options, files, server_name, secret, secret_file, DEFAULT)
        self.address = target.address
        self.dial = target.dial  # for the command line: opens a socket, until a deadline
        pools = Pools(target.make, target.close)
        super().__init__(
            timeout, Retry(retries), pools, error_classes("errors", errors), middleware
        )
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
        cmdid: int | str,
        params: Any = None,
        *,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        result: type[R],
        meta: dict[str, str] | None = ...,
        detach: bool = ...,
        hash_key: str | None = ...,
    ) -> R: ...
    @overload
    def call(
        self,
        cmdid: int | str,
        params: Any = None,
        *,
        timeout: float | Default | None = ...,
        idempotent: bool = ...,
        meta: dict[str, str] | None = ...,
        detach: bool = ...,
        hash_key: str | None = ...,
    ) -> Any: ...
    def call(
        self,
        cmdid: int | str,
        params: Any = None,
        *,
        timeout: float | Default | None = DEFAULT,
        idempotent: bool = False,
        result: Any = Any,
        meta: dict[str, str] | None = None,
        detach: bool = False,
        hash_key: str | None = None,
    ) -> Any:
        """Call a command and return its result.

        Args:
            cmdid: the command's number; or its name, which is looked up once for each connection.
            params: a dict, a msgspec.Struct or a dataclass, which become a JSON object; None for
                no params.
            timeout: seconds for everything: waiting for a connection, connecting, sending, the
                handler, receiving, and retries; None for no limit; by default the client's. Inside
                a handler the remaining time of the request is the limit.
            idempotent: running the call twice does no harm, so retry it even if it may have run. A
                command that is registered as idempotent and called by name is retried, too.
            result: a type that the result is decoded into.
            meta: strings passed along with the request.
            hash_key: of several hosts, send all calls with the same key to the same host, as long
                as it is there.
            detach: inside a handler, use ``timeout`` even if the request has less time left.

        Returns:
            Any: an instance of ``result`` if that is given, otherwise decoded JSON.

        Warns:
            DeprecationWarning: a command that is called by name is deprecated.

        Raises:
            RemoteError: the server answered with a code other than 0.
            CallTimeout: the deadline passed.
            PoolTimeout: all connections were full until the deadline.
            ConnectError: connecting failed.
            ConnectionLost: the connection broke during the call.
            ProtocolError: the peer does not speak gtcp, or the result is not a ``result``.
            TypeError, ValueError: an argument is wrong, or params are not a JSON object; nothing
                was sent.
        """
        if self._middleware is not None:
            options = {"result": result, "detach": detach, "hash_key": hash_key}
            return through(self, "call", cmdid, params, timeout, meta, idempotent, **options)
        if type(cmdid) is not int or meta is not None:
            if isinstance(cmdid, str):
                return self._call_by_name(
                    cmdid, params, timeout, idempotent, result, meta, detach, hash_key
                )
            check_request(cmdid, meta)
        if params is not None and type(params) is not dict:
            check_params(params)
        raw = result is not Any
        if raw or idempotent is not False or detach is not False:
            check_choices(result, idempotent=idempotent, detach=detach)
        deadline = self._deadline(timeout, detach)
        pool = self._pools.here() if hash_key is None else self._pool(hash_key)
        reply = self._complete(pool, cmdid, params, deadline, meta, idempotent, raw)
        if reply.code == 0 and type(reply.result) is not Raw:
            return reply.result
        return result_from(reply, result, self._errors, deadline)

    def notify(
        self,
        cmdid: int,
        params: Any = None,
        *,
        timeout: float | Default | None = DEFAULT,
        meta: dict[str, str] | None = None,
        hash_key: str | None = None,
    ) -> None:
        """Send a request that gets no reply; return when the kernel has the whole line.

        There is no way to find out whether the handler ran.

        Args:
            cmdid: the command's number.
            params: a dict, a msgspec.Struct or a dataclass; None for no params.
            timeout: seconds to connect and send, and the deadline of the handler; by default the
                client's.
            meta: strings passed along with the request.
            hash_key: as for ``call``.

        Raises:
            CallTimeout, PoolTimeout, ConnectError, ConnectionLost: as for ``call``; if ``executed``
                is "no", the line was not sent completely.
            TypeError, ValueError: an argument is wrong, or params are not a JSON object; nothing
                was sent.
        """
        if self._middleware is not None:
            through(self, "notify", cmdid, params, timeout, meta, hash_key=hash_key)
            return
        check_request(cmdid, meta)
        check_params(params)
        deadline = self._deadline(timeout, detach=False)
        pool = self._pool(hash_key)
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

        Nothing is sent before the first result is requested. Memory is bounded by the window,
        however long the iterable is. Closing the generator cancels the calls in flight.

        Args:
            cmdid: the command's number.
            params_iterable: the params of each call.
            window: calls in flight at the same time; by default the capacity of one connection.
            ordered: yield results in the order of the params; otherwise in the order of arrival.
            timeout: seconds for each call, from when it is sent.
            idempotent, result, meta: as for ``call``.
            return_exceptions: yield the exception of a failed call in place of its result, and
                continue.

        Returns:
            Iterator: the results.

        Raises:
            TypeError, ValueError: immediately, if an argument is wrong.
            GtcpError, TypeError, ValueError: from the iterator, as for ``call``, unless
                ``return_exceptions``; the remaining calls are cancelled.
            GtcpError: from the iterator, if it is used in a second thread; the remaining calls are
                cancelled.
        """
        if self._middleware is not None:
            options = {
                "window": window,
                "ordered": ordered,
                "result": result,
                "return_exceptions": return_exceptions,
            }
            results: Iterator[Any] = through(
                self, "map", cmdid, params_iterable, timeout, meta, idempotent, **options
            )
            return results
        check_request(cmdid, meta)
        check_choices(
            result, ordered=ordered, idempotent=idempotent, return_exceptions=return_exceptions
        )
        source = check_map(window, params_iterable)
        seconds = self._seconds(timeout)
        return self._map(
            cmdid, source, window, ordered, seconds, idempotent, result, meta, return_exceptions
        )

    def connect(self, *, timeout: float | Default | None = DEFAULT) -> None:
        """Open ``min_connections`` now, instead of when calls need them.

        Args:
            timeout: seconds for all of them; by default the client's.

        Raises:
            ConnectError: one of them failed; the others stay open.
            CallTimeout: the deadline passed.
        """
        self._pools.here().fill(self._deadline(timeout, detach=False))

    def close(self) -> None:
        """Close all connections, also those of other threads.

        Calls in flight raise ``ConnectionLost``, later calls ``ConnectError``.
        """
        self._pools.close()

    def stats(self) -> dict[str, Any]:
        """Return counters.

        Returns:
            dict: current ``connections`` and calls ``in_flight``; since the client was created:
            ``opened`` connections, ``waits`` (how often a call waited until a connection had room),
            ``sent`` request lines, ``dropped`` late replies, and ``retries``. A client of several
            hosts also has ``hosts``: for each address these counters of its own, whether it is
            ``ejected``, and its ``ejections``.
        """
        counts: dict[str, Any] = {**self._pools.counts(), "retries": self._retry.count}
        hosts = self._pools.counts_of_hosts()
        return (
            {**counts, "hosts": {name: dict(each) for name, each in hosts.items()}}
            if hosts
            else counts
        )
