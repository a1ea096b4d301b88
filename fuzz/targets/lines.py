"""Framing and decoding: ``LineBuffer`` and ``Table.read``.

Any split gives the same lines; all at once gives the same as one by one; and what becomes a
request is what Python's own json reads in that line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import gtcp
from fuzz.app import commands
from fuzz.inputs import Input, seed
from fuzz.watch import watched
from gtcp.protocol.framing import LineBuffer
from gtcp.protocol.messages import Failure, Request
from gtcp.server.commands.table import Item, Rejection

DEPTH = 8
TABLE = commands([]).table(DEPTH)
SMALL, LARGE = 60, 1024 * 1024

REQUESTS = (
    b'{"cmdid":1,"params":{"a":1},"id":1}',
    b'{"cmdid":2,"params":{"b":[1.5,-2e3,null,true]},"id":"x"}',
    b'{"cmdid":3}',
    b'{"cmdid":4,"params":{"x":1,"y":[1,2],"name":"\\u00e9"},"id":-7,"timeout":60000}',
    b'{"cmdid":"5","params":{},"timestamp":1700000000,"meta":{"k":"v"}}',
    b'{"cmdid":6,"params":[{"deep":[[[[]]]]}],"oneway":true}',
    b'{"cmdid":0}',
    b'{"cmdid":0,"params":{"op":"commands"},"id":2}',
    b'{"cmdid":0,"params":{"op":"cancel","id":1},"oneway":true}',
    b'{"cmdid":7,"id":3}',
    b'{"cmdid":4,"params":{"x":"1"},"id":4}',
    b'{"cmdid":1,"":{"a":1},"unknown":[1,"}"]}\r',
    b'{"cmdid":1.0,"params":null,"id":null,"timeout":null,"oneway":null,"meta":null}',
    b'{"cmdid":4,"params":null,"timestamp":null}',
    b'{"cmdid":6,"params":null,"timestamp":1700000000.25}',
    b'{"cmdid":6e0,"params":null,"timestamp":"1700000000"}',
    b'{"cmdid":8,"id":5,"stream":true,"credit":1,"params":{"a":1,"wait":[2],"c":"3"}}',
    b'{"cmdid":8,"id":"s","stream":true,"credit":2,"timeout":9000,"total":9000,"params":{"a":1,"b":2}}',
    b'{"cmdid":8,"stream":true,"params":{"a":{"more":true},"wait":1,"c":99999999999999999999999}}',
    b'{"cmdid":0,"params":{"op":"credit","id":5,"n":1},"oneway":true}',
    b'{"cmdid":0,"params":{"op":"credit","id":"s","n":-1},"oneway":true}',
    b'{"cmdid":0,"params":{"op":"credit","id":5,"n":99999999999999999999},"oneway":true}',
    b'{"cmdid":0,"params":{"op":"credit","id":5,"n":2147483647},"id":6}',
    b'{"cmdid":8,"id":5,"params":{"a":1}}',
    b'{"cmdid":1,"id":6,"stream":true}',
    b'{"cmdid":8,"id":5,"stream":true,"credit":[-1],"total":null}',
)
BAD = (
    b"", b"[]", b"1", b"GET / HTTP/1.1", b'{"cmdid":1', b'{"cmdid":1}{"cmdid":1}',
    b'{"cmdid":1,"id":"\xff"}', b'{"params":{}}', b"[" * 70, b'{"cmdid":1,"id":1.5}',
    b'{"cmdid":1,"params":{"a":"\\ud800"}}', b'{"cmdid":1,"cmdid":2}', b'{"cmdid":true}',
    b'{"cmdid":1,"params":{"a":NaN}}', b'{"cmdid":1,"params":{"a":-Infinity}}', b'{"cmdid":1.5}',
    b'{"cmdid":1,"timestamp":"now"}', b'\xef\xbb\xbf{"cmdid":1}', b'{"cmdid":null}',
    b'{"cmdid":8,"stream":1}', b'{"cmdid":1,"stream":"yes"}',
    b'{"cmdid":3,"x":"\xff"}', b'{"cmdid":3,"x":"}', b'{"cmdid":6,"params":[[[[[[[[]]]]]]]]}',
)  # fmt: skip
SEEDS = (
    *(seed(each) for each in REQUESTS + BAD),
    seed(*REQUESTS),
    seed(*REQUESTS, sizes=(1, 200)),
    seed(*REQUESTS[:4], BAD[1], *REQUESTS[4:], sizes=(30, 3)),
    seed(*REQUESTS[:2], switches=1),
    seed(REQUESTS[2] * 2, b""),
    seed(b'{"cmdid":3,"x":"}', b'{"}' + REQUESTS[2]),
    seed(REQUESTS[0], times=3),
    seed(REQUESTS[1], REQUESTS[9], times=3),
    seed(b'{"a":[', times=4),
)
TOKENS = (
    b'"cmdid":', b'"params":', b'"id":', b'"timeout":', b'"timestamp":', b'"oneway":', b'"meta":',
    b'"stream":true', b'"credit":', b'"total":', b'"credit"', b'"n":',
    b'"op":', b'"cancel"', b'"commands"', b'"ping"', b'"x":', b'"y":', b'""', b"{", b"}", b"[",
    b"]", b",", b":", b"\n", b"\r\n", b"}\n{", b"}{", b"\\", b'"', b'\\"', b"\\ud83d\\ude00",
    b"NaN", b"Infinity", b"1.5", b'"7"',
    b"\\ud800", b"null", b"true", b"0", b"1", b"2", b"-1", b"1.0", b"1e400", b"9223372036854775808",
    b"\xc3\xa9", b"\xff", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf", b" ", b'{"cmdid":1,"id":1}\n',
)  # fmt: skip


class Nowhere:
    """The connection that lines of this target are from."""

    address = ""
    peer = gtcp.Peer("")

    def cancel(self, request_id: int | str | None) -> None:
        """Nothing is in flight here."""

    def credit(self, request_id: int | str | None, items: Any, ahead: Sequence[Any] = ()) -> None:
        """No stream is in flight here."""

    def stream(self, request: Any, items: Iterator[Any]) -> None:
        """Nothing runs here."""

    def on_protocol_error(self, reply: Failure) -> None:
        """There is nothing to close."""


NOWHERE = Nowhere()


def run(data: bytes) -> None:
    """Feed it in pieces; compare with the whole, and with every line by itself."""
    given = Input(data)
    limit = SMALL if given.switches & 1 else LARGE
    with watched(given.stream):
        whole = LineBuffer(limit)
        lines = whole.feed(given.stream)
        buffer = LineBuffer(limit)
        parts = []
        for piece in given.pieces:
            parts.append(buffer.feed(piece))
            assert buffer.size <= limit
            assert parts[-1].endswith(b"\n") or not parts[-1]
        assert b"".join(parts) == lines
        assert (buffer.overflow, buffer.begun) == (whole.overflow, whole.begun)
        assert given.stream.startswith(lines)
        assert all(len(each) <= limit for each in lines.split(b"\n"))
        check(lines)


def check(lines: bytes) -> None:
    """All lines at once must say what each says by itself."""
    items = TABLE.read(lines, NOWHERE, 0.0) if lines else []
    alone = list(TABLE._one_by_one(lines.split(b"\n")[:-1]))
    assert [said(each) for each in items] == [said(each) for each in alone]
    request = TABLE.read_one(lines, NOWHERE, 0.0)
    assert request is None or [said(request)] == [said(each) for each in items]
    for item, line in zip(items, lines.split(b"\n"), strict=False):
        if isinstance(item, Request):
            as_python_reads(item, line)


def said(item: Item) -> Any:
    """An item as a value that can be compared."""
    if isinstance(item, Rejection):
        reply = item.reply
        return (reply.code, reply.message, reply.data, item.id, item.fatal, item.oneway)
    return (
        item.cmdid, item.params, item._sent, item.id, item.timeout, item.oneway, item.meta,
    )  # fmt: skip


def as_python_reads(item: Request[Any], line: bytes) -> None:
    """A request is what json reads in the line."""
    value = json.loads(line.decode())
    assert isinstance(value, dict)
    assert depth(value) <= DEPTH
    assert int(value["cmdid"]) == item.cmdid
    assert value.get("id") == item.id
    assert value.get("timeout") == item.timeout
    given = {key: each for key, each in value.items() if each is not None}
    assert given.get("oneway", False) is item.oneway
    assert given.get("meta", {}) == item.meta
    if isinstance(item.params, dict):
        assert given.get("params", {}) == item.params
    sent = given.get("timestamp", 0)
    sent = int(sent.partition(".")[0] if isinstance(sent, str) else sent)
    assert type(item.timestamp) is int
    assert not sent or sent == item.timestamp


def depth(value: Any) -> int:
    """How deep a value nests."""
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0
