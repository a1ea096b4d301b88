"""From a server's bytes to replies, without a socket."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gtcp
from gtcp.client.reply import Replies, error_of
from gtcp.protocol import Reply

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
