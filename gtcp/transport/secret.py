"""A shared secret: both sides prove that they know it, neither says it.

Challenge and response with HMAC-SHA256 over nonces of both sides, as two requests of cmdid 0:

1. the client says ``hello`` with the name of its key and a nonce; the server answers with a
   nonce of its own, whether or not it knows the key;
2. the client says ``prove`` with its proof; the server checks it, and answers with its own.

The two proofs differ in a word, so that neither can be played back as the other. The exchange
authenticates the connection at its start and encrypts nothing: against a peer that reads or changes
packets in between, TLS is needed.

Over TLS the proofs are bound to the channel: they include the SHA-256 of the server's certificate,
so proofs that a server with another certificate relays are refused. (This is
``tls-server-end-point`` of RFC 5929, except that the hash is always SHA-256: the RFC leaves it
undefined for certificates such as Ed25519's, whose signature has no hash.) Peers of version 0.2 do
not bind. So that a relay can't pretend that one side is of 0.2, a client that can bind marks its
nonce, which is part of both proofs, as a server marks its random number against a downgrade of TLS
1.3 (RFC 8446, section 4.1.3). No sockets here.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec

from gtcp.masking import shown

#: A shorter secret could be guessed from one recorded exchange.
MIN_SECRET_CHARS = 16

NONCE_BYTES = 32

#: The last 8 bytes of the nonce of a client that binds its proof if the server can: "gtcpbind".
BINDING_MARK = b"gtcpbind".hex()

#: What a server answers hello with if it expects a proof that is bound to its certificate.
CERTIFICATE = "certificate"

#: HMAC replaces a longer secret by its hash, each time (RFC 2104, section 2).
_HMAC_BLOCK_BYTES = 64

#: Longest line of either side during the exchange, and more than any of them needs.
MAX_LINE_BYTES = 1024

DEFAULT_NAME = "default"

VARIABLE, FILE_VARIABLE = "GTCP_SECRET", "GTCP_SECRET_FILE"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-+\--~]+")  # printable ASCII without spaces and commas

#: Nonces and proofs have one form, so that a proof can't be read as one over other nonces.
Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class Key:
    """A secret and its name, which is the identity of the peer that proves it.

    Written "name:secret"; without a name it is called "default".

    Raises:
        ValueError: it is too short, or has characters that it must not have; the message does
            not hold the secret.
    """

    __slots__ = ("_secret", "name")

    def __init__(self, text: str) -> None:
        name, colon, secret = text.strip().partition(":")
        if not colon:
            name, secret = DEFAULT_NAME, name
        if not _NAME.fullmatch(name):
            raise ValueError("the name of a secret has 1 to 64 characters of A-Z a-z 0-9 . _ -")
        if len(secret) < MIN_SECRET_CHARS:
            raise ValueError(f"a secret has at least {MIN_SECRET_CHARS} characters")
        if not _SECRET.fullmatch(secret):
            raise ValueError("a secret is of printable ASCII, without spaces and commas")
        self.name = name
        self._secret = secret.encode()
        if len(self._secret) > _HMAC_BLOCK_BYTES:  # here, so that all proofs take the same time
            self._secret = hashlib.sha256(self._secret).digest()

    def __repr__(self) -> str:
        return f"Key({self.name!r}, ***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")

    def proof(self, name: str, side: str, nonces: tuple[str, str], certificate: str) -> str:
        """Return the proof of one side.

        Args:
            name: the name that the client gave.
            side: "client" or "server".
            nonces: the client's and the server's.
            certificate: what the proof is bound to, in hexadecimal; empty for an unbound one.
        """
        client_nonce, server_nonce = nonces
        words = f"gtcp 1 {side} {name} {client_nonce} {server_nonce}"
        if certificate:
            words = f"gtcp 2 {side} {name} {client_nonce} {server_nonce} {certificate}"
        return hmac.digest(self._secret, words.encode(), "sha256").hex()


# The messages


class Hello(msgspec.Struct, tag_field="op", tag="hello"):
    """The client's first message."""

    key: Annotated[str, msgspec.Meta(max_length=64)]
    nonce: Hex


class Prove(msgspec.Struct, tag_field="op", tag="prove"):
    """The client's second message."""

    proof: Hex


class Message(msgspec.Struct):
    """A request line of the exchange."""

    cmdid: Literal[0]
    params: Hello | Prove
    id: int | str | None = None


class Nonce(msgspec.Struct, omit_defaults=True):
    """The result of hello."""

    nonce: Hex
    binding: str | None = None


class Proof(msgspec.Struct):
    """The result of prove."""

    proof: Hex


def nonce() -> str:
    """Return a number that has never been used before."""
    return secrets.token_hex(NONCE_BYTES)


#: Computes the proof of clients that name an unknown key. No client can prove it.
_UNKNOWN = Key(f"{DEFAULT_NAME}:{nonce()}")


# The two sides


