"""What has something to read, with an epoll and without: what is served is the same."""

import socket
import struct
import time
from contextlib import ExitStack

import gevent
import pytest

import gtcp
from gtcp.server import ready
from gtcp.server.table import Table
from tests.helpers import Gate, Serving, compute, eventually, serving, ticking

PING = {"cmdid": 0}


@pytest.fixture(params=["epoll", "watchers"])
def commands(request, monkeypatch):
    if request.param == "watchers":
        monkeypatch.setattr(ready, "epoll", None)
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: request.params["n"])
    commands.handler(2)(lambda request: time.sleep(0.05))  # what comes meanwhile comes together
    return commands


def number(n):
    return {"cmdid": 1, "params": {"n": n}}


def test_more_connections_than_one_turn_takes_are_served(commands):
    with serving(commands) as running, running.line() as busy:
        lines = [running.line() for _ in range(2 * ready.AT_ONCE + 1)]
        busy.send({"cmdid": 2})
        for n, line in enumerate(lines):
            line.send(number(n))
        assert [line.reply()["result"] for line in lines] == list(range(len(lines)))
        for line in lines:
            line.close()
        eventually(lambda: len(running.server.connections) == 1)


def test_a_handler_that_blocks_holds_up_nobody_who_came_with_its_call(commands):
    gate = Gate()
    commands.handler(3)(lambda request: gate.wait())
    with serving(commands) as running, running.line() as busy:
        lines = [running.line() for _ in range(6)]
        busy.send({"cmdid": 2})
        for n, line in enumerate(lines):
            line.send(number(n) if n % 2 else {"cmdid": 3})
        assert [line.reply()["result"] for line in lines[1::2]] == [1, 3, 5]
        eventually(lambda: gate.waiting == 3)
        gate.open()
        assert all(line.reply()["code"] == 0 for line in lines[::2])
        for line in lines:
            line.close()


def test_a_connection_is_read_from_again_after_a_pause(commands):
    gate = Gate()
    commands.handler(3)(lambda request: gate.wait())
    with serving(commands, max_in_flight_per_connection=2) as running, running.line() as line:
        line.send({"cmdid": 3}, *[number(n) for n in range(50)])
        eventually(lambda: any(not each.reading for each in running.server.connections))
        gate.open()
        assert [each.get("result") for each in line.replies(51)] == [None, *range(50)]
        assert line.ask(number(51))["result"] == 51


def test_what_came_on_a_connection_that_another_call_closed_is_not_run(commands):
    ran = []

    @commands.handler(3)
    def close_all(request):
        ran.append(request.params["n"])
        for each in running.server.connections:
            each.close()

    with serving(commands) as running, running.line() as busy:
        with running.line() as one, running.line() as other:
            eventually(lambda: len(running.server.connections) == 3)
            busy.send({"cmdid": 2})
            one.send({"cmdid": 3, "params": {"n": 1}})
            other.send({"cmdid": 3, "params": {"n": 2}})
            eventually(lambda: not running.server.connections)
        with running.line() as later:
            assert later.ask(PING)["result"] == "pong"
    assert len(ran) == 1


def test_a_connection_that_was_reset_is_dropped_and_the_others_are_served(commands):
    with serving(commands) as running, running.line() as busy, running.line() as other:
        with running.line() as line:
            line.ask(PING)
            busy.send({"cmdid": 2})
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert other.ask(number(5))["result"] == 5
        eventually(lambda: len(running.server.connections) == 2)


def test_a_request_whose_deadline_passed_behind_another_connections_handler_is_late(commands):
    with serving(commands) as running, running.line() as busy:
        lines = [running.line() for _ in range(3)]
        busy.send({"cmdid": 2})
        lines[0].send({"cmdid": 2})
        for line in lines[1:]:
            line.send(number(1) | {"timeout": 10})
        codes = [line.reply()["code"] for line in lines]
        for line in lines:
            line.close()
    # In which order they are served within the turn, the system says.
    assert codes[0] == 0
    assert set(codes[1:]) <= {0, 408, 429}


def test_timers_are_on_time_while_many_handlers_compute(commands):
    ticks = []

    @commands.handler(3)
    def computing(request):
        compute(0.02)
        return len(ticks)

    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(20)]
        busy = stack.enter_context(running.line())
        stack.enter_context(ticking(running, ticks))
        busy.send({"cmdid": 2})
        for line in lines:
            line.send({"cmdid": 3})
        seen = [line.reply()["result"] for line in lines]
    assert len(set(seen)) > 2  # a slice ends one handler late


