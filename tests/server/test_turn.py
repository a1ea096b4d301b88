"""What can go wrong in a turn, or between its slices: it is one connection's affair."""

import dataclasses
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack
from time import monotonic

import gevent
import msgspec
import pytest
from gevent.event import Event

import gtcp
from gtcp.server import ready
from tests.helpers import compute, eventually, serving, ticking

PING = {"cmdid": 1, "id": 0}


@pytest.fixture(params=["epoll", "watchers"])
def commands(request, monkeypatch):
    if request.param == "watchers":
        monkeypatch.setattr(ready, "epoll", None)
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: "pong")
    # What comes meanwhile, comes together: in the order in which it was sent.
    commands.handler(2)(lambda request: compute(0.1))
    return commands


def together(busy, *sends):
    busy.send({"cmdid": 2})
    time.sleep(0.03)
    for send in sends:
        send()
        time.sleep(0.002)


class Broken(logging.Logger):
    def error(self, *args, **kwargs):
        raise RuntimeError("no log today")


def test_a_failure_in_a_turn_is_not_felt_by_the_connections_behind_it(commands):
    @commands.handler(3, logger=Broken("broken"))
    def fails(request):
        raise ValueError

    def fail_before_others(running, stack):
        busy, first, *others = [stack.enter_context(running.line()) for _ in range(6)]
        for each in others:
            each.sock.settimeout(3)
        sends = [lambda each=each: each.send(PING) for each in others]
        together(busy, lambda: first.send({"cmdid": 3}), *sends)
        assert [each.reply()["code"] for each in others] == [0] * 4
        assert first.at_end()
        assert busy.reply()["code"] == 0

    with (
        pytest.raises(AssertionError, match="gtcp itself"),
        serving(commands) as running,
        ExitStack() as stack,
    ):
        fail_before_others(running, stack)


class Waits(gtcp.Request, kw_only=True):
    params: dict

    def __post_init__(self):
        gevent.sleep(0.01)


class Exits(gtcp.Request, kw_only=True):
    params: dict

    def __post_init__(self):
        raise gevent.Timeout


@pytest.mark.parametrize("kind", [Waits, Exits])
def test_params_whose_own_code_misbehaves_are_refused_and_harm_nobody_else(commands, kind):
    @commands.handler(3)
    def never(request: kind):
        return 1

    with serving(commands) as running, ExitStack() as stack:
        busy, one, many, other = [stack.enter_context(running.line()) for _ in range(4)]
        other.sock.settimeout(3)
        line = {"cmdid": 3, "params": {}}
        together(
            busy,
            lambda: one.send(line),
            lambda: many.send(line, line),
            lambda: other.send(PING),
        )
        assert other.reply()["code"] == 0
        assert other.ask(PING)["code"] == 0
        assert [one.reply()["code"], *(each["code"] for each in many.replies(2))] == [422] * 3


def test_a_reply_does_not_cut_into_one_that_the_peer_has_not_taken_yet(commands):
    waiting = []
    big_result = msgspec.Raw(b'"%s"' % (b"x" * 8_000_000))

    @commands.handler(3)
    def big(request):
        waiting.append(Event())
        waiting[0].wait()
        return big_result

    @commands.handler(4)
    def release(request):
        waiting[0].set()
        compute(0.02)

    with serving(commands) as running, ExitStack() as stack:
        busy, line, *others = [stack.enter_context(running.line()) for _ in range(4)]
        line.send({"cmdid": 3, "id": 1})
        eventually(lambda: running.server.in_flight)
        sends = [lambda each=each: each.send({"cmdid": 4}) for each in others]
        together(busy, *sends, lambda: line.send({"cmdid": 1, "id": 2}))
        assert [each.reply()["code"] for each in others] == [0] * 2
        time.sleep(0.1)
        line.sock.settimeout(3)
        # In which order they are served without epoll, the system says.
        assert {each["id"] for each in line.replies(2)} == {1, 2}


def test_what_came_on_a_connection_that_has_closed_is_not_taken_for_its_successors(commands):
    begun = threading.Event()

    @commands.handler(3)
    def close_the_oldest(request):
        gevent.spawn(oldest[0].close)
        begun.set()
        compute(0.1)

    with serving(commands) as running, ExitStack() as stack:
        line, busy, *others = [stack.enter_context(running.line()) for _ in range(7)]
        line.ask(PING)
        for each in (busy, *others):
            each.ask(PING)
        port = f":{line.sock.getsockname()[1]}"
        oldest = [each for each in running.server.connections if each.address.endswith(port)]
        sends = [lambda each=each: each.send({"cmdid": 3}) for each in others]
        together(busy, *sends, line.finish)
        begun.wait()
        late = stack.enter_context(running.line())
        assert [each.reply()["code"] for each in others] == [0] * 5
        late.sock.settimeout(3)
        assert late.ask(PING)["code"] == 0


