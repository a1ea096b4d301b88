"""A connection over a real socket: bad input, replies, limits, and its end."""

import datetime
import json
import os
import re
import socket
import sys
from contextlib import ExitStack
from itertools import pairwise
from time import monotonic

import gevent
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gtcp
from gtcp.transport.address import of_peer
from tests.helpers import PATIENCE, Gate, Line, eventually, process, serving


def basic_commands():
    commands = gtcp.Commands()

    @commands.handler(1)
    def echo(request):
        return request.params

    @commands.handler(2)
    def nap(request):
        gevent.sleep(0.005)
        return request.params

    return commands


def gated():
    """A command 1 that waits at a gate, and the gate."""
    commands, gate = gtcp.Commands(), Gate()
    commands.handler(1)(lambda request: gate.wait())
    return commands, gate


@pytest.fixture(scope="module")
def echoing():
    with serving(basic_commands(), line_timeout=0.6) as running:
        yield running


def echo(number, **more):
    return {"cmdid": 1, "params": {"n": number}, **more}


def assert_alive(running):
    with running.line() as line:
        assert line.ask(echo(1))["result"] == {"n": 1}


FATAL = {
    "not JSON": b"hello\n",
    "half an object": b'{"cmdid":1\n',
    "an array": b"[1,2]\n",
    "a number": b"42\n",
    "null": b"null\n",
    "a string": b'"x"\n',
    "not UTF-8": b'{"cmdid":1,"params":{"a":"\xff\xfe"}}\n',
    "not UTF-8 in an unknown key": b'{"cmdid":1,"other":{"a\xff":"\xc0\x80"}}\n',
    "a surrogate as UTF-8": b'{"cmdid":1,"other":"\xed\xa0\x80"}\n',
    "an escaped lone surrogate": b'{"cmdid":1,"params":{"a":"\\ud800"}}\n',
    "an id that is a lone surrogate": b'{"cmdid":1,"id":"\\udc00"}\n',
    "a BOM": b'\xef\xbb\xbf{"cmdid":1}\n',
    "NUL bytes": b"\x00\x00\x00\x00\n",
    "a NUL in a string": b'{"cmdid":1,"params":{"a":"\x00"}}\n',
    "an object after a NUL": b'\x00{"cmdid":1}\n',
    "arrays nested 100,000 deep": b'{"cmdid":1,"params":{"a":' + b"[" * 100_000 + b"\n",
    "closed arrays nested deep": b'{"cmdid":1,"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
    "closed objects nested deep": b'{"cmdid":1,"a":' + b'{"a":' * 70 + b"1" + b"}" * 71 + b"\n",
    "nested one deeper than allowed": b'{"cmdid":1,"a":' + b"[" * 64 + b"]" * 64 + b"}\n",
    "an empty line": b"\n",
    "an empty line with CR": b"\r\n",
    "spaces": b"   \n",
    "no cmdid": b'{"params":{}}\n',
    "cmdid null": b'{"cmdid":null}\n',
    "cmdid 1e400": b'{"cmdid":1e400}\n',
    "cmdid 1.5": b'{"cmdid":1.5}\n',
    "cmdid true": b'{"cmdid":true}\n',
    "cmdid of 5,000 digits": b'{"cmdid":' + b"9" * 5000 + b"}\n",
    "cmdid in words": b'{"cmdid":"one"}\n',
    "cmdid negative in a string": b'{"cmdid":"-1"}\n',
    "cmdid in other digits": '{"cmdid":"\u0661"}\n'.encode(),
    "cmdid an object": b'{"cmdid":{}}\n',
    "id a float": b'{"cmdid":1,"id":1.5}\n',
    "id an object": b'{"cmdid":1,"id":{}}\n',
    "id too large": b'{"cmdid":1,"id":9223372036854775808}\n',
    "timeout negative": b'{"cmdid":1,"timeout":-1}\n',
    "timeout a float": b'{"cmdid":1,"timeout":0.5}\n',
    "meta not of strings": b'{"cmdid":1,"meta":{"a":1}}\n',
    "oneway a number": b'{"cmdid":1,"oneway":1}\n',
    "two objects on one line": b'{"cmdid":1}{"cmdid":1}\n',
    "two objects on one line with a space": b'{"cmdid":1} {"cmdid":1}\n',
    "one object over two lines": b'{"cmdid":1,\n"params":{}}\n',
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a comment": b'{"cmdid":1}//\n',
    "NaN": b'{"cmdid":1,"params":{"a":NaN}}\n',
}


