"""PROXY headers, as the specification has them and as attackers do."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcp.server.handshake.proxy_header import MAX_TEXT, SIGNATURE, UNKNOWN, BadProxyHeader, read


def version_2(
    block: bytes, *, command: int = 1, family: int = 1, length: int | None = None
) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family << 4 | 1, size) + block


V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 5, 6)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") * 2 + struct.pack("!HH", 5, 6)

GOOD = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n", "192.0.2.1:5"),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 5 6\r\n", "[2001:db8::1]:5"),
    (b"PROXY UNKNOWN\r\n", UNKNOWN),
    (b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n", UNKNOWN),
    (version_2(V4), "192.0.2.1:5"),
    (version_2(V6, family=2), "[2001:db8::1]:5"),
    (version_2(V4 + b"\x04\x00\x01x"), "192.0.2.1:5"),  # a TLV behind the addresses
    (version_2(b"", command=0, family=0), None),  # LOCAL: a health check
    (version_2(b"x" * 216, family=3), UNKNOWN),  # unix sockets
    (version_2(b"", family=0), UNKNOWN),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 5 6\r\n", "192.0.2.1:5"),
    (version_2(bytes(10) + b"\xff\xff" + V4[:4] + V6[16:], family=2), "192.0.2.1:5"),
]


@pytest.mark.parametrize(("header", "address"), GOOD)
def test_what_is_behind_the_header_is_left(header: bytes, address: str | None) -> None:
    assert read(header + b'{"cmdid":0}\n') == (len(header), address)


@pytest.mark.parametrize(("header", "address"), GOOD)
def test_it_may_come_in_pieces(header: bytes, address: str | None) -> None:
    assert [read(header[:end]) for end in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        b'{"cmdid":0}\n',
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6 7\r\n",
        b"PROXY TCP4 2001:db8::1 192.0.2.2 5 6\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 5 6\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 6\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -5 6\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 \xb2 6\r\n",
        b"PROXY TCP4 host.example 192.0.2.2 5 6\r\n",
        b"PROXY TCP6 fe80::1%\x1b[2J fe80::1 5 6\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 5 6\r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 5 6\r\n",
        b"PROXY TCP4 " + b"1" * MAX_TEXT,
        SIGNATURE + b"\x11\x11\x00\x0c" + V4,  # version 1 in binary
        SIGNATURE + b"\x22\x11\x00\x0c" + V4,  # no such command
        version_2(V4[:-1]),
        version_2(V4, family=2),
        version_2(V4, length=65535),
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read(data)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(SIGNATURE.__add__))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        found = read(data)
    except BadProxyHeader:
        return
    assert found is None or 0 < found[0] <= len(data)