@pytest.mark.parametrize("connections", [1, 4])
def test_timers_are_on_time_while_one_sends_many_requests_at_once(commands, connections):
    ticks = []

    @commands.handler(3)
    def computing(request):
        compute(0.004)
        return len(ticks)

    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(connections)]
        stack.enter_context(ticking(running, ticks))
        count = 120 // connections
        for line in lines:
            line.send(*[{"cmdid": 3, "params": {"padding": "x" * 80}}] * count)
        seen = [[each["result"] for each in line.replies(count)] for line in lines]
    # The first piece is long; by how long it took, the next ones are small.
    assert len({each for row in seen for each in row}) > 5


def test_what_waited_in_its_socket_beyond_its_deadline_is_not_run(commands):
    ran = []

    @commands.handler(3)
    def computing(request):
        ran.append(1)
        compute(0.02)

    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(50)]
        busy = stack.enter_context(running.line())
        assert [line.ask(PING)["code"] for line in lines] == [0] * 50
        busy.send({"cmdid": 2})
        for line in lines:
            line.send({"cmdid": 3, "timeout": 200})
        replies = [line.reply() for line in lines]
    refused = [each for each in replies if each["code"] in (408, 429)]
    assert len(ran) == 50 - len(refused) < 25


@pytest.mark.parametrize("anew", [True, False])
def test_what_comes_after_a_long_silence_is_not_taken_for_late(commands, anew):
    with serving(commands) as running, ExitStack() as stack:
        line = stack.enter_context(running.line())
        assert line.ask(PING)["code"] == 0
        time.sleep(0.4)
        if anew:
            line = stack.enter_context(running.line())
        assert line.ask(number(1) | {"timeout": 200})["code"] == 0


def test_what_comes_while_a_blocked_handler_computes_has_waited(commands):
    """The loop is busy, though no turn is being served."""

    @commands.handler(3)
    def wakes_up(request):
        gevent.sleep(0.05)
        compute(0.3)

    with serving(commands) as running, running.line() as one, running.line() as other:
        assert other.ask(PING)["code"] == 0
        one.send({"cmdid": 3})
        time.sleep(0.1)
        assert other.ask(number(1) | {"timeout": 50})["code"] == 408
        assert one.reply()["code"] == 0


def test_replies_keep_whole_when_the_peer_stops_reading_between_two_slices(commands):
    gate = Gate()

    @commands.handler(3)
    def computing(request):
        compute(0.02)

    @commands.handler(4)
    def large(request):
        gate.wait()
        return "x" * 8_000_000

    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(10)]
        busy = stack.enter_context(running.line())
        slow = stack.enter_context(running.line(receive_buffer=4096))
        slow.send({"cmdid": 4, "id": 1})
        eventually(lambda: gate.waiting)
        busy.send({"cmdid": 2})
        for line in lines:
            line.send({"cmdid": 3})
        slow.send(number(2) | {"id": 2})
        gate.open()  # between two slices its reply fills what the peer takes
        eventually(
            lambda: any(each.outlet.stalled is not None for each in running.server.connections)
        )
        results = {each["id"]: each["result"] for each in slow.replies(2)}
        assert results == {1: "x" * 8_000_000, 2: 2}
        assert [line.reply()["code"] for line in lines] == [0] * 10


def test_an_error_of_our_own_costs_one_connection_of_a_turn(commands, monkeypatch):
    read_one = Table.read_one

    def breaks(self, data):
        if b"broken" in data:
            raise LookupError
        return read_one(self, data)

    monkeypatch.setattr(Table, "read_one", breaks)
    server = gtcp.Server(gtcp.Settings(port=0))
    server.include(commands)
    running = Serving(server)
    try:
        with running.line() as busy, running.line() as one, running.line() as other:
            busy.send({"cmdid": 2})
            one.send({"cmdid": 1, "params": {"n": "broken"}})
            other.send(number(7))
            assert other.reply()["result"] == 7
            assert one.at_end()
            assert busy.reply()["code"] == 0
            assert other.ask(number(8))["result"] == 8
    finally:
        running.stop(0)
    assert not running.errors