class TestBadFraming:
    @pytest.mark.parametrize("data", FATAL.values(), ids=FATAL.keys())
    def test_gets_one_400_behind_the_replies_to_what_stood_before_it(self, echoing, data):
        with echoing.line() as line:
            line.send(data)
            (reply,) = line.rest()
        assert reply["code"] == 400
        assert "id" not in reply
        with echoing.line() as line:
            line.send(echo(1), echo(2, id=7), data, echo(3), echo(4, id=8))
            first, second, last = line.rest()
        assert first["result"] == {"n": 1}
        assert (second["result"], second["id"]) == ({"n": 2}, 7)
        assert last["code"] == 400

    def test_what_waits_for_its_turn_is_answered_first(self, echoing):
        with echoing.line() as line:
            naps = [{"cmdid": 2, "params": {"n": n}} for n in range(3)]
            line.send(*naps, b"garbage\n", echo(9))
            replies = line.rest()
        assert [each.get("result") for each in replies[:3]] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert [each["code"] for each in replies[3:]] == [400]

    def test_nothing_that_comes_later_runs_even_while_calls_are_in_flight(self):
        commands, gate, ran = gtcp.Commands(), Gate(), []
        commands.handler(1)(lambda request: gate.wait())
        commands.handler(2)(lambda request: ran.append(request.id))
        with serving(commands) as running, running.line() as line:
            line.send({"cmdid": 1})
            eventually(lambda: gate.waiting)
            line.send(b"garbage\n")
            # The connection is read all the time: this line has come once it is counted on.
            eventually(lambda: next(iter(running.server.connections)).leaving)
            line.send({"cmdid": 2, "id": 5})
            line.finish()
            gate.open()
            codes = [each["code"] for each in line.rest()]
        assert codes == [0, 400]
        assert ran == []

    def test_a_line_cut_by_fin_is_never_executed(self):
        ran = []
        commands = gtcp.Commands()
        commands.handler(1)(lambda request: ran.append(1))
        with serving(commands) as running, running.line() as line:
            line.send(b'{"cmdid":1}')
            line.finish()
            assert line.at_end()
            eventually(lambda: not running.server.connections)
        assert ran == []

    def test_a_line_too_long_gets_413_and_the_rest_is_not_kept(self, echoing):
        size = 50_000_000
        with echoing.line() as line:
            line.send({"cmdid": 2, "params": {}}, echo(1), b'{"cmdid":1,"params":{"a":"')
            for _ in range(size // 1_000_000):
                line.send(b"x" * 1_000_000)
            *before, reply = line.rest()
        assert [each["code"] for each in before] == [0, 0]
        assert reply["code"] == 413
        assert "1048576" in reply["message"]
        assert_alive(echoing)

    def test_a_line_of_exactly_the_limit_is_taken(self):
        with serving(basic_commands(), max_line_bytes=100) as running, running.line() as line:
            text = json.dumps(echo(1)).encode()
            assert line.ask(text + b" " * (100 - len(text)) + b"\n")["code"] == 0
            line.send(text + b" " * (101 - len(text)) + b"\n")
            assert [each["code"] for each in line.rest()] == [413]

    def test_a_line_that_is_not_finished_gets_400(self, echoing):
        with echoing.line() as line:
            line.send(echo(1), b'{"cmdid":')
            replies = line.rest()
        assert [each["code"] for each in replies] == [0, 400]
        assert "in time" in replies[1]["message"]

    def test_a_line_that_the_server_does_not_read_is_not_late(self):
        commands, gate = gated()
        held_back = serving(commands, max_in_flight_per_connection=1, line_timeout=0.1)
        with held_back as running, running.line() as line:
            line.send(*[{"cmdid": 1}] * 3, b'{"cmdid":')
            eventually(lambda: gate.waiting)
            (connection,) = running.server.connections
            for seconds in range(3):
                running.run(connection.sweep, monotonic() + seconds)
            gate.open()
            line.send(b"0}\n")
            assert [each["code"] for each in line.replies(4)] == [0, 0, 0, 0]

    def test_does_not_end_a_process_that_allows_deep_recursion(self, tmp_path):
        source = """
import sys, gevent, gtcp
sys.setrecursionlimit(1_000_000)
server = gtcp.Server(gtcp.Settings(port=0, max_depth=500))
server.handler(1)(lambda request: request.params)
server.handler(2)(lambda request: [nest(100_000)])
def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value
server.start()
print(server.addresses[0], flush=True)
gevent.sleep(1000)
"""
        deep = [b"[" * 100_000, b'{"a":' * 100_000, b'[{"a":' * 50_000]
        with process(source, tmp_path) as (child, address):
            for each in deep:
                with Line(address) as line:
                    line.send(b'{"cmdid":1,"params":{"a":' + each + b"\n")
                    assert [reply["code"] for reply in line.rest()] == [400]
            with Line(address) as line:
                alternating = b'{"a":[' * 249 + b"]}" * 249
                assert line.ask(b'{"cmdid":1,"params":{"a":' + alternating + b"}}\n")["code"] == 0
            assert child.poll() is None

    @given(st.binary(max_size=200))
    @pytest.mark.filterwarnings("ignore:Do not use the .random. module")  # the server does
    @settings(max_examples=60)
    def test_any_bytes_leave_the_server_serving(self, echoing, data):
        with echoing.line() as line:
            line.send(data + b"\n")
            line.finish()
            replies = line.rest()
        assert all(set(each) <= {"code", "message", "result", "id", "data"} for each in replies)
        assert_alive(echoing)


REFUSED = {
    "unknown cmdid": (b'{"cmdid":4711,"id":3}\n', 404),
    "negative cmdid": (b'{"cmdid":-1,"id":3}\n', 404),
    "cmdid of 4,000 digits": (b'{"cmdid":' + b"9" * 4000 + b',"id":3}\n', 404),
    "params an array": (b'{"cmdid":1,"params":[],"id":3}\n', 422),
    "params a string": (b'{"cmdid":1,"params":"x","id":3}\n', 422),
    "params with an integer of 5,000 digits": (
        b'{"cmdid":1,"id":3,"params":{"a":' + b"9" * 5000 + b"}}\n",
        422,
    ),
    "unknown op": (b'{"cmdid":0,"params":{"op":"fly"},"id":3}\n', 422),
    "op a number": (b'{"cmdid":0,"params":{"op":1},"id":3}\n', 422),
}


class TestRefusedRequest:
    @pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED.keys())
    def test_gets_its_code_and_the_connection_lives_on(self, echoing, data, code):
        with echoing.line() as line:
            reply = line.ask(data)
            assert (reply["code"], reply["id"]) == (code, 3)
            assert line.ask(data.replace(b',"id":3', b""))["code"] == code
            assert line.ask(echo(1))["result"] == {"n": 1}

    def test_keeps_its_turn_without_an_id_and_gets_no_reply_when_none_is_wanted(self, echoing):
        with echoing.line() as line:
            line.send({"cmdid": 2}, {"cmdid": 4711}, {"cmdid": 1, "params": []}, echo(1))
            line.send({"cmdid": 4711, "oneway": True}, {"cmdid": 1, "params": 3, "oneway": True})
            line.send(echo(1))
            assert [each["code"] for each in line.replies(5)] == [0, 404, 422, 0, 0]


