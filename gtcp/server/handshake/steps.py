"""The steps of the handshake, before requests are read.

PROXY header, TLS, the secret: each step may wait, so they run in a greenlet of their own. What
a step reads beyond its own bytes goes to the next one, and at last to the connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent.socket import wait_read

from gtcp.protocol.framing import depth_within
from gtcp.protocol.messages import (
    BAD_REQUEST,
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    TOO_LARGE,
    UNREADABLE,
    Success,
    encode_lines,
)
from gtcp.server.handshake import proxy_header
from gtcp.transport.address import host_of
from gtcp.transport.identity import Identity, Peer, fits, of_certificate
from gtcp.transport.secret import MAX_LINE_BYTES, VARIABLE, Challenge, Key, Message, find_keys
from gtcp.transport.sockets import peer_of, receive, send_all

if TYPE_CHECKING:
    import ssl

    from gtcp.server.settings import Settings

RECV_BYTES = 65536

#: How deep a message may nest, and deeper than any does: it guards the decoder.
MAX_DEPTH = 8

#: Seconds a peer whose TLS handshake failed is given to take the alert.
REFUSED_SECONDS = 1.0

_decode_message = msgspec.json.Decoder(Message).decode


class Refusal(Exception):
    """The peer may not connect: (code, message) for it, or (code, message, silently)."""


class Entrant:
    """A new connection on its way in.

    Attributes:
        sock: what to read and write: the socket, or TLS on top of it.
        address: the peer; behind a proxy, the true origin.
        certificate: the SHA-256 of the certificate that was sent to it, in hexadecimal; empty
            without TLS, and where no secret is asked for.
        proven: the identities that the peer has proven so far.
        ignored: names in its certificate that are not accepted as identities.
        received: what has been read and belongs to the next step.
        silent: whether the peer has sent nothing, but for a PROXY header.
    """

    __slots__ = ("address", "certificate", "ignored", "proven", "received", "silent", "sock")

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.sock: Any = sock  # a socket, or TLS on top of one
        self.address = address
        self.certificate = ""
        self.proven: list[Identity] = []
        self.ignored: list[str] = []
        self.received = b""
        self.silent = True

    @property
    def is_unix(self) -> bool:
        """Whether it came by a unix socket."""
        return bool(self.sock.family == socket.AF_UNIX)

    def peer(self) -> Peer:
        """Return the peer with the identities proven so far."""
        return peer_of(self.sock, self.address, self.proven)

    def recv(self) -> bytes:
        """Wait for data and return it.

        Raises:
            ConnectionError: nothing more will come.
        """
        data = receive(self.sock, RECV_BYTES)
        if not data:
            raise ConnectionAbortedError("the peer closed the connection")
        self.silent = False
        return data


class Handshake:
    """The steps that a server's settings ask for. Never changes; a reload makes another.

    Args:
        tls: what to speak TLS with on TCP connections; None for no TLS.
        keys: the secrets of which every peer must prove one; empty for none.

    Raises:
        ValueError: the certificate can't be used.
    """

    def __init__(self, settings: Settings, tls: ssl.SSLContext | None, keys: list[Key]) -> None:
        self.tls = tls
        self._keys = keys
        self._certificate = _digest_of(tls) if tls is not None and keys else ""
        self._require_binding = settings.require_channel_binding
        self._allowed = settings.allow_identities
        self._networks = [ipaddress.ip_network(each) for each in settings.allow_networks]
        self._proxies = [ipaddress.ip_network(each) for each in settings.proxy_from]

    @property
    def needed(self) -> bool:
        """Whether there is any step."""
        return bool(self.tls or self._keys or self._allowed or self._networks or self._proxies)

    @property
    def knows_peers(self) -> bool:
        """Whether peers use TLS or prove a secret."""
        return self.tls is not None or bool(self._keys)

    def waits(self, entrant: Entrant) -> bool:
        """Return whether the peer has to send something before its requests are read."""
        tls = self.tls is not None and not entrant.is_unix
        return tls or bool(self._keys) or self.is_proxy(entrant)

    def is_proxy(self, entrant: Entrant) -> bool:
        """Return whether it is a listed proxy whose PROXY header was not read yet."""
        return bool(self._proxies) and _is_in(entrant, self._proxies)

    def check_network(self, entrant: Entrant) -> None:
        """Raise Refusal unless it may connect from where it is."""
        if self._networks and not entrant.is_unix and not _is_in(entrant, self._networks):
            silently = self.refuses_silently(entrant)
            raise Refusal(NOT_ALLOWED, "not allowed to connect from this network", silently)

    def refuses_silently(self, entrant: Entrant) -> bool:
        """Return whether a refused peer gets no line: it expects TLS, which has not begun."""
        return self.tls is not None and not entrant.is_unix

    def check_identity(self, entrant: Entrant) -> None:
        """Raise Refusal unless one of its identities may connect."""
        if self._allowed and not fits(entrant.peer().names, self._allowed):
            raise Refusal(NOT_ALLOWED, "not allowed to connect")

    def run(self, entrant: Entrant) -> None:
        """Take all steps that wait.

        Raises:
            Refusal: the peer is to be told why.
            OSError: it is gone, or can't be told.
        """
        if self.is_proxy(entrant):
            self._read_proxy_header(entrant)
        if self.tls is not None and not entrant.is_unix:
            self._start_tls(entrant, self.tls)
        if self._keys:
            self._have_proven(entrant)

    def _read_proxy_header(self, entrant: Entrant) -> None:
        received = b""
        while True:
            received += entrant.recv()
            try:
                found = proxy_header.read(received)
            except proxy_header.BadProxyHeader as exc:
                raise Refusal(BAD_REQUEST, str(exc)) from exc
            if found is not None:
                break
        end, origin = found
        entrant.received = received[end:]
        entrant.silent = not entrant.received
        if origin is not None:
            if origin != proxy_header.UNKNOWN:
                entrant.address = origin
            self.check_network(entrant)  # an unknown origin counts as the proxy

    def _start_tls(self, entrant: Entrant, context: ssl.SSLContext) -> None:
        import ssl  # takes its time to import, and few need it

        from gtcp.transport.tls import explain, names_of
        from gtcp.transport.tls_socket import NotTls, TlsSocket

        plain = entrant.sock
        assert not isinstance(plain, TlsSocket)
        tls = TlsSocket(plain, context, received=entrant.received)
        try:
            tls.handshake()
        except NotTls:
            raise Refusal(BAD_REQUEST, "TLS is spoken here") from None
        except ssl.SSLError as exc:
            _let_read(plain)
            raise ConnectionAbortedError(f"TLS handshake failed: {explain(exc)}") from exc
        finally:
            entrant.silent = tls.silent
        entrant.sock = tls
        entrant.certificate = self._certificate
        try:
            names = names_of(tls.certificate())
        except (ValueError, ssl.SSLError) as exc:  # text that is not UTF-8, or of no known encoding
            raise Refusal(NOT_ALLOWED, "the names in the certificate can't be decoded") from exc
        entrant.proven, entrant.ignored = of_certificate(names)
        entrant.received = tls.received()

    def _have_proven(self, entrant: Entrant) -> None:
        challenge = Challenge(self._keys, entrant.certificate)
        while challenge.identity is None:
            message = _message(_line(entrant))
            answer = challenge.answer(message.params)
            if answer is None:
                raise Refusal(NOT_AUTHENTICATED, "the secret is wrong")
            if self._require_binding and entrant.certificate and not challenge.is_bound:
                raise Refusal(NOT_AUTHENTICATED, "the proof is not bound to the certificate")
            send_all(entrant.sock, encode_lines([Success(answer, message.id)]))
        entrant.proven.append(Identity("key", challenge.identity))


def make_handshake(settings: Settings, keys: list[Key] | None) -> Handshake:
    """The steps for these settings.

    Args:
        keys: the secrets; None for those that the settings or the environment lead to.

    Raises:
        ValueError: certificates or secrets can't be used; one line says which and why.
    """
    settings.check_together()
    tls = None
    if settings.tls_cert is not None:
        from gtcp.transport.tls import server_context

        tls = server_context(
            settings.tls_cert,
            settings.tls_key,
            settings.tls_ca,
            require_client_cert=settings.require_client_cert,
        )
    if keys is None:
        if settings.secret_file is not None and VARIABLE in os.environ:
            raise ValueError(f"secret_file and {VARIABLE} are both set: which one is meant?")
        keys = find_keys(settings.secret_file)
    return Handshake(settings, tls, keys)


def _digest_of(tls: ssl.SSLContext) -> str:
    from gtcp.transport.tls import digest, sent_certificate

    return digest(sent_certificate(tls))


def _let_read(sock: socket.socket) -> None:
    """Linger, so that the peer can read the refusal: a reset could destroy it."""
    timer: Any = gevent.Timeout(REFUSED_SECONDS, False)  # type: ignore[arg-type]  # ends quietly
    with timer, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while True:
            wait_read(sock.fileno())
            if not sock.recv(RECV_BYTES):
                return


def _line(entrant: Entrant) -> bytes:
    """The next line; what is behind it stays received."""
    while True:
        line, newline, rest = entrant.received.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise Refusal(TOO_LARGE, "a secret is asked for, and this line is too long")
        if newline:
            entrant.received = rest
            return line
        entrant.received += entrant.recv()


def _message(line: bytes) -> Message:
    try:
        if depth_within(line, MAX_DEPTH):
            return _decode_message(line)
    except UNREADABLE:
        pass
    raise Refusal(NOT_AUTHENTICATED, "a secret is asked for")


def _is_in(entrant: Entrant, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    if entrant.is_unix:
        return False
    host = ipaddress.ip_address(host_of(entrant.address).strip("[]"))
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
        host = host.ipv4_mapped
    return any(host in network for network in networks)
