"""From lines to requests: one line, several, and lines that are wrong."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gtcp
from gtcp.protocol.messages import Request
from gtcp.server.commands.table import Rejection, Table


class Greet(msgspec.Struct):
    content: str
    times: int = 1


def twice(request: gtcp.Request[dict[str, int]]) -> int:
    return request.params["n"] * 2


known = st.sampled_from([1, 2, 3, 0, "1", "02", 4711, -1, 2**63, True, None, "x"])
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.floats()
objects = st.fixed_dictionaries(
    {},
    optional={
        "cmdid": known,
        "params": st.dictionaries(st.sampled_from(["content", "n", "op"]), scalars) | scalars,
        "id": scalars,
        "timeout": st.integers(-1, 2**60) | scalars,
        "timestamp": scalars,
        "oneway": st.booleans() | scalars,
        "meta": st.dictionaries(st.text(), st.text()) | scalars,
        "": scalars,
        "other": st.lists(st.dictionaries(st.text(), scalars)),
    },
)
request_lines = objects.map(lambda each: json.dumps(each).encode() + b"\n")
odd_lines = st.binary(max_size=40).map(lambda data: data + b"\n")
ends = st.sampled_from([b"\n", b"\r\n"])


def table():
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: None)
    commands.handler(2)(twice)

    @commands.handler(3)
    def greet(request: gtcp.Request[Greet]): ...

    return commands.table(8)


TABLE = table()


class Somewhere:
    address = ""
    peer = gtcp.Peer("")


def read(data, table=TABLE):
    return table.read(data, Somewhere(), 1.0)


def read_one(data):
    return TABLE.read_one(data, Somewhere(), 1.0)


def shown(items):
    """Return a request as something that can be compared."""
    return [
        (each.reply.code, each.id, each.fatal, each.oneway)
        if isinstance(each, Rejection)
        else (each.cmdid, each.params, each.id, each.timeout, each.oneway, each.meta)
        for each in items
    ]


class TestTable:
    @given(st.lists(request_lines | odd_lines, min_size=1, max_size=5))
    def test_any_bytes_are_read(self, lines):
        items = read(b"".join(lines))
        assert items
        for item, line in zip(items, b"".join(lines).split(b"\n"), strict=False):
            assert item._source.line.removesuffix(b"\n") == line
        fatal = [each for each in items if isinstance(each, Rejection) and each.fatal]
        assert fatal in ([], [items[-1]])

    @given(st.lists(request_lines | odd_lines, min_size=1, max_size=5))
    def test_lines_read_together_are_read_as_they_are_one_by_one(self, lines):
        data = b"".join(lines)
        together = shown(read(data))
        alone = []
        for line in data.split(b"\n")[:-1]:
            alone += shown(read(line + b"\n"))
            if alone[-1][0] == 400:
                break
        assert repr(together) == repr(alone)

    @given(request_lines, ends)
    def test_the_slow_path_reads_what_the_fast_path_reads(self, line, end):
        fast = read(line)
        if isinstance(fast[0], Request):
            slow = read(b'{"cmdid":"0"}\n' + line.removesuffix(b"\n") + end)
            assert shown(slow)[1:] == shown(fast)

    @given(
        request_lines | odd_lines | st.lists(request_lines, min_size=1, max_size=2).map(b"".join)
    )
    def test_the_fast_path_of_one_line_reads_what_the_other_reads_or_leaves_it(self, data):
        request = read_one(data)
        if request is not None:
            together = read(data + data)
            assert shown([request]) == shown(together[:1])

    @pytest.mark.parametrize(
        "data",
        [
            *(b"", b"\n", b'{"cmdid":1}', b'{"cmdid":1}\n{', b'{"cmdid":1}\n{"cmdid":1}\n'),
            b'{"cmdid":1,"params":' + b'{"a":' * 8 + b"1" + b"}" * 9 + b"\n",  # too deep
            b'{"cmdid":1,"x":"\xff"}\n',  # not UTF-8
        ],
    )
    def test_the_fast_path_takes_one_plain_request_only(self, data):
        assert read_one(data) is None
        assert read_one(b'{"cmdid":1}\n') is not None

    def test_has_only_gtcps_own_without_commands(self):
        items = read(b'{"cmdid":0}\n', Table([]))
        assert items[0].params.op == "ping"

    def test_describes_its_commands_once(self):
        assert TABLE.describe() is TABLE.describe()
        rows = msgspec.json.decode(TABLE.describe())
        assert [each["cmdid"] for each in rows] == [1, 2, 3]