class TestLineEnds:
    def test_and_keys_may_be_odd(self, echoing):
        with echoing.line() as line:
            line.send(b'{"cmdid":1,"params":{"n":1}}\r\n{"cmdid":1,"params":{"n":2}}\r\n')
            line.send(b'{"cmdid":"1","params":{"n":3}}\n{"cmdid":"0001","params":{"n":4}}\n')
            line.send({"": 5, "_batch": 1, "_command": 2, "é\n": [1], **echo(5)})
            assert [each["result"]["n"] for each in line.replies(5)] == [1, 2, 3, 4, 5]

    def test_bytes_may_trickle_in(self, echoing):
        with echoing.line() as line:
            for byte in json.dumps(echo(1)).encode() + b"\n":
                line.send(bytes([byte]))
            assert line.reply()["result"] == {"n": 1}


IDS = [
    0,
    1,
    -1,
    2**63 - 1,
    -(2**63),
    "",
    "a\nb",
    "a\r\n",
    "\x00",
    "é😀",
    '"\\',
    "\u2028",
    "x" * 1000,
]


class TestIds:
    @pytest.mark.parametrize("request_id", IDS, ids=ascii)
    def test_are_echoed_as_sent(self, echoing, request_id):
        with echoing.line() as line:
            for cmdid in (1, 2, 4711):
                reply = line.ask({"cmdid": cmdid, "id": request_id})
                assert reply["id"] == request_id
                assert type(reply["id"]) is type(request_id)
            assert line.ask(echo(1)) == {"code": 0, "result": {"n": 1}}

    def test_escaped_pairs_of_surrogates_are_one_character(self, echoing):
        with echoing.line() as line:
            assert line.ask(b'{"cmdid":1,"id":"\\ud83d\\ude00"}\n')["id"] == "😀"


