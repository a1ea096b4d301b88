"""Opens a socket on which calls can be sent: name resolution, TCP, TLS, the secret.

All of it happens within the connect timeout and the call's deadline. A call that fails here
certainly did not run; every exception says so, and why.
"""

from __future__ import annotations

import errno
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import gevent
import msgspec

from gtcp.client.connections.busy_poll import OUTSIDE_HUB_SECONDS
from gtcp.client.connections.reply import read_reply
from gtcp.client.dialing.connect import Progress, connect, connect_unix
from gtcp.client.dialing.history import AddressHistory
from gtcp.client.dialing.resolve import resolve
from gtcp.deadline import earliest
from gtcp.errors import CallTimeout, ConnectError, Untrusted
from gtcp.protocol.messages import (
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    UNREADABLE,
    WRONG_PARAMS,
    Outgoing,
    Reply,
    encode_request,
)
from gtcp.transport.address import Address
from gtcp.transport.sockets import close_quietly, receive, send_all, tune

if TYPE_CHECKING:
    from gtcp.transport.secret import Key
    from gtcp.transport.tls import ClientTls
    from gtcp.transport.tls_socket import TlsSocket

T = TypeVar("T")

RECV_BYTES = 65536

#: The longest reply during the handshake.
MAX_LINE_BYTES = 4096

#: Answers to a handshake after which trying again can't help.
FINAL = frozenset({NOT_AUTHENTICATED, NOT_ALLOWED, WRONG_PARAMS})

Stream: TypeAlias = "socket.socket | TlsSocket"

#: A socket that is ready for calls, and the bytes that were already received on it.
Dialled: TypeAlias = "tuple[Stream, bytes]"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a client: how its connections are opened and shared.

    Attributes:
        connect_timeout: seconds for name resolution and connecting, within the deadline.
        min_connections: opened as soon as there are calls for them: several, to use several
            workers behind one address.
        max_connections: at most so many, per OS thread.
        max_in_flight: calls in flight on one connection before another is opened; below what
            a server takes (100), where calls that were given up may still be counted.
        max_reply_bytes: the longest reply line taken, None for no limit.
        keepalive: seconds within which a dead server is found while nothing is sent.
        busy_poll: seconds for which the only call of a thread stays awake for its reply.
    """

    connect_timeout: float | None = 5.0
    min_connections: int = 1
    max_connections: int = 10
    max_in_flight: int = 80
    max_reply_bytes: int | None = 16 * 1024 * 1024
    keepalive: float | None = 10.0
    busy_poll: float = 50e-6

    def __post_init__(self) -> None:
        if not 1 <= self.min_connections <= self.max_connections:
            raise ValueError(
                "expected 1 <= min_connections <= max_connections, "
                f"got {self.min_connections} and {self.max_connections}"
            )
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight: expected 1 or more, got {self.max_in_flight}")
        if not 0 <= self.busy_poll <= OUTSIDE_HUB_SECONDS:
            raise ValueError(
                f"busy_poll: expected seconds from 0 to {OUTSIDE_HUB_SECONDS}, got {self.busy_poll}"
            )
        for name in ("connect_timeout", "max_reply_bytes", "keepalive"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")


class Trust:
    """The server that a client trusts, and how the client authenticates. Thread-safe.

    Args:
        tls: what to speak TLS with; None for no TLS.
        server_name: the name that the server's certificate must be for.
        key: the secret that both sides prove to know; None for none.
    """

    def __init__(self, tls: ClientTls | None, server_name: str, key: Key | None) -> None:
        self.tls = tls
        self.server_name = server_name
        self.key = key

    def __repr__(self) -> str:
        return f"<Trust tls={self.tls is not None} server_name={self.server_name!r} {self.key}>"


def dial(
    address: Address,
    options: Options,
    trust: Trust | None,
    history: AddressHistory,
    deadline: float | None,
) -> Dialled:
    """Return a connected, non-blocking socket; TLS and the secret are done, where required.

    Args:
        history: the outcome of earlier attempts, by which the addresses of a name are ordered.

    Returns:
        tuple: the socket, and bytes received on it beyond the handshake.

    Raises:
        ConnectError: name resolution, connecting, TLS or the secret failed, or it took longer
            than allowed; an ``Untrusted`` when trying again can't help.
        CallTimeout: the deadline passed first; ``executed`` is "no".
    """
    now = monotonic()
    allowed = None if options.connect_timeout is None else now + options.connect_timeout
    when = earliest(allowed, deadline)
    progress = Progress(address.host)
    timer = gevent.Timeout(None if when is None else max(0.0, when - now))
    try:
        try:
            timer.start()
            sock = _tuned(_connected(address, history, progress), options)
            return _authenticated(sock, address, trust)
        finally:
            timer.close()
    except gevent.Timeout as fired:
        if fired is not timer:
            raise
        reached = f" ({progress})" if str(progress) else ""
        if when == allowed:
            seconds = f"{options.connect_timeout:g} s"
            raise ConnectError(f"{address}: not connected within {seconds}{reached}") from None
        raise CallTimeout(f"{address}: the deadline passed{reached}", executed="no") from None
    except (OSError, ValueError) as exc:  # ValueError: a name that can't be one
        raise _translated(address, exc, progress) from exc
    except BaseException:
        timer.close()  # once more: a signal handler may have raised just before the first time
        raise


def _translated(address: Address, exc: OSError | ValueError, progress: Progress) -> ConnectError:
    why = getattr(exc, "strerror", None) or exc
    if isinstance(exc, OSError) and exc.errno == errno.EPROTO:  # an alert, from TlsSocket
        return Untrusted(f"{address}: {why}")
    if progress.failed and str(progress):
        why = progress
    return ConnectError(f"can't connect to {address}: {why}")


# TCP


def _tuned(sock: socket.socket, options: Options) -> socket.socket:
    try:
        tune(sock, options.keepalive)
    except OSError:
        close_quietly(sock)
        raise
    return sock


def _connected(address: Address, history: AddressHistory, progress: Progress) -> socket.socket:
    if address.path:
        return connect_unix(address.unix_name)
    progress.resolving = True
    endpoints = resolve(address.host, address.port)
    progress.resolving = False
    if not endpoints:
        raise OSError("the name has no addresses")
    return connect(endpoints, history, progress)


# TLS and the secret


def _authenticated(sock: socket.socket, address: Address, trust: Trust | None) -> Dialled:
    if trust is None:
        return sock, b""
    try:
        stream: Stream = sock
        received, certificate = b"", ""
        if trust.tls is not None:
            stream, certificate = _encrypted(sock, trust.tls, trust.server_name, address)
            received = stream.received()
        exchange = _Exchange(stream, received, address)
        if trust.key is not None:
            _prove(exchange, trust.key, certificate)
        else:
            # In TLS 1.3 the client's handshake is over before the server verifies the client's
            # certificate: only a reply shows that it was accepted.
            exchange.ask(None, str)
    except BaseException:
        close_quietly(sock)
        raise
    return stream, exchange.received


def _encrypted(
    sock: socket.socket, tls: ClientTls, name: str, address: Address
) -> tuple[TlsSocket, str]:
    """Return TLS on top of the socket, and the digest of the server's certificate."""
    import ssl  # here: slow to import, and most clients do not need it

    from gtcp.transport.tls import digest, explain
    from gtcp.transport.tls_socket import NotTls, TlsSocket

    stream = TlsSocket(sock, tls.context(), server_name=name)
    try:
        stream.handshake()
    except NotTls as exc:
        raise Untrusted(f"{address}: the server does not speak TLS there") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Untrusted(f"{address}: the server can't be trusted: {explain(exc)}") from exc
    except ssl.SSLError as exc:
        raise Untrusted(f"{address}: TLS failed: {explain(exc)}") from exc
    return stream, digest(stream.certificate(binary_form=True))


