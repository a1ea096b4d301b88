"""A shared secret: both sides prove that they know it, neither says it.

Challenge and response with HMAC-SHA256 over nonces of both sides, as two requests of cmdid 0:

1. the client says ``hello`` with the name of its key and a nonce; the server answers with a
   nonce of its own, whether or not it knows the key;
2. the client says ``prove`` with its proof; the server checks it, and answers with its own.

The two proofs differ in a word, so that neither can be played back as the other. It
authenticates the connection at its start and hides nothing: who can read or change packets
in between needs TLS to be kept out. No sockets here.
"""

from __future__ import annotations

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

#: Longest line of either side during the exchange, and more than any of them needs.
MAX_LINE_BYTES = 1024

DEFAULT_NAME = "default"

VARIABLE, FILE_VARIABLE = "GTCP_SECRET", "GTCP_SECRET_FILE"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-+\--~]+")  # printable ASCII without spaces and commas

#: Nonces and proofs have one form, so that a proof can't be read as one over other nonces.
Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class Key:
    """A secret and its name, which is the identity of who proves it.

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

    def __repr__(self) -> str:
        return f"Key({self.name!r}, ***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")

    def proof(self, side: str, client_nonce: str, server_nonce: str) -> str:
        """What only a holder of the secret can say to these nonces, as ``side``."""
        words = f"gtcp 1 {side} {self.name} {client_nonce} {server_nonce}"
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


class Nonce(msgspec.Struct):
    """The result of hello."""

    nonce: Hex


class Proof(msgspec.Struct):
    """The result of prove."""

    proof: Hex


def nonce() -> str:
    """A number that has never been used before."""
    return secrets.token_hex(NONCE_BYTES)


# The two sides


class Challenge:
    """The server's side of one exchange.

    Args:
        keys: the keys that are accepted; two while one replaces the other.

    Attributes:
        identity: the name of the key that was proven; None until then.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = {key.name: key for key in keys}
        self._hello: Hello | None = None
        self._nonce = nonce()
        self._over = False
        self.identity: str | None = None

    def answer(self, params: Hello | Prove) -> Nonce | Proof | None:
        """The result for one message; None when the peer has failed, once and for all."""
        answer = self._greet(params) if isinstance(params, Hello) else self._verify(params)
        self._over = self._over or not isinstance(answer, Nonce)
        return answer

    def _greet(self, hello: Hello) -> Nonce | None:
        if self._over or self._hello is not None:
            return None
        self._hello = hello
        return Nonce(self._nonce)  # whether the key is known, it does not tell

    def _verify(self, prove: Prove) -> Proof | None:
        hello = self._hello
        if self._over or hello is None:
            return None
        known = self._keys.get(hello.key)
        # An unknown key takes the same time as a wrong proof.
        key = known or Key(f"{DEFAULT_NAME}:{nonce()}")
        right = hmac.compare_digest(key.proof("client", hello.nonce, self._nonce), prove.proof)
        if known is None or not right:
            return None
        self.identity = key.name
        return Proof(key.proof("server", hello.nonce, self._nonce))


class Response:
    """The client's side of one exchange."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._nonce = nonce()
        self._server_nonce = ""

    def hello(self) -> Hello:
        """The first message."""
        return Hello(self._key.name, self._nonce)

    def prove(self, answer: Nonce) -> Prove:
        """The second message, to the nonce that the server answered with."""
        self._server_nonce = answer.nonce
        return Prove(self._key.proof("client", self._nonce, answer.nonce))

    def is_proven_by(self, answer: Proof) -> bool:
        """Whether the server has proven that it knows the secret too."""
        expected = self._key.proof("server", self._nonce, self._server_nonce)
        return hmac.compare_digest(expected, answer.proof)


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