lines = st.sampled_from(
    [
        echo(1),
        echo(2, id=1),
        echo(3, id="two"),
        echo(4, oneway=True),
        {"cmdid": 0},
        {"cmdid": 4711},
        {"cmdid": 4711, "id": 5},
        {"cmdid": 1, "params": []},
        {"cmdid": "1", "params": {"n": 5}, "id": 6},
        {"cmdid": 1, "timeout": 0},
    ]
)


class TestSplitOfTheStream:
    @given(
        st.lists(lines, max_size=8),
        st.lists(st.integers(0, 400), max_size=5),
        st.sampled_from([b"\n", b"\r\n"]),
        st.sampled_from([b"", b"garbage\n", b"\n", b"\xff\n"]),
    )
    @pytest.mark.filterwarnings("ignore:Do not use the .random. module")  # the server does
    @settings(max_examples=60)
    def test_does_not_change_the_replies(self, echoing, requests, cuts, end, last):
        whole = b"".join(json.dumps(each).encode() + end for each in requests) + last
        edges = [0, *sorted(min(each, len(whole)) for each in cuts), len(whole)]
        with echoing.line() as at_once, echoing.line() as in_pieces:
            at_once.send(whole)
            at_once.finish()
            for start, stop in pairwise(edges):
                in_pieces.send(whole[start:stop])
            in_pieces.finish()
            assert at_once.rest() == in_pieces.rest()


def looping():
    value = []
    value.append(value)
    return value


class Odd:
    pass


def raising(exception):
    def handler(request):
        raise exception

    return handler


def returning(value):
    return lambda request: value


FAILING = {
    "SystemExit": raising(SystemExit(3)),
    "KeyboardInterrupt": raising(KeyboardInterrupt()),
    "GreenletExit": raising(gevent.GreenletExit()),
    "gevent.Timeout": raising(gevent.Timeout(1)),
    "MemoryError": raising(MemoryError()),
    "RecursionError": raising(RecursionError()),
    "Cancelled": raising(gtcp.Cancelled("x")),
    "StopIteration": raising(StopIteration()),
    "GeneratorExit": raising(GeneratorExit()),
    "an exception group": raising(BaseException("x")),
    "an exception that can't be shown": raising(type("Mute", (Exception,), {"__str__": None})()),
    "os._exit's friend": lambda request: sys.exit(1),
    "a 100 MB string": lambda request: "x" * 100_000_000,
    "a cyclic list": lambda request: looping(),
    "a Raw with a newline": returning(msgspec.Raw(b'1}\n{"code":0,"result":2')),
    "a Raw with a newline inside": returning({"a": [msgspec.Raw(b"[1,\n2]")]}),
    "not JSON": returning(Odd()),
    "a function": returning(print),
    "a lone surrogate": returning("\ud800"),
    "a lone surrogate as key": returning({"\ud800": 1}),
    "a complex": returning(1j),
    "a generator": lambda request: (each for each in range(3)),
    "a CommandError with a surrogate": raising(gtcp.CommandError(1000, "\ud800")),
    "a CommandError with a set of objects": raising(gtcp.CommandError(1000, "x", {Odd()})),
}