def _prove(exchange: _Exchange, key: Key, certificate: str) -> None:
    from gtcp.transport.secret import Nonce, Proof, Response  # here: as above

    response = Response(key, certificate)
    nonce = exchange.ask(response.hello(), Nonce)
    proof = exchange.ask(response.prove(nonce), Proof)
    if not response.is_proven_by(proof):
        raise Untrusted(f"{exchange.address}: the server does not know the secret")


class _Exchange:
    """Requests and replies of the handshake, one after another.

    Attributes:
        received: bytes received and not used yet.
    """

    def __init__(self, stream: Stream, received: bytes, address: Address) -> None:
        self.address = address
        self.received = received
        self._stream = stream
        self._count = 0

    def ask(self, params: Any, kind: type[T]) -> T:
        """Send one request of cmdid 0; return its result."""
        self._count += 1
        reply = self._reply(encode_request(Outgoing(0, self._count, None, params)))
        if reply.code != 0:
            self._refused(reply)
        try:
            return msgspec.convert(reply.result, kind)
        except msgspec.ValidationError as exc:
            raise Untrusted(f"{self.address}: the server does not know how to answer") from exc

    def _reply(self, line: bytes) -> Reply:
        broken = None
        try:
            send_all(self._stream, line)
        except OSError as exc:
            broken = exc  # the server may have sent the reason
        line = self._line(broken)
        try:
            return read_reply(line)
        except UNREADABLE as exc:
            raise Untrusted(f"{self.address}: the server does not speak gtcp") from exc

    def _refused(self, reply: Reply) -> NoReturn:
        if reply.code == WRONG_PARAMS:
            raise Untrusted(f"{self.address}: the server asks for no secret, and proves none")
        kind = Untrusted if reply.code in FINAL else ConnectError
        raise kind(f"{self.address}: refused: {reply.code} {reply.message[:200]}")

    def _line(self, broken: OSError | None) -> bytes:
        while True:
            line, newline, rest = self.received.partition(b"\n")
            if len(line) > MAX_LINE_BYTES:
                raise Untrusted(f"{self.address}: the server does not speak gtcp")
            if newline:
                self.received = rest
                return line
            data = receive(self._stream, RECV_BYTES)
            if not data:
                raise broken or ConnectionAbortedError("the server closed the connection")
            self.received += data
