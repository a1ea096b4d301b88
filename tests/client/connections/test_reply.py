"""From a server's bytes to replies, without a socket."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gtcp
from gtcp.client.connections.reply import Replies, error_of, result_of
from gtcp.protocol.messages import Reply

LINES = [
    b'{"code":0,"id":1,"result":{"a":[1,2]}}\n',
    b'{"code":0,"id":2,"result":"\xc3\xa9"}\r\n',
    b'{"code":429,"id":3,"message":"later","data":{"retry_after":1.0}}\n',
    b'{"code":503,"message":"going away"}\n',
]


@given(st.lists(st.integers(0, len(b"".join(LINES))), max_size=8))
def test_any_split_of_the_stream_gives_the_same_replies(cuts: list[int]) -> None:
    stream = b"".join(LINES)
    places = [0, *sorted(cuts), len(stream)]
    replies, found = Replies(None), []
    for start, end in pairwise(places):
        some, wrong = replies.feed(stream[start:end])
        assert not wrong
        found += some
    assert [each.id for each in found] == [1, 2, 3, None]
    assert [each.result for each in found[:2]] == [{"a": [1, 2]}, "é"]


@given(st.binary(max_size=200))
def test_whatever_comes_never_raises(data: bytes) -> None:
    replies = Replies(100)
    assert replies.alone(data) is None or data.count(b"\n") == 1
    some, wrong = replies.feed(data)
    assert all(isinstance(each, Reply) for each in some)
    assert isinstance(wrong, str)


@pytest.mark.parametrize("line", [LINES[0], LINES[2]])
def test_a_reply_that_comes_alone_is_the_same_by_the_short_way(line: bytes) -> None:
    assert Replies(None).alone(line) == Replies(None).feed(line)[0][0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINES[0][:-1],
        LINES[0] + LINES[2],
        LINES[1],  # not ASCII
        b'{"code":0,"id":1,"result":' + b"[" * 600 + b"]" * 600 + b"}\n",
        b"nonsense\n",
    ],
)
def test_what_needs_a_closer_look_is_left_to_the_long_way(data: bytes) -> None:
    assert Replies(None).alone(data) is None


def test_behind_half_a_line_nothing_comes_alone() -> None:
    replies = Replies(None)
    assert replies.feed(LINES[0][:5]) == ([], "")
    assert replies.alone(LINES[0][5:]) is None
    assert replies.feed(LINES[0][5:])[0][0].id == 1


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (b"HTTP/1.1 400 Bad Request\n", "not a gtcp server: it says 'HTTP/1.1 400 Bad Request'"),
        (b'{"code":"x"}\n', "not a reply: Expected `int`, got `str`"),
        (b'{"code":0,"result":' + b"[" * 501 + b"]" * 501 + b"}\n", "nests too deep"),
        (b'{"code":0,"result":"\xff"}\n', "not UTF-8"),
    ],
)
def test_what_came_before_a_line_that_is_none_still_counts(bad: bytes, wrong: str) -> None:
    some, found = Replies(None).feed(LINES[0] + bad + LINES[2])
    assert [each.id for each in some] == [1]
    assert wrong in found


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_is_told_behind_those_before_it(end: bytes) -> None:
    some, wrong = Replies(100).feed(LINES[0] + b"x" * 101 + end)
    assert [each.id for each in some] == [1]
    assert wrong == "a reply line is too long"


@pytest.mark.parametrize(("code", "kind"), [(408, gtcp.RemoteTimeout), (1000, gtcp.RemoteError)])
def test_the_exception_tells_what_the_reply_does(code: int, kind: type[gtcp.RemoteError]) -> None:
    line = json.dumps({"code": code, "id": 1, "message": "why", "data": [1]}).encode() + b"\n"
    error = error_of(Replies(None).feed(line)[0][0])
    assert type(error) is kind
    assert (error.code, error.message, error.data) == (code, "why", [1])


# Results of a type


class Price(msgspec.Struct):
    amount: Decimal
    rest: msgspec.Raw = msgspec.Raw(b"null")


def raw(line: bytes) -> Reply:
    replies = Replies(None)
    replies.keep_raw()
    (reply,), wrong = replies.feed(line)
    assert not wrong
    return reply


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        (b"12345678901234567.89", Decimal, Decimal("12345678901234567.89")),
        (b'{"1":"a"}', dict[int, str], {1: "a"}),
        (b"[1,2]", tuple[int, int], (1, 2)),
        (b'"2026-11-26"', date, date(2026, 11, 26)),
        (b"null", Any, None),
        (b"[1.5]", Any, [1.5]),
        (b"1", Annotated[int, msgspec.Meta(ge=1)], 1),
    ],
)
def test_a_result_is_decoded_straight_into_its_type(
    text: bytes, wanted: Any, expected: Any
) -> None:
    reply = raw(b'{"code":0,"id":1,"result":' + text + b"}\n")
    assert result_of(reply, wanted) == expected


def test_raw_works_inside_of_a_type() -> None:
    reply = raw(b'{"code":0,"result":{"amount":0.1,"rest":{"a": [1]}}}\n')
    price = result_of(reply, Price)
    assert price.amount == Decimal("0.1")
    assert bytes(price.rest) == b'{"a": [1]}'
    assert bytes(result_of(reply, msgspec.Raw)).startswith(b'{"amount"')


def test_a_result_that_does_not_fit() -> None:
    with pytest.raises(gtcp.ProtocolError, match="the result does not fit: Expected `int`"):
        result_of(raw(b'{"code":0,"result":"x"}\n'), int)


def test_a_missing_result_is_null() -> None:
    assert result_of(raw(b'{"code":0}\n'), int | None) is None


def test_a_type_that_can_not_be_hashed() -> None:
    wanted = Annotated[int, msgspec.Meta(extra={"a": []})]
    assert result_of(raw(b'{"code":0,"result":1}\n'), wanted) == 1
