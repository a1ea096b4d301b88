"""The header of the PROXY protocol: the address of the client behind a load balancer.

Versions 1 (a line of text) and 2 (binary), after HAProxy's doc/proxy-protocol.txt. Bytes in,
address out; no sockets here.
"""

from __future__ import annotations

import ipaddress
import struct

from gtcp.transport.address import Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

#: The longest version 1 line by the specification, its end included.
MAX_TEXT = 107

#: More than any version 2 header needs: addresses and a few TLVs.
MAX_BINARY = 16 + 2048

_PROXY, _LOCAL = 1, 0
_INET, _INET6 = 1, 2


#: Stands for the address of a client that the proxy can't tell.
UNKNOWN = ""


class BadProxyHeader(Exception):
    """The data received is not a PROXY header."""


def read(data: bytes) -> tuple[int, str | None] | None:
    """Read the header that a connection begins with.

    Returns:
        None when more bytes are needed; else how many bytes the header has, and the client's
        address, which is UNKNOWN if the proxy can't tell, and None if the connection is the proxy's
        own (a health check). An IPv4 address that is written as an IPv6 one is returned as IPv4.

    Raises:
        BadProxyHeader: there is none, or it is malformed.
    """
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _binary(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _text(data)
    raise BadProxyHeader("the connection does not begin with a PROXY header")


def _text(data: bytes) -> tuple[int, str | None] | None:
    end = data.find(b"\r\n", 0, MAX_TEXT)
    if end < 0:
        if len(data) >= MAX_TEXT:
            raise BadProxyHeader("the PROXY line is too long")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if len(words) > 1 and words[1] == "UNKNOWN":
        return end + 2, UNKNOWN
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise BadProxyHeader("the PROXY line is malformed")
    return end + 2, _address(words[1], words[2], words[4])


def _address(family: str, host: str, port: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as exc:
        raise BadProxyHeader("the PROXY line has a malformed address") from exc
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 65536
    # A scope ("fe80::1%eth0") may hold anything, and means nothing on this host.
    if number > 65535 or address.version != int(family[-1]) or "%" in host:
        raise BadProxyHeader("the PROXY line has a malformed address")
    return _written(address, number)


def _binary(data: bytes) -> tuple[int, str | None] | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    family, transport = data[13] >> 4, data[13] & 0xF
    (length,) = struct.unpack_from("!H", data, 14)
    if version != 2 or command not in (_PROXY, _LOCAL) or 16 + length > MAX_BINARY:
        raise BadProxyHeader("the PROXY header is malformed")
    if len(data) < 16 + length:
        return None
    end = 16 + length
    if command == _LOCAL:
        return end, None
    if transport != 1:
        return end, UNKNOWN
    return end, _binary_address(family, data[16:end])


def _binary_address(family: int, block: bytes) -> str:
    size = {_INET: 4, _INET6: 16}.get(family)
    if size is None:
        return UNKNOWN  # AF_UNSPEC or a unix socket
    if len(block) < 2 * size + 4:
        raise BadProxyHeader("the PROXY header is too short for its addresses")
    (port,) = struct.unpack_from("!H", block, 2 * size)
    return _written(ipaddress.ip_address(block[:size]), port)


def _written(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(Address(str(mapped or host), port))