class Challenge:
    """The server's side of one exchange.

    Args:
        keys: the keys that are accepted; two while one replaces the other.
        certificate: the SHA-256 of the certificate that this server has sent, in hexadecimal;
            empty without TLS.

    Attributes:
        identity: the name of the key that was proven; None until then.
    """

    def __init__(self, keys: Iterable[Key], certificate: str = "") -> None:
        self._keys = {key.name: key for key in keys}
        self._certificate = certificate
        self._hello: Hello | None = None
        self._nonce = nonce()
        self._over = False
        self.identity: str | None = None

    @property
    def is_bound(self) -> bool:
        """Whether the client binds its proof to the certificate."""
        marked = self._hello is not None and self._hello.nonce.endswith(BINDING_MARK)
        return marked and bool(self._certificate)

    def answer(self, params: Hello | Prove) -> Nonce | Proof | None:
        """Return the result for one message; None if the peer has failed, once and for all."""
        answer = self._greet(params) if isinstance(params, Hello) else self._verify(params)
        self._over = self._over or not isinstance(answer, Nonce)
        return answer

    def _greet(self, hello: Hello) -> Nonce | None:
        if self._over or self._hello is not None:
            return None
        self._hello = hello
        # The answer is the same whether or not the key is known.
        return Nonce(self._nonce, CERTIFICATE if self._certificate else None)

    def _verify(self, prove: Prove) -> Proof | None:
        hello = self._hello
        if self._over or hello is None:
            return None
        # A name that is unknown and a wrong proof take the same steps, so they take the same time.
        # Which form of proof is expected depends only on the channel and on the client's nonce.
        key = self._keys.get(hello.key, _UNKNOWN)
        nonces = hello.nonce, self._nonce
        certificate = self._certificate if self.is_bound else ""
        expected = key.proof(hello.key, "client", nonces, certificate)
        if not hmac.compare_digest(expected, prove.proof) or key is _UNKNOWN:
            return None
        self.identity = hello.key
        return Proof(key.proof(hello.key, "server", nonces, certificate))


class Response:
    """The client's side of one exchange.

    Args:
        key: the secret to prove.
        certificate: the SHA-256 of the server's verified certificate, in hexadecimal; empty
            without TLS.
    """

    def __init__(self, key: Key, certificate: str = "") -> None:
        self._key = key
        self._nonce = nonce()
        if certificate:
            self._nonce = self._nonce[: -len(BINDING_MARK)] + BINDING_MARK
        self._certificate = certificate
        self._server_nonce = ""

    def hello(self) -> Hello:
        """Return the first message."""
        return Hello(self._key.name, self._nonce)

    def prove(self, answer: Nonce) -> Prove:
        """Return the second message, to the nonce that the server answered with."""
        self._server_nonce = answer.nonce
        if answer.binding != CERTIFICATE:  # a server of 0.2, or one behind a proxy that ends TLS
            self._certificate = ""
        return Prove(self._proof("client"))

    def is_proven_by(self, answer: Proof) -> bool:
        """Return whether the server has proven that it knows the secret too."""
        return hmac.compare_digest(self._proof("server"), answer.proof)

    def _proof(self, side: str) -> str:
        nonces = self._nonce, self._server_nonce
        return self._key.proof(self._key.name, side, nonces, self._certificate)


# Where secrets come from


def read_keys(given: str | bytes | Iterable[str]) -> list[Key]:
    """The keys in a text, one to a line or separated by commas; or in several texts.

    Raises:
        ValueError: there is none, one is not a key, or two have the same name.
    """
    if isinstance(given, bytes):
        if not given.isascii():
            raise ValueError("a secret is of printable ASCII, without spaces and commas")
        given = given.decode()
    texts = re.split(r"[\r\n,]", given) if isinstance(given, str) else list(given)
    keys = [Key(each) for each in texts if each.strip() and not each.lstrip().startswith("#")]
    if not keys:
        raise ValueError("no secret in it")
    if len({key.name.lower() for key in keys}) < len(keys):
        raise ValueError("two secrets have the same name")
    return keys


def find_keys(path: str | None, env: Mapping[str, str] = os.environ) -> list[Key]:
    """The keys in this file, or in the one that GTCP_SECRET_FILE names, or in GTCP_SECRET.

    Returns:
        list: empty without any of them.

    Raises:
        ValueError: what is there is no key, or can't be read; the message says where.
    """
    text, by_variable = env.get(VARIABLE), env.get(FILE_VARIABLE)
    if path is None and text is not None and by_variable is not None:
        raise ValueError(f"{VARIABLE} and {FILE_VARIABLE} are both set: which one is meant?")
    path = path or by_variable
    if path is not None:
        return _from_file(path)
    return [] if text is None else _told_where(VARIABLE, text)


def _from_file(path: str) -> list[Key]:
    try:
        text = Path(path).read_bytes()
    except OSError as exc:
        raise ValueError(f"can't read the secret in {shown(path)}: {exc.strerror}") from exc
    except ValueError as exc:  # a NUL in its name
        raise ValueError(f"can't read the secret in that file: {exc}") from exc
    return _told_where(f"secret file {path}", text)


def _told_where(where: str, text: str | bytes) -> list[Key]:
    try:
        return read_keys(text)
    except ValueError as exc:
        raise ValueError(f"{where}: {exc}") from None
