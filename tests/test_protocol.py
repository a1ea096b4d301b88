import json
import sys
import tracemalloc
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcp.protocol.framing import LineBuffer, depth_within, is_plain, is_utf8
from gtcp.protocol.messages import (
    Failure,
    Outgoing,
    Request,
    Source,
    Success,
    encode_reply,
    encode_request,
)

# Mostly what matters to the framing, so that hypothesis finds newlines and brackets.
stream = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"{", b"}", b"\x00", b"\xff", b"bcd"]))
cuts = st.lists(st.integers(min_value=0, max_value=60))


def split(data, positions):
    edges = [0, *sorted(min(each, len(data)) for each in positions), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def fed(data, positions, limit):
    buffer = LineBuffer(limit)
    lines = b"".join(buffer.feed(chunk) for chunk in split(data, positions))
    return lines, buffer.overflow, buffer.begun


def json_values(leaves=None):
    if leaves is None:
        leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    )


class TestLineBuffer:
    @given(stream.map(b"".join), cuts, st.none() | st.integers(min_value=1, max_value=12))
    def test_any_split_of_the_stream_gives_the_same_lines(self, data, positions, limit):
        assert fed(data, positions, limit) == fed(data, [], limit)

    @given(stream.map(b"".join), cuts)
    def test_nothing_is_lost_and_only_whole_lines_come_out(self, data, positions):
        lines, overflow, begun = fed(data, positions, None)
        assert lines == data[: data.rfind(b"\n") + 1]
        assert not overflow
        assert begun == (len(lines) < len(data))

    @given(stream.map(b"".join), cuts, st.integers(min_value=1, max_value=12))
    def test_no_line_that_comes_out_is_longer_than_the_limit(self, data, positions, limit):
        lines, overflow, _ = fed(data, positions, limit)
        assert all(len(line) <= limit for line in lines.split(b"\n"))
        assert overflow == any(len(line) > limit for line in data.split(b"\n"))

    @given(stream.map(b"".join), cuts)
    def test_it_says_how_much_of_a_line_has_come(self, data, positions):
        buffer = LineBuffer(None)
        for chunk in split(data, positions):
            buffer.feed(chunk)
        assert buffer.size == len(data) - data.rfind(b"\n") - 1
        assert buffer.begun == bool(buffer.size)

    @pytest.mark.untraced
    def test_what_comes_byte_by_byte_is_not_kept_byte_by_byte(self):
        tracemalloc.start()
        buffer = LineBuffer(None)
        try:
            for _ in range(200_000):
                buffer.feed(b"xy")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 * 400_000
        assert buffer.feed(b"\n") == b"xy" * 200_000 + b"\n"

    def test_a_line_of_exactly_the_limit_is_taken(self):
        assert fed(b"abcd\n", [2], 4) == (b"abcd\n", False, False)

    def test_what_follows_a_line_that_is_too_long_is_thrown_away(self):
        buffer = LineBuffer(3)
        assert buffer.feed(b"ok\nlong one\nok\nta") == b"ok\n"
        assert buffer.overflow
        assert not buffer.begun
        assert buffer.feed(b"il\nok\n") == b""

    def test_a_line_that_never_ends_is_not_kept(self):
        buffer = LineBuffer(1000)
        for _ in range(100):
            buffer.feed(b"x" * 1000)
        assert buffer.overflow
        assert not buffer.begun


def depth(value):
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


bracketed = st.lists(
    st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"\\\\", b'\\"', b"a", b"\xff"]),
    max_size=40,
).map(b"".join)


def deepest(data):
    """How deep a decoder goes, byte by byte, until it has to stop."""
    level = most = 0
    inside = escaped = False
    for byte in data:
        if inside:
            inside = escaped or byte != ord('"')
            escaped = not escaped and byte == ord("\\")
        elif byte == ord('"'):
            inside = True
        elif byte in b"[{":
            level += 1
            most = max(most, level)
        elif byte in b"]}":
            level -= 1
        if level < 0 or (not inside and byte == ord("\\")):
            break
    return most


def closes_too_much(data):
    return any(level < 0 for level in accumulate(1 if each in b"[{" else -1 for each in data))


LIMITS = (2, 10, 400)


def c_calls(function):
    """How many functions written in C a call makes."""
    count = 0

    def profile(_frame, event, _arg):
        nonlocal count
        count += event == "c_call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