ANSWERING = {
    "a set": (returning({1}), {"code": 0, "result": [1]}),
    "NaN": (returning(float("nan")), {"code": 0, "result": None}),
    "an integer of 80 bits": (returning(2**80), {"code": 0, "result": 2**80}),
    "infinity": (returning([float("inf")]), {"code": 0, "result": [None]}),
    "None": (returning(None), {"code": 0, "result": None}),
    "newlines": (returning("a\nb\r\u2028"), {"code": 0, "result": "a\nb\r\u2028"}),
    "a Raw": (returning(msgspec.Raw(b'{"a":1}')), {"code": 0, "result": {"a": 1}}),
    "CommandError": (
        raising(gtcp.CommandError(1000, "no\nmoney", {"left": 0})),
        {"code": 1000, "message": "no\nmoney", "data": {"left": 0}},
    ),
    "CommandError with an exception as message": (
        raising(gtcp.CommandError(1000, ValueError("no"))),
        {"code": 1000, "message": "no"},
    ),
    "CommandError with None as message": (
        raising(gtcp.CommandError(1000, None)),
        {"code": 1000, "message": "None"},
    ),
}


def late(handler):
    """The same handler, after a wait."""

    def waiting(request):
        gevent.sleep(0)
        return handler(request)

    return waiting


@pytest.fixture(scope="module")
def odd_handlers():
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: request.params)
    numbers = {}
    handlers = {**FAILING, **{name: handler for name, (handler, _) in ANSWERING.items()}}
    for number, (name, handler) in enumerate(handlers.items()):
        numbers[name] = (100 + number, 1100 + number)
        commands.handler(100 + number)(handler)
        commands.handler(1100 + number)(late(handler))
    with serving(commands) as running:
        running.numbers = numbers
        yield running


@pytest.mark.parametrize("blocked", [0, 1], ids=["inline", "blocked"])
class TestOddHandler:
    def exchange(self, running, cmdid):
        """Its reply in four settings: alone or between others, with an id or without."""
        replies = []
        for more in ({}, {"id": 7}):
            with running.line() as line:
                replies.append(line.ask({"cmdid": cmdid, **more}))
                line.send(echo(1), {"cmdid": cmdid, **more}, echo(2), echo(3, id=9))
                four = line.replies(4)
                if not more:  # ids may overtake
                    assert four[0]["result"] == {"n": 1}
                odd = [
                    each
                    for each in four
                    if each.get("result") not in ({"n": 1}, {"n": 2}, {"n": 3})
                ]
                assert len(odd) == 1
                replies += odd
                assert line.ask(echo(4)) == {"code": 0, "result": {"n": 4}}
            for each in replies[-2:]:
                assert each.pop("id", None) == more.get("id")
        return replies

    @pytest.mark.parametrize("name", FAILING)
    def test_that_fails_gets_one_500_line(self, odd_handlers, blocked, name, caplog):
        replies = self.exchange(odd_handlers, odd_handlers.numbers[name][blocked])
        for reply in replies:
            assert reply["code"] == 500
            error_id = reply["data"]["error_id"]
            assert re.fullmatch("[0-9a-f]{12}", error_id)
            assert reply["message"] == f"the handler failed, error id {error_id}"
            eventually(lambda error_id=error_id: error_id in caplog.text)

    @pytest.mark.parametrize("name", ANSWERING)
    def test_that_answers_gets_its_line(self, odd_handlers, blocked, name):
        for reply in self.exchange(odd_handlers, odd_handlers.numbers[name][blocked]):
            assert reply == ANSWERING[name][1]


