"""Addresses of servers, as users write them.

Written ``host``, ``host:port``, ``[v6]:port``, ``unix:/path`` or, for an abstract socket of Linux,
``unix:@name``; with ``tls://`` before it a client speaks TLS. A server may also be given a
listening socket, ``fd://N``.
"""

from __future__ import annotations

import ipaddress

import msgspec

from gtcp.masking import MASK, may_be_secret

DEFAULT_PORT = 8889

TLS = "tls://"

FD = "fd://"


class Address(msgspec.Struct, frozen=True):
    """A TCP host and port, the path of a unix socket (then ``path`` is not empty), or a descriptor.

    Attributes:
        fd: the descriptor of a socket that listens already; None if it is an address.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False
    fd: int | None = None

    @property
    def is_abstract(self) -> bool:
        """Whether it is a unix socket without a file, written ``unix:@name`` (unix(7))."""
        return self.path.startswith("@")

    @property
    def unix_name(self) -> str:
        """The path as bind(2) and connect(2) take it."""
        return f"\0{self.path[1:]}" if self.is_abstract else self.path

    def __str__(self) -> str:
        if self.fd is not None:
            return f"{FD}{self.fd}"
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS if self.tls else ''}{host}:{self.port}"


def is_one_host(address: object) -> bool:
    """Return whether it is the text of one host's address, not a list and not ``dns://...``."""
    if not isinstance(address, str) or "," in address:
        return False
    return "://" not in address or address.startswith(TLS)


def parse_bind(text: str) -> Address:
    """Read what a server may listen on: an address, or ``fd://N``.

    Raises:
        ValueError: as for ``parse``.
    """
    if not text.startswith(FD):
        return parse(text)
    number = text.removeprefix(FD)
    if not (number.isascii() and number.isdigit() and len(number) < 8):
        raise ValueError(f"{text!r} is not an address: expected {FD} and a file descriptor")
    return Address(fd=int(number))


def parse_admin(text: str) -> Address:
    """Read where the admin port listens: ``host:port``, or a port, which is one of 127.0.0.1.

    Raises:
        ValueError: it is neither.
    """
    found = parse(f"127.0.0.1:{text}" if text.isdecimal() else text, 0)
    if found.path or found.tls or not text.rpartition(":")[2].isdecimal():
        raise ValueError(f"{text!r} is not an address such as 127.0.0.1:9889")
    return found


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
    """Return whether it may be a host name: not a URL, and without blanks."""
    return host.isprintable() and bool(host) and not set(host) & set(" /[]")


def _port(text: str, port: str) -> int:
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise _wrong(text, "; a port is a number from 0 to 65535")
    return int(port)


def of_peer(name: object) -> str:
    """Return the result of ``getpeername()`` as one string; a unix peer has no name."""
    if isinstance(name, tuple):
        return str(Address(name[0], name[1]))
    return "unix:"


def is_exposed(name: object) -> bool:
    """Return whether other hosts can reach a socket with this ``getsockname()``."""
    return isinstance(name, tuple) and not ipaddress.ip_address(name[0]).is_loopback


def host_of(peer: str) -> str:
    """The host in what ``of_peer`` says, without the port."""
    return peer.rpartition(":")[0]


def _wrong(text: str, more: str = "") -> ValueError:
    given = MASK if may_be_secret(text) else repr(text)
    return ValueError(
        f"{given} is not an address: expected host, host:port, [v6]:port or unix:/path, "
        f"a client's also with {TLS} before it{more}"
    )
