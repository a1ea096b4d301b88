"""TLS contexts for both sides, the names in certificates, and what went wrong in words.

TLS 1.2 at least. A client always verifies the server's certificate and its name; the common
name says nothing (RFC 9525). The contexts are gevent's: the standard library's own recurse
for ever once gevent has patched the module, gevent's work either way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
from typing import Any, NoReturn

from gevent.ssl import SSLContext

from gtcp.masking import shown


def server_context(
    cert: str, key: str | None, ca: str | None, *, require_client_cert: bool
) -> ssl.SSLContext:
    """A context for accepting connections.

    Args:
        cert: PEM file with the server's chain.
        key: PEM file with its private key; None when it is in the same file.
        ca: PEM file with the authorities whose client certificates are taken.

    Raises:
        ValueError: a file can't be read or used; the message names it.
    """
    context: ssl.SSLContext = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context)
    _load_chain(context, cert, key)
    context.num_tickets = 0  # connections are kept, so there is nothing to resume
    if ca is not None:
        _load_authorities(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED if require_client_cert else ssl.CERT_OPTIONAL
    return context


def client_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """A context for connecting; without ``ca`` the system's authorities are trusted.

    Raises:
        ValueError: a file can't be read or used; the message names it.
    """
    context: ssl.SSLContext = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context)
    context.hostname_checks_common_name = False
    if ca is not None:
        _load_authorities(context, ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if cert is not None:
        _load_chain(context, cert, key)
    return context


class ClientTls:
    """A client's TLS files. For any number of greenlets and threads.

    Certificates that live for hours are replaced while programs run: files that have changed
    are read again for the next connection, and while that fails, the old ones do.

    Raises:
        ValueError: a file can't be read or used; the message names it.
    """

    def __init__(self, ca: str | None, cert: str | None, key: str | None) -> None:
        if key is not None and cert is None:
            raise ValueError("key: there is no cert that it could belong to")
        self._files = ca, cert, key
        self._seen = self._state()
        self._context = client_context(*self._files)

    def context(self) -> ssl.SSLContext:
        """The context for the next connection."""
        state = self._state()
        if state != self._seen:
            try:
                self._context, self._seen = client_context(*self._files), state
            except ValueError:
                pass  # half written yet, perhaps: looked at again for the next connection
        return self._context

    def _state(self) -> list[tuple[int, int]]:
        return [_state(each) for each in self._files if each is not None]


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_ino


def names_of(certificate: Any) -> tuple[tuple[str, str], ...]:
    """Return kinds and alternative names of a verified certificate (``getpeercert()``)."""
    return tuple((certificate or {}).get("subjectAltName", ()))


def digest(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate in DER form, in hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def sent_certificate(context: ssl.SSLContext) -> bytes:
    """Return the certificate that a server with this context sends, in DER form.

    ``ssl`` does not tell, and the file may have changed since it was loaded. So a client in memory
    connects to the context, which must not be in use yet.

    Raises:
        ValueError: the context can't be used.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side: ssl.SSLContext = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    client = client_side.wrap_bio(to_client, to_server)
    verify_mode, context.verify_mode = context.verify_mode, ssl.CERT_NONE
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(2):  # round trips: one in TLS 1.3, two in TLS 1.2
            for side in (client, server, client):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        certificate = client.getpeercert(binary_form=True)
    except (ssl.SSLError, ValueError) as exc:  # ValueError: it did not end
        why = explain(exc) if isinstance(exc, OSError) else exc
        raise ValueError(f"can't use the certificate: {why}") from exc
    finally:
        context.verify_mode = verify_mode
    assert certificate is not None
    return certificate


def explain(exc: OSError) -> str:
    """Return the problem in a few words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message.rstrip(".") or "the certificate can't be verified"
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.replace("_", " ").lower()
    return exc.strerror or str(exc)


def _common(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load_chain(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as exc:
        with_key = f" with key {shown(key)}" if key else ""
        raise ValueError(f"can't use certificate {shown(cert)}{with_key}: {_why(exc)}") from exc


def _load_authorities(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as exc:
        raise ValueError(f"can't use the authorities in {shown(ca)}: {_why(exc)}") from exc


def _why(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError) and not exc.reason:  # OpenSSL says no more than "PEM lib"
        return "there is nothing in PEM form in it that would be needed: certificate or key"
    return explain(exc) if isinstance(exc, OSError) else str(exc)


def _no_password() -> NoReturn:
    # Without this OpenSSL would ask for it on the terminal, and wait.
    raise ValueError("the key is encrypted: gtcp takes keys without a password")