@dataclasses.dataclass
class Slow:
    """A result whose own code waits when it is encoded."""

    __slots__ = ()
    field: int

    @property
    def field(self):
        gevent.sleep(0.01)
        return 1

    @field.setter
    def field(self, value):
        pass


@pytest.mark.parametrize("count", [1, 3])
def test_a_result_that_waits_when_it_is_encoded_is_sent_and_leaves_nothing_behind(commands, count):
    commands.handler(3)(lambda request: Slow(1))
    with serving(commands) as running, running.line() as line:
        line.sock.settimeout(3)
        for _ in range(3):
            line.send(*[{"cmdid": 3}] * count)
            assert [each["result"] for each in line.replies(count)] == [{"field": 1}] * count
        assert line.ask(PING)["result"] == "pong"
        eventually(lambda: not running.server.in_flight)


def test_timers_are_on_time_while_handlers_compute_and_then_wait(commands):
    ticks = []

    @commands.handler(3)
    def computing(request):
        seen = len(ticks)
        compute(0.02)
        gevent.sleep(0)
        return seen

    with serving(commands) as running, ExitStack() as stack:
        busy, *lines = [stack.enter_context(running.line()) for _ in range(20)]
        stack.enter_context(ticking(running, ticks))
        together(busy, *[lambda each=each: each.send({"cmdid": 3}) for each in lines])
        seen = [line.reply()["result"] for line in lines]
    assert max(Counter(seen).values()) <= 3


def test_timers_are_on_time_while_long_batches_compute(commands):
    ticks = []

    @commands.handler(3)
    def computing(request):
        compute(0.001)
        return len(ticks)

    batch = [{"cmdid": 3, "params": {"x": "x" * 500}}] * 10
    with serving(commands) as running, ExitStack() as stack:
        busy, *lines = [stack.enter_context(running.line()) for _ in range(20)]
        stack.enter_context(ticking(running, ticks))
        together(busy, *[lambda each=each: each.send(*batch) for each in lines])
        seen = [line.replies(10)[0]["result"] for line in lines]
    assert max(Counter(seen).values()) <= 5


def test_nobody_is_taken_for_late_because_many_are_ready_all_the_time(commands):
    """More connections than one turn's, each with a request there when the last is answered."""

    @commands.handler(3)
    def computing(request):
        compute(0.0002)

    message = json.dumps({"cmdid": 3, "timeout": 1000}).encode() + b"\n"
    wrongly = []
    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(3 * ready.AT_ONCE)]
        sent = {line: deque([time.monotonic()]) for line in lines}
        for line in lines:
            line.send(message)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for line in lines:
                sent[line].append(time.monotonic())
                line.send(message)
                waited = (line.reply()["code"], time.monotonic() - sent[line].popleft())
                if waited[0] and waited[1] < 0.4:
                    wrongly.append(waited)
    # Not none: where the whole process stood still, what came then may have been late.
    assert len(wrongly) < ready.AT_ONCE


def test_a_connection_is_not_idle_while_what_it_sent_waits_for_its_turn(commands):
    began = []

    @commands.handler(8)
    def holds_up(request):
        began.append(True)
        time.sleep(0.4)

    @commands.handler(9)
    def looks(request):
        for each in list(running.server.connections):
            each._idle_timeout = 10
            each.sweep(monotonic() + 9.3)

    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(15)]
        busy = stack.enter_context(running.line())
        for line in lines:
            line.ask(PING)
        time.sleep(0.6)
        busy.send({"cmdid": 8})
        eventually(lambda: began)
        for line in lines:
            line.send({"cmdid": 9})
        assert [line.reply()["code"] for line in lines] == [0] * 15


def test_without_epoll_the_server_can_be_imported():
    program = "import select; del select.epoll; import gtcp.server.ready as r; assert not r.epoll"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_waits_is_not_taken_for_what_computes(commands):
    commands.handler(3)(lambda request: gevent.sleep(2 * ready.SLICE_SECONDS))
    with serving(commands) as running, running.line() as line:
        (connection,) = eventually(lambda: running.server.connections)
        before = connection.inlet.piece
        line.send({"cmdid": 3, "id": 1}, {"cmdid": 3, "id": 2})
        line.replies(2)
        running.run(gevent.sleep, 0.001)
        assert connection.inlet.piece == before


def test_timers_are_on_time_while_those_that_waited_for_one_compute(commands):
    ticks = []

    @commands.handler(3)
    def computing(request):
        compute(0.01)
        return len(ticks)

    commands.handler(4)(lambda request: gevent.sleep(0.05))
    with serving(commands) as running, running.line() as line, ticking(running, ticks):
        line.send({"cmdid": 4}, *[{"cmdid": 3}] * 20)
        _first, *seen = [each.get("result") for each in line.replies(21)]
    assert max(Counter(seen).values()) <= 3
