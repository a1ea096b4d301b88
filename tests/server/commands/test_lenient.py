"""Lines that other JSON encoders write, and what is said about lines that are not accepted."""

from __future__ import annotations

import json
from time import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gtcp
from gtcp.protocol.messages import Request
from gtcp.server.commands.table import Rejection, Table


class Greet(msgspec.Struct, frozen=True):
    content: str = "nothing"


class GreetRequest(gtcp.Request):
    params: Greet = Greet("the default of the request")


UNTYPED, TYPED, OPTIONAL, ANY, SUBCLASS, INTEGER = 1, 2, 3, 4, 5, 6


def table() -> Table:
    commands = gtcp.Commands()

    @commands.handler(UNTYPED)
    def untyped(request): ...

    @commands.handler(TYPED)
    def typed(request: gtcp.Request[Greet]): ...

    @commands.handler(OPTIONAL)
    def optional(request: gtcp.Request[Greet | None]): ...

    @commands.handler(ANY)
    def anything(request: gtcp.Request[Any]): ...

    @commands.handler(SUBCLASS)
    def subclass(request: GreetRequest): ...

    @commands.handler(INTEGER)
    def integer(request: gtcp.Request[int]): ...

    return commands.table(8)


TABLE = table()


class Somewhere:
    address = ""
    peer = gtcp.Peer("")


def read(line: bytes) -> Request[Any] | Rejection:
    (item,) = TABLE.read(line + b"\n", Somewhere(), 1.0)
    return item


def request_of(**fields: Any) -> Request[Any]:
    item = read(json.dumps(fields).encode())
    assert isinstance(item, Request), item.reply
    return item


def refused(line: bytes) -> tuple[int, str]:
    item = read(line)
    assert isinstance(item, Rejection)
    return item.reply.code, item.reply.message


OPTIONAL_KEYS = ("params", "timestamp", "id", "timeout", "oneway", "meta")
ALL_NULL = dict.fromkeys(OPTIONAL_KEYS)


@pytest.mark.parametrize("cmdid", [UNTYPED, TYPED, SUBCLASS, "1", "2", "5", 1.0, 2.0, 5.0])
@pytest.mark.parametrize("keys", [*((key,) for key in OPTIONAL_KEYS), OPTIONAL_KEYS])
def test_null_is_the_same_as_absence(cmdid, keys):
    with_null, without = request_of(cmdid=cmdid, **dict.fromkeys(keys)), request_of(cmdid=cmdid)
    for name in ("cmdid", "params", "id", "timeout", "oneway", "meta"):
        assert repr(getattr(with_null, name)) == repr(getattr(without, name))
    assert with_null.oneway is False
    assert abs(with_null.timestamp - without.timestamp) <= 1


@pytest.mark.parametrize("cmdid", [OPTIONAL, ANY, "3", "4", 3.0, 4.0])
def test_params_of_null_are_none_where_the_type_accepts_it(cmdid):
    assert request_of(**{**ALL_NULL, "cmdid": cmdid}).params is None


@pytest.mark.parametrize("cmdid", [SUBCLASS, "5", 5.0])
def test_params_that_are_absent_have_the_default_of_the_request_however_cmdid_is_written(cmdid):
    assert request_of(cmdid=cmdid).params == Greet("the default of the request")


def test_params_of_null_do_not_fit_a_type_without_a_default():
    item = read(b'{"cmdid":6,"params":null,"id":7}')
    assert isinstance(item, Rejection)
    assert (item.reply.code, item.id, item.fatal) == (422, 7, False)


@pytest.mark.parametrize("cmdid", [UNTYPED, "1", 1.0])
@pytest.mark.parametrize(
    ("sent", "timestamp"),
    [
        (1700000000, 1700000000),
        (1700000000.75, 1700000000),
        ("1700000000", 1700000000),
        ("1700000000.75", 1700000000),
        (-5, -5),
        ("-5", -5),
        (1.7e9, 1700000000),
    ],
)
def test_a_timestamp_is_an_int_however_it_was_sent(cmdid, sent, timestamp):
    request = request_of(cmdid=cmdid, timestamp=sent)
    assert type(request.timestamp) is int
    assert request.timestamp == timestamp
    assert request.timestamp == timestamp, "it is the same the second time"