class TestDepth:
    @given(json_values(st.text(alphabet='[]{}"\\a')), st.integers(min_value=1, max_value=8))
    def test_is_that_of_the_json_text(self, value, limit):
        text = json.dumps(value).encode()
        assert depth_within(text, limit) == (depth(value) <= limit)

    @given(st.text(alphabet="[{", max_size=12), st.integers(min_value=1, max_value=12))
    def test_counts_both_kinds_of_brackets(self, opening, limit):
        text = "".join('{"a":' if each == "{" else "[" for each in opening) + "1"
        text += "".join("}" if each == "{" else "]" for each in reversed(opening))
        assert depth_within(text.encode(), limit) == (len(opening) <= limit)

    @given(st.binary() | stream.map(b"".join), st.integers(min_value=1, max_value=64))
    def test_any_bytes_are_taken(self, data, limit):
        assert depth_within(data, limit) in (True, False)

    @pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"[{" * 50_000 + b"}]"])
    def test_of_text_that_never_closes_is_too_deep(self, text):
        assert not depth_within(text, 64)

    @given(bracketed, st.integers(min_value=0, max_value=8))
    def test_no_decoder_goes_deeper_in_any_bytes(self, data, limit):
        assert not depth_within(data, limit) or deepest(data) <= limit

    @given(st.text(alphabet="[]{}", max_size=30), st.integers(min_value=0, max_value=8))
    def test_of_brackets_alone_is_as_far_as_they_open(self, text, limit):
        data = text.encode()
        if depth_within(data, limit) != (deepest(data) <= limit):
            assert closes_too_much(data)  # the decoder stops there: what follows may count

    @pytest.mark.parametrize(
        "text",
        [b"[" * 500 + b"]" * 500, b"[" + b"[],[]," * 500 + b"0]", b'["[",' * 500, b'"\\"' * 500],
    )
    def test_costs_the_same_passes_whatever_the_limit(self, text):
        # It was one pass for each level: a 2 MB reply of brackets cost a client 12 s.
        passes = {limit: c_calls(lambda limit=limit: depth_within(text, limit)) for limit in LIMITS}
        assert set(passes.values()) == {passes[LIMITS[0]]}
        assert 0 < passes[LIMITS[0]] < 20

    def test_of_a_long_string_takes_no_more_memory_than_a_few_copies(self):
        # A pattern with alternatives kept 119 bytes for each byte of a string.
        text = b'["' + b"a" * 1_000_000 + b'"' + b",[]" * 100 + b"]"
        tracemalloc.start()
        try:
            assert depth_within(text, 64)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 10 * len(text)

    def test_brackets_in_strings_do_not_count(self):
        assert depth_within(json.dumps({"a": '[{"' * 1000 + "\\"}).encode(), 1)


def plain(data):
    return is_plain(data, data.split(b"\n")[:-1], 4)


class TestPlain:
    @pytest.mark.parametrize(
        "data",
        [
            b'{"a":"\xff"}\n',
            b'{"a":"\xed\xa0\x80"}\n',
            b'{"a":[[[[]]]]}\n',
            b'{"a":1}\n{"a":[[[[]]]]}\n',
        ],
    )
    def test_is_not_what_needs_a_closer_look(self, data):
        assert not plain(data)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b'{"a":1}\n',
            b'{"a":1}\n{"a":{"b":[]}}\n',
            '{"a":"é"}\n'.encode(),
            b'{"a":"[[[[[["}\n',
            b'{"a":1}{"a":2}\n{"a":\n3}\n',  # the decoder finds these
        ],
    )
    def test_is_shallow_utf8(self, data):
        assert plain(data)

    @given(st.binary())
    def test_utf8_is_what_python_takes_for_it(self, data):
        try:
            data.decode()
        except UnicodeDecodeError:
            assert not is_utf8(data)
        else:
            assert is_utf8(data)


class TestEncoding:
    @given(json_values(), st.none() | st.integers(-(2**63), 2**63 - 1) | st.text())
    def test_a_reply_holds_no_newline(self, result, request_id):
        line = encode_reply(Success(result, request_id), None)
        assert b"\n" not in line
        assert json.loads(line)["code"] == 0

    @given(json_values(), st.text())
    def test_a_failure_holds_no_newline(self, data, message):
        line = encode_reply(Failure(1000, message, 7, data), None)
        assert b"\n" not in line

    @given(json_values())
    def test_a_request_holds_one_newline_its_last_byte(self, params):
        line = encode_request(Outgoing(1, 2, None, params))
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")

    def test_a_raw_value_with_a_newline_is_refused(self):
        raw = msgspec.Raw(b'1}\n{"code":0')
        with pytest.raises(ValueError, match="newline"):
            encode_reply(Success({"a": raw}), None)
        with pytest.raises(ValueError, match="newline"):
            encode_request(Outgoing(1, 2, None, {"a": raw}))

    def test_a_reply_of_exactly_the_limit_is_taken(self):
        line = encode_reply(Success("x"), None)
        assert encode_reply(Success("x"), len(line)) == line
        with pytest.raises(ValueError, match="at most"):
            encode_reply(Success("x"), len(line) - 1)

    def test_a_result_of_null_is_there(self):
        assert encode_reply(Success(None, 3), None) == b'{"code":0,"result":null,"id":3}'

    def test_params_that_refer_to_themselves_are_refused(self):
        params: dict[str, object] = {}
        params["a"] = params
        with pytest.raises(ValueError, match="params"):
            encode_request(Outgoing(1, 2, None, params))


class Here:
    address = "10.0.0.1:4000"


class TestRequest:
    def test_knows_where_it_came_from(self):
        request = Request(timeout=1500)
        request._source = Source(Here(), b"line\r\n", 5.0)
        assert request.raw_body == request.rawBody == b"line"
        assert request.deadline == 6.5
        assert request.remaining() == 0.0
        assert request.address == "10.0.0.1:4000"

    def test_without_a_timeout_has_no_deadline(self):
        assert Request().deadline is None

    def test_does_not_show_its_params(self):
        assert "secret" not in repr(Request(params={"password": "secret"}, id=3))
