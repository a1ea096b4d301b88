"""The PROXY header: the reader itself, and a server that expects one.

What the header says is known as soon as it is whole, whatever follows it; the address is one;
and the requests behind the header are served, none of them before it is accepted.
"""

from __future__ import annotations

import ipaddress

from fuzz.entering import Stranger
from fuzz.inputs import HEADER_BYTES, Input
from fuzz.watch import watched
from gtcp.server.handshake.proxy_header import MAX_BINARY, MAX_TEXT, SIGNATURE, BadProxyHeader, read
from gtcp.transport.address import parse

V4 = bytes([127, 0, 0, 1, 10, 0, 0, 1, 0x1F, 0x90, 0, 80])
V6 = bytes(15) + b"\1" + bytes(15) + b"\2" + b"\x1f\x90\0\x50"
REQUEST = b'{"cmdid":1,"params":{"a":1},"id":1}\n'
HEADERS = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n",
    b"PROXY TCP6 2001:db8::1 ::1 5000 80\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 5000 80\r\n",
    b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5000 80\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
    b"PROXY " + b"x" * 200,
    SIGNATURE + b"\x21\x11\x00\x0c" + V4,
    SIGNATURE + b"\x21\x11\x00\x10" + V4 + b"\x03\x00\x01\x00",
    SIGNATURE + b"\x21\x21\x00\x24" + V6,
    SIGNATURE + b"\x20\x00\x00\x00",
    SIGNATURE + b"\x21\x00\x00\x00",
    SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
    SIGNATURE + b"\x21\x11\x00\x04" + V4[:4],
    SIGNATURE + b"\x21\x11\xff\xff" + V4,
    SIGNATURE[:-1] + b"\r",
)
SEEDS = (
    *(bytes(HEADER_BYTES) + each + REQUEST for each in HEADERS),
    *(bytes((1, 30, 0, 0)) + each + REQUEST * 2 for each in HEADERS),
)
TOKENS = (
    b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b" ", b"1.2.3.4 ", b"::1 ", b"fe80::1%a",
    b"%", b"]", b"80", b"65535", b"-1", b"01", SIGNATURE, b"\x20", b"\x21", b"\x11", b"\x21\x12",
    b"\x21\x21", b"\x00\x0c", b"\x00\x24", b"\x00\x00", V4, V6, REQUEST, b"\xff", b"\xd9\xa1",
)  # fmt: skip


def run(data: bytes) -> None:
    """Read it in every length; then be a proxy that sends it."""
    given = Input(data)
    with watched(given.stream):
        whole = read_whole(given.stream)
        stranger = Stranger(given, proxy_from=("127.0.0.0/8",))
        stranger.play()
        if whole is None:
            assert not stranger.ran, "a request ran in spite of the header"


def read_whole(stream: bytes) -> tuple[int, str | None] | None:
    """Return the address in the header; None if the header is missing or incomplete."""
    longest = max(MAX_TEXT, MAX_BINARY)
    known: object = None
    for end in range(1, min(len(stream), longest + 10) + 1):
        said = outcome(stream[:end])
        assert known is None or said == known, "what follows changes what was said"
        known = said
    assert known is not None or len(stream) < longest, "waits for ever more"
    if known is None or isinstance(known, str):
        return None
    assert isinstance(known, tuple)
    if known[1]:
        address = parse(known[1])
        ipaddress.ip_address(address.host)
        assert str(address) == known[1]
    return known


def outcome(data: bytes) -> tuple[int, str | None] | str | None:
    """Return the reader's result or exception."""
    try:
        found = read(data)
    except BadProxyHeader as exc:
        return str(exc)
    assert found is None or 0 < found[0] <= len(data)
    return found