@pytest.mark.parametrize("sent", [None, 0, 0.0, "0", "0.0"])
def test_a_timestamp_of_zero_is_when_the_request_arrived(sent):
    (item,) = TABLE.read(
        json.dumps({"cmdid": 1, "timestamp": sent}).encode() + b"\n", Somewhere(), 1.0
    )
    item._source = None
    assert abs(item.timestamp - time()) < 5


@pytest.mark.parametrize("cmdid", [b"1", b'"1"', b'"01"', b"1.0", b"1e0", b"10e-1"])
def test_a_cmdid_may_be_an_integral_float_or_digits(cmdid):
    assert read(b'{"cmdid":%s}' % cmdid).cmdid == 1


@pytest.mark.parametrize("cmdid", [b"77.0", b"1e30", b'"77"'])
def test_a_cmdid_in_another_form_may_be_unknown(cmdid):
    item = read(b'{"cmdid":%s,"id":1,"oneway":null}' % cmdid)
    assert isinstance(item, Rejection)
    assert (item.reply.code, item.fatal, item.oneway) == (404, False, False)


def test_unknown_keys_are_ignored():
    line = b'{"cmdid":1,"priority":3,"ttl":null,"hops":[{"a":NULL}]}'.replace(b"NULL", b"null")
    assert isinstance(read(line), Request)


CMDID = "cmdid: expected an integer, or digits in a string"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "an empty line"),
        (b"  \t", "an empty line"),
        (b"\r", "an empty line"),
        (b"{", "the line is cut off"),
        (b'{"cmdid":1', "the line is cut off"),
        (b'{"cmdid":1,"params":{"a":"x', "the line is cut off"),
        (b'{"cmdid":1,"params":{"a":"\\ud8', "the line is cut off"),
        (b'{"cmdid":1,"params":{"a":"\\ud83d\\ude', "the line is cut off"),
        (b'{"cmdid":1,"params":{"a":"\\ud83d', "the line is cut off"),
        (b'{"cmdid":1,"params":{"a":"\\\\ud83d"', "the line is cut off"),
        (b'{"cmdid":1,"params":{"a":NaN}}', "NaN is not JSON"),
        (b'{"cmdid":1,"params":{"a":[1, NaN]}}', "NaN is not JSON"),
        (b'{"cmdid":1,"params":{"a":Infinity}}', "Infinity is not JSON"),
        (b'{"cmdid":1,"params":{"a":-Infinity}}', "Infinity is not JSON"),
        (b'{"cmdid":NaN}', "NaN is not JSON"),
        (b'{"cmdid":1,"id":NaN}', "NaN is not JSON"),
        (b'{"cmdid":1,"params":None}', "None is not JSON"),
        (b'{"cmdid":1,"params":{"a":True}}', "True is not JSON"),
        (b'{"cmdid":1,"params":{"a":undefined}}', "undefined is not JSON"),
        (b'{"cmdid":1,"params":{"a":"\\ud800"}}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"params":{"a":"\\ud800xxxxxxxx"}}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"params":{"a":"\\udc00"}}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"params":{"a":"\\ud800\\x"}}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"params":{"a":NaN,"b":"\\ud800"}}', "NaN is not JSON"),
        (b'{"cmdid":1,"params":{"a":"\\ud800\\u0041"}}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"params":{"a":"\\ud800\\ud800"}}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"id":"\\ud800"}', "a lone surrogate is not UTF-8"),
        (b'{"cmdid":1,"a":"\\\\\\ud800"}', "a lone surrogate is not UTF-8"),
        (b"[1]", "not an object, got array"),
        (b"7", "not an object, got int"),
        (b"null", "not an object, got null"),
        (b"{}", "cmdid is missing"),
        (b'{"params":{}}', "cmdid is missing"),
        (b'{"cmdid":null}', CMDID),
        (b'{"cmdid":true}', CMDID),
        (b'{"cmdid":1.5}', CMDID),
        (b'{"cmdid":"1.0"}', CMDID),
        (b'{"cmdid":"one"}', CMDID),
        (b'{"cmdid":[]}', CMDID),
        (b'{"cmdid":1,"timestamp":"now"}', "timestamp: expected seconds as a number, or digits"),
        (b'{"cmdid":1,"timestamp":true}', "timestamp: expected seconds as a number, or digits"),
        (b'{"cmdid":1,"timestamp":1e300}', "timestamp: expected seconds as a number, or digits"),
        (b'{"cmdid":1,"timestamp":1e999}', "timestamp: expected seconds as a number, or digits"),
        (b'{"cmdid":1,"timestamp":"1\xc2\xb2"}', "timestamp: expected seconds as a number"),
        (b'{"cmdid":1,"timestamp":"5\\n"}', "timestamp: expected seconds as a number"),
        (b'{"cmdid":1,"timeout":-1}', "timeout: expected milliseconds as an integer of 0 or more"),
        (b'{"cmdid":1,"timeout":1.5}', "timeout: expected milliseconds as an integer"),
        (b'{"cmdid":1,"id":[]}', "id: expected an integer of 64 bits, or a string"),
        (b'{"cmdid":1,"oneway":1}', "oneway: expected true or false"),
        (b'{"cmdid":1,"meta":{"a":1}}', "meta: expected an object of strings"),
        (b'\xef\xbb\xbf{"cmdid":1}', "a byte order mark is not JSON"),
        (b"{'cmdid':1}", "JSON is malformed: object keys must be strings (byte 1)"),
        (b'{"cmdid":1}}', "JSON is malformed: trailing characters (byte 12)"),
    ],
)
def test_the_message_names_the_real_problem(line, message):
    code, told = refused(line)
    assert code == 400
    assert told.startswith(f"not a request: {message}")


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(json_values, st.booleans(), st.data())
def test_every_beginning_of_a_line_is_cut_off(params, escape, data):
    """Also where it ends within an escape or a number."""
    line = json.dumps({"cmdid": 1, "params": {"a": params}}, ensure_ascii=escape)
    cut = line[: data.draw(st.integers(1, len(line) - 1))].encode()
    told = refused(cut)[1]
    assert told in ("not a request: the line is cut off", "the request nests deeper than 8")