def test_failure_of_a_handler_is_logged_with_cmdid_and_peer(odd_handlers, caplog):
    cmdid = odd_handlers.numbers["SystemExit"][0]
    with odd_handlers.line() as line:
        line.ask({"cmdid": cmdid})
        peer = of_peer(line.sock.getsockname())
    (record,) = caplog.records
    assert f"cmdid {cmdid} " in record.getMessage()
    assert peer in record.getMessage()
    assert record.exc_info[0] is SystemExit


class Zone(datetime.tzinfo):
    def utcoffset(self, when):
        raise LookupError("no zone")


def test_result_whose_encoding_runs_code_that_fails_is_a_500(caplog):
    commands = basic_commands()
    commands.handler(5)(lambda request: datetime.datetime(2020, 1, 1, tzinfo=Zone()))
    with serving(commands) as running, running.line() as line:
        line.send({"cmdid": 5, "id": 1}, echo(1), {"cmdid": 5})
        assert sorted(each["code"] for each in line.replies(3)) == [0, 500, 500]
        assert line.ask(echo(1))["code"] == 0


class TestReplies:
    def test_too_long_becomes_a_500_and_the_next_goes_out(self):
        commands = basic_commands()
        commands.handler(3)(lambda request: "x" * request.params["n"])
        with serving(commands, max_reply_bytes=1000) as running, running.line() as line:
            line.send(*[{"cmdid": 3, "params": {"n": n}} for n in (10, 2000, 900, 980)])
            replies = line.replies(4)
        assert [each["code"] for each in replies] == [0, 500, 0, 500]
        assert [len(each.get("result", "")) for each in replies] == [10, 0, 900, 0]

    @pytest.mark.parametrize("with_id", [True, False])
    def test_are_not_changed_by_what_comes_later(self, with_id):
        commands, state = gtcp.Commands(), {"n": 0}

        @commands.handler(1)
        def count(request):
            state["n"] += 1
            return state

        with serving(commands) as running, running.line() as line:
            line.send(*[{"cmdid": 1, **({"id": n} if with_id else {})} for n in range(5)])
            assert [each["result"]["n"] for each in line.replies(5)] == [1, 2, 3, 4, 5]

    def test_none_are_sent_for_oneway_requests(self):
        commands, ran = basic_commands(), []
        commands.handler(3)(lambda request: ran.append(request.params["n"]))
        commands.handler(4)(raising(ValueError("x")))
        commands.handler(5)(late(raising(ValueError("x"))))
        with serving(commands) as running, running.line() as line:
            oneway = [{"cmdid": each, "params": {"n": 1}, "oneway": True} for each in (2, 3, 4, 5)]
            line.send(*oneway, echo(8), *[{**each, "id": 5} for each in oneway], echo(9))
            assert [each["result"]["n"] for each in line.replies(2)] == [8, 9]
            eventually(lambda: ran == [1, 1])


class TestAncestorsClient:
    """Written in 2015: sends a line, calls recv(1024)."""

    def test_one_by_one_over_one_connection(self, echoing):
        with echoing.line() as line:
            for number in range(200):
                request = {"cmdid": 1, "timestamp": 1437000000, "params": {"n": number}}
                line.sock.sendall((json.dumps(request) + "\n").encode())
                assert json.loads(line.sock.recv(1024)) == {"code": 0, "result": {"n": number}}

    def test_pipelined(self, echoing):
        for count, cmdids in ((5000, (1, 1)), (300, (1, 2))):  # the second one waits
            with echoing.line() as line:
                requests = [{"cmdid": cmdids[n % 2], "params": {"n": n}} for n in range(count)]
                line.send(*[{**each, "timestamp": 1437000000} for each in requests])
                assert [each["result"]["n"] for each in line.replies(count)] == list(range(count))


def memory_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024


