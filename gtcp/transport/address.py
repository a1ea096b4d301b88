"""Where a server listens and a client connects.

Written ``host``, ``host:port``, ``[v6]:port`` or ``unix:/path``; with ``tls://`` before it a
client speaks TLS.
"""

from __future__ import annotations

import msgspec

from gtcp.masking import MASK, may_be_secret

DEFAULT_PORT = 8889

TLS = "tls://"


class Address(msgspec.Struct, frozen=True):
    """A TCP host and port, or the path of a unix socket (then ``path`` is not empty)."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS if self.tls else ''}{host}:{self.port}"


def parse(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """Read an address as users write it.

    Raises:
        ValueError: with one line that names the address and what was expected.
    """
    if text.startswith("unix:"):
        if not text[5:]:
            raise _wrong(text)
        return Address(path=text[5:])
    if text.startswith(TLS):
        found = parse(text.removeprefix(TLS), default_port)
        if found.path or found.tls:
            raise _wrong(text)
        return Address(found.host, found.port, tls=True)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        right = bracket and colon in ("", ":") and _is_ipv6(host)
    elif text.count(":") > 1:  # a bare IPv6 address has no room for a port
        host, colon, port = text, "", ""
        right = _is_ipv6(host)
    else:
        host, colon, port = text.partition(":")
        right = _may_be_host(host)
    if not right:
        raise _wrong(text)
    return Address(host, _port(text, port) if colon else default_port)


def _is_ipv6(host: str) -> bool:
    from ipaddress import IPv6Address  # here: few addresses need it, every program would load it

    try:
        IPv6Address(host)
    except ValueError:
        return False
    return _may_be_host(host)  # the zone after % may be any text


def _may_be_host(host: str) -> bool:
    """Whether it is worth asking for: no URL, nothing with blanks in it."""
    return host.isprintable() and bool(host) and not set(host) & set(" /[]")


def _port(text: str, port: str) -> int:
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise _wrong(text, "; a port is a number from 0 to 65535")
    return int(port)


def of_peer(name: object) -> str:
    """What a socket's ``getpeername()`` says, as one string; a unix peer has no name."""
    if isinstance(name, tuple):
        return str(Address(name[0], name[1]))
    return "unix:"


def host_of(peer: str) -> str:
    """The host in what ``of_peer`` says, without the port."""
    return peer.rpartition(":")[0]


def _wrong(text: str, more: str = "") -> ValueError:
    given = MASK if may_be_secret(text) else repr(text)
    return ValueError(
        f"{given} is not an address: expected host, host:port, [v6]:port or unix:/path, "
        f"a client's also with {TLS} before it{more}"
    )