@given(st.sampled_from(["\ud800", "\udbff", "\udc00", "\udfff"]), st.text(max_size=12), st.text())
def test_a_lone_surrogate_is_named_wherever_it_is(lone, before, after):
    text = before + lone + after
    line = json.dumps({"cmdid": 1, "params": {"a": text}})
    assert refused(line.encode()) == (400, "not a request: a lone surrogate is not UTF-8")


@given(st.sampled_from([float("nan"), float("inf"), float("-inf")]), json_values, st.booleans())
def test_nan_and_infinity_are_named_wherever_they_are(number, value, first):
    values = [number, value] if first else [value, number]
    line = json.dumps({"cmdid": 1, "params": {"a": values}})
    code, told = refused(line.encode())
    assert code == 400
    assert told.removeprefix("not a request: ") in (
        "NaN is not JSON", "Infinity is not JSON", "the request nests deeper than 8",
    )  # fmt: skip


class TestHead:
    """Return the keys that are read of a request that will be refused."""

    @pytest.mark.parametrize("cmdid", [b"1", b'"1"', b"1.0"])
    @pytest.mark.parametrize("rest", [b"", b',"oneway":null,"meta":null,"timestamp":"5"'])
    def test_is_read_in_every_form_that_is_accepted(self, cmdid, rest):
        head = TABLE.read_head(b'{"cmdid":%s,"id":7,"timeout":5%s}' % (cmdid, rest))
        assert (head.cmdid, head.id, head.timeout, head.oneway) == (1, 7, 5, False)

    @pytest.mark.parametrize(
        "line", [b"", b"{}", b'{"cmdid":1.5}', b'{"cmdid":"x"}', b'{"cmdid":1,"oneway":1}']
    )
    def test_is_none_where_there_is_no_request(self, line):
        assert TABLE.read_head(line) is None

    @given(json_values, json_values, json_values)
    def test_is_none_where_the_line_is_refused_as_no_request(self, cmdid, oneway, timestamp):
        fields = {"cmdid": cmdid, "oneway": oneway, "timestamp": timestamp}
        line = json.dumps(fields).encode()
        item = read(line)
        fatal = isinstance(item, Rejection) and item.fatal
        assert (TABLE.read_head(line) is None) == fatal