PIPELINED = """
import gevent, gtcp
server = gtcp.Server(gtcp.Settings(port=0, write_timeout=1.0, max_in_flight_per_connection=50))
@server.handler(1)
def large(request):
    return "x" * 50_000
@server.handler(2)
def large_later(request):
    gevent.sleep(0.001)
    return "x" * 50_000
server.start()
print(server.addresses[0], flush=True)
gevent.sleep(1000)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
@pytest.mark.parametrize("more", [{}, {"id": 1}], ids=["without id", "with id"])
@pytest.mark.parametrize("cmdid", [1, 2], ids=["inline", "blocked"])
def test_peer_that_never_reads_costs_bounded_memory_and_is_closed(tmp_path, cmdid, more):
    program = process(PIPELINED, tmp_path)
    with program as (child, address), Line(address) as line, Line(address) as other:
        assert other.ask({"cmdid": 1})["code"] == 0
        before = memory_of(child.pid)
        line.sock.setblocking(False)
        request = json.dumps({"cmdid": cmdid, **more}).encode() + b"\n"
        most = 0

        def closed():
            nonlocal most
            most = max(most, memory_of(child.pid))
            try:
                line.sock.send(request * 1000)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        eventually(closed)
        assert other.ask({"cmdid": 1})["code"] == 0
        # All 64 KiB of requests that one recv takes would be more than 250 MB of replies.
        assert most - before < 150_000_000


class TestIdle:
    def test_connection_is_told_and_closed(self):
        with serving(basic_commands(), idle_timeout=0.3) as running, running.line() as line:
            assert line.ask(echo(1))["code"] == 0
            assert line.rest() == [{"code": 503, "message": "going away"}]
            eventually(lambda: not running.server.connections)

    def test_connections_that_came_together_do_not_go_together(self):
        server = serving(basic_commands(), idle_timeout=100.0)
        with server as running, ExitStack() as stack:
            for _ in range(50):
                assert stack.enter_context(running.line()).ask(echo(1))["code"] == 0

            def leaving(seconds):
                now = monotonic() + seconds
                for each in running.server.connections:
                    each.sweep(now)
                return sum(each.leaving for each in running.server.connections)

            gone = [running.run(leaving, seconds) for seconds in (89, 100, 111)]
            assert (gone[0], gone[2]) == (0, 50)
            assert 0 < gone[1] < 50

    def test_time_of_a_call_does_not_count(self):
        commands, gate = gated()
        with serving(commands, idle_timeout=0.8) as running, running.line() as line:
            line.send({"cmdid": 1, "id": 1})
            eventually(lambda: gate.waiting)
            (connection,) = running.server.connections
            running.run(setattr, connection, "active", connection.active - 100)  # long ago
            gate.open()
            assert line.reply()["id"] == 1
            assert line.ask({"cmdid": 0})["result"] == "pong"


class TestInFlight:
    @pytest.mark.parametrize(
        "limits", [{"max_in_flight": 3}, {"max_in_flight_per_connection": 3}], ids=str
    )
    def test_calls_beyond_the_limit_are_refused_at_once(self, limits):
        commands, gate = gated()
        with serving(commands, **limits) as running, running.line() as line:
            line.send(*[{"cmdid": 1, "id": n} for n in range(5)])
            refused = line.replies(2)
            assert [(each["id"], each["code"]) for each in refused] == [(3, 429), (4, 429)]
            assert refused[0]["data"] == {"retry_after": 1.0}
            gate.open()
            assert sorted(each["id"] for each in line.replies(3)) == [0, 1, 2]
            assert line.ask({"cmdid": 1, "id": 9})["code"] == 0

    def test_limit_of_one_connection_is_not_that_of_another(self):
        commands, gate = gated()
        server = serving(commands, max_in_flight_per_connection=1)
        with server as running, running.line() as line, running.line() as other:
            line.send({"cmdid": 1, "id": 1})
            other.send({"cmdid": 1, "id": 1})
            eventually(lambda: gate.waiting == 2)
            gate.open()
            assert line.reply()["code"] == other.reply()["code"] == 0

    def test_requests_without_id_are_held_back_not_refused(self):
        server = serving(basic_commands(), max_in_flight_per_connection=2)
        with server as running, running.line() as line:
            line.send(*[{"cmdid": 2, "params": {"n": n}} for n in range(50)])
            assert [each["result"]["n"] for each in line.replies(50)] == list(range(50))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "limits",
        [{"max_in_flight_per_connection": 10}, {"max_line_bytes": 50_000}],
        ids=["many", "large ones"],
    )
    def test_while_these_wait_for_their_turn_nothing_is_read(self, limits):
        commands, gate = gated()
        server = serving(commands, **limits)
        with server as running, running.line() as line:
            line.sock.setblocking(False)
            sent = 0
            quiet_since = None
            request = b'{"cmdid":1,"params":{"a":"' + b"x" * 8000 + b'"}}\n'
            whole = b""

            def stuck():
                nonlocal sent, quiet_since, whole
                try:
                    while True:
                        whole = whole or request
                        count = line.sock.send(whole)
                        whole = whole[count:]
                        sent += not whole
                        quiet_since = None
                except BlockingIOError:
                    quiet_since = quiet_since or monotonic()
                return monotonic() - quiet_since > 0.5

            eventually(stuck)
            assert running.server.handled < 40 < sent
            gate.open()
            line.sock.settimeout(PATIENCE)
            line.send(whole)
            assert all(each["code"] == 0 for each in line.replies(sent + 1))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x0a\x0d\n", "TLS is not spoken here"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(11), "TLS is not spoken here"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + b'{"cmdid":0}\n', "not taken from this address"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12), "not taken from this address"),
    ],
)
def test_who_speaks_another_protocol_is_told_which(said, told):
    with serving(gtcp.Commands()) as running, running.line() as line:
        line.send(said)
        (reply,) = line.rest()
    assert reply["code"] == 400
    assert told in reply["message"]


class TestHalfClose:
    def test_requests_without_id_are_still_answered(self, echoing):
        with echoing.line() as line:
            line.send(*[{"cmdid": 2, "params": {"n": n}} for n in range(5)], echo(5))
            line.finish()
            assert [each["result"]["n"] for each in line.rest()] == list(range(6))

    @pytest.mark.parametrize(("grace", "more"), [(0.05, {}), (60, {"id": 1})])
    def test_grace_passes_or_nobody_waits_and_nothing_more_is_run(self, grace, more):
        """A call with an id is cancelled at once."""
        commands, gate = gated()
        ran = []
        commands.handler(2)(lambda request: ran.append(1))
        with serving(commands, half_close_grace=grace) as running, running.line() as line:
            line.send({"cmdid": 1, **more})
            eventually(lambda: gate.waiting)
            if not more:
                line.send({"cmdid": 1}, {"cmdid": 2})
            line.finish()
            assert [(each.get("id"), each["code"]) for each in line.rest()] == [
                (more.get("id"), 408)
            ]
            eventually(lambda: not running.server.connections and not running.server.in_flight)
        assert (gate.stopped, ran) == (1, [])


def test_peer_that_resets_is_forgotten(echoing):
    line = echoing.line()
    line.send({"cmdid": 2})
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    line.close()
    eventually(lambda: not echoing.server.connections)
    assert_alive(echoing)


def test_many_connections_come_and_go(echoing):
    for _ in range(200):
        assert_alive(echoing)
    eventually(lambda: not echoing.server.connections)


def test_access_log_has_one_line_for_every_request(caplog):
    caplog.set_level("INFO", "gtcp.access")
    with serving(basic_commands(), access_log=True) as running, running.line() as line:
        line.send(echo(1), {"cmdid": 2, "id": 5}, echo(3, timeout=0))
        reply = line.line()
        assert len(line.replies(2)) == 2
        peer = of_peer(line.sock.getsockname())
    logged = [each.getMessage() for each in caplog.records if each.name == "gtcp.access"]
    assert len(logged) == 3
    assert all(each.startswith(peer + " ") for each in logged)
    assert sorted(each.split()[1] + " " + each.split()[2] for each in logged) == [
        "1 0",
        "1 408",
        "2 0",
    ]
    size = len(json.dumps(echo(1))) + 1
    assert f"in={size} out={len(reply)}" in logged[0]
