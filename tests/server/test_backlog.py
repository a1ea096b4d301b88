"""What waits for its turn while handlers compute, and what is refused rather than made to wait."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from time import monotonic

import gevent
import pytest

import gtcp
from gtcp.server import backlog as module
from gtcp.server import ready
from gtcp.server.backlog import Backlog, Held
from gtcp.server.connection import Connection
from gtcp.server.ready import RECV_BYTES
from tests.helpers import PATIENCE, Gate, Serving, compute, eventually, serving

PING = {"cmdid": 0, "id": "ping"}


class TestHeld:
    """Without a server."""

    @pytest.fixture
    def backlog(self) -> Iterator[Backlog]:
        backlog = Backlog()
        yield backlog
        backlog.close()

    def take_all(self, held: Held, least: int = 0) -> list[tuple[bytes, float]]:
        taken = []
        while held:
            taken.append(held.take(least))
        return taken

    def test_lines_are_taken_in_their_order_with_their_time(self, backlog):
        held = Held(backlog, lambda: None)
        assert not held
        held.put(b"a\nbb\n", 1.0)
        held.put(b"c\n", 2.0)
        assert (held.requests, held.size) == (3, 7)
        assert self.take_all(held) == [(b"a\n", 1.0), (b"bb\n", 1.0), (b"c\n", 2.0)]
        assert (held.requests, held.size) == (0, 0)

    def test_a_piece_has_whole_lines_of_one_time(self, backlog):
        held = Held(backlog, lambda: None)
        held.put(b"1234\n1234\n1234\n", 1.0)
        held.put(b"5\n", 2.0)
        assert self.take_all(held, 6) == [(b"1234\n1234\n", 1.0), (b"1234\n", 1.0), (b"5\n", 2.0)]

    def test_the_end_of_the_stream_keeps_its_place(self, backlog):
        held = Held(backlog, lambda: None)
        held.put(b"a\n", 1.0)
        held.put(b"", 2.0)
        assert self.take_all(held) == [(b"a\n", 1.0), (b"", 2.0)]

    def test_all_can_be_taken_at_once(self, backlog):
        held = Held(backlog, lambda: None)
        held.put(b"a\nb\n", 1.0)
        backlog.note(10.0, 10)
        held.wait_for_turn(lambda lines, arrived, ahead: lines)
        held.put(b"c\n", 2.0)
        assert held.take_all() == b"a\nb\nc\n"
        assert not held
        assert (held.requests, held.size) == (0, 0)

    def test_some_can_be_left_out(self, backlog):
        held = Held(backlog, lambda: None)
        held.put(b"a\nx\n", 1.0)
        held.put(b"x\n", 2.0)
        backlog.note(10.0, 10)
        held.wait_for_turn(lambda lines, arrived, ahead: lines)
        held.put(b"x\nb\n", 3.0)
        held.keep(lambda lines: lines.replace(b"x\n", b""))
        assert (held.requests, held.size, backlog.requests) == (2, 4, 2)
        assert self.take_all(held) == [(b"a\n", 1.0), (b"b\n", 3.0)]
        assert (held.requests, held.size, backlog.requests) == (0, 0, 0)

    def test_what_is_to_wait_is_sifted_once_when_it_is_known_how_long(self, backlog):
        asked = []

        def sift(lines: bytes, arrived: float, ahead: int) -> bytes:
            asked.append((lines, arrived, ahead))
            return lines.replace(b"x\n", b"")

        held = Held(backlog, lambda: None)
        held.put(b"a\nx\nb\n", 1.0)
        held.wait_for_turn(sift)
        assert not asked
        backlog.note(5.0, 10)
        held.wait_for_turn(sift)
        held.put(b"x\n", 2.0)
        held.put(b"c\nx\n", 3.0)
        held.put(b"", 4.0)
        held.wait_for_turn(sift)
        assert asked == [(b"a\nx\nb\n", 1.0, 0), (b"x\n", 2.0, 2), (b"c\nx\n", 3.0, 2)]
        assert held.requests == 3
        assert [lines for lines, _ in self.take_all(held)] == [b"a\n", b"b\n", b"c\n", b""]

    def test_of_which_nothing_is_left_it_does_not_wait(self, backlog):
        held = Held(backlog, lambda: None)
        held.put(b"x\n", 1.0)
        backlog.note(5.0, 10)
        held.wait_for_turn(lambda lines, arrived, ahead: b"")
        assert not held
        assert not held.queued
        assert not backlog


class TestBacklog:
    """Without a server."""

    def test_all_have_their_turn_in_rotation_and_the_loop_goes_round_between(self, monkeypatch):
        monkeypatch.setattr(module, "ROUND_SECONDS", 0.0)
        seen: list[object] = []
        backlog = Backlog()

        def holder(name: str) -> Held:
            def run() -> None:
                seen.append(name)
                held.take(0)
                held.wait_for_turn(lambda lines, arrived, ahead: lines)

            held = Held(backlog, run)
            held.put(b"1\n2\n", 0.0)
            held.wait_for_turn(lambda lines, arrived, ahead: lines)
            held.wait_for_turn(lambda lines, arrived, ahead: lines)  # once is enough
            return held

        holders = [holder("a"), holder("b")]
        while backlog:
            gevent.sleep(0)
            seen.append("a round")
        assert not any(holders)
        assert [each for each in seen if each != "a round"] == ["a", "b", "a", "b"]
        assert seen.count("a round") >= 3
        backlog.close()

    def test_a_wait_is_estimated_by_what_the_last_ones_took(self):
        backlog = Backlog()
        assert not backlog.seconds
        held = Held(backlog, lambda: None)
        held.put(b"a\n", 0.0)
        assert held.wait(100) == 0
        backlog.note(0.2, 10)
        assert held.wait(4) == pytest.approx(5 * 0.02)
        held.wait_for_turn(lambda lines, arrived, ahead: lines)
        assert held.wait(4) == pytest.approx(5 * 0.02)
        others = [Held(backlog, lambda: None) for _ in range(3)]
        for each in others:
            each.put(b"a\n", 0.0)
            each.wait_for_turn(lambda lines, arrived, ahead: lines)
        assert held.wait(4) == pytest.approx(5 * 4 * 0.02)
        for _ in range(200):
            backlog.note(0.01, 10)
        assert held.wait(0) == pytest.approx(4 * 0.001)
        backlog.close()

    def test_many_quick_ones_and_a_slow_one_are_averaged_by_their_number(self):
        backlog = Backlog()
        for _ in range(100):
            backlog.note(0.0001, 99)
            backlog.note(0.0099, 1)
        assert backlog.seconds == pytest.approx(0.0001, rel=0.2)
        backlog.close()

    def test_quick_ones_run_several_in_a_turn_and_others_not_more_than_they_hold(self):
        backlog = Backlog()
        backlog.note(0.0005, 4)  # ten in a turn
        held, *others = [Held(backlog, lambda: None) for _ in range(51)]
        for each in others:
            each.put(b"a\n", 0.0)
            each.wait_for_turn(lambda lines, arrived, ahead: lines)
        assert backlog.requests == 50
        assert held.wait(0) == pytest.approx(51 * 0.000125)
        assert held.wait(99) == pytest.approx((100 + 10 * 50) * 0.000125)
        for each in others:
            each.put(b"a\n" * 99, 0.0)
        assert held.wait(99) == pytest.approx((100 + 10 * 500) * 0.000125)
        for each in others:
            each.take_all()
        assert not backlog.requests
        backlog.close()

    def test_what_was_learned_before_one_that_took_long_counts(self, monkeypatch):
        backlog = Backlog()
        for _ in range(20):
            backlog.note(0.001, 10)
        now = monotonic()
        monkeypatch.setattr(module, "monotonic", lambda: now + 2.0)
        backlog.note(2.0, 1)
        assert backlog.seconds < 0.05
        backlog.close()

    def test_one_request_that_is_slow_says_nothing_of_others(self):
        backlog = Backlog()
        for _ in range(4):
            backlog.note(1.0, 1)
            assert not backlog.seconds
        backlog.note(1.0, 1)
        assert backlog.seconds == pytest.approx(1.0)
        backlog.close()

    def test_what_was_learned_long_ago_does_not_count(self, monkeypatch):
        backlog = Backlog()
        backlog.note(5.0, 1)
        now = monotonic()
        monkeypatch.setattr(module, "monotonic", lambda: now + 0.02 + module.FRESH_SECONDS)
        backlog.note(0.02, 10)
        assert backlog.seconds == pytest.approx(0.002)
        backlog.close()


class Computing:
    """Handlers that compute, in a server."""

    seconds = 0.02

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.commands = gtcp.Commands()
        self.commands.handler(1)(lambda request: compute(0.1))

        @self.commands.handler(2)
        def computing(request):
            self.ran.append(request.params["n"])
            compute(self.seconds)
            return request.params["n"]

    def busy(self, line):
        """What is sent after this waits, and comes together."""
        line.send({"cmdid": 1, "id": "busy"})
        time.sleep(0.03)


@pytest.fixture(params=["epoll", "watchers"])
def computing(request, monkeypatch) -> Computing:
    if request.param == "watchers":
        monkeypatch.setattr(ready, "epoll", None)
    return Computing()


def work(n: int, **others) -> dict:
    """So long that the first piece of many holds two or three."""
    return {"cmdid": 2, "params": {"n": n, "padding": "x" * 250}, **others}


def test_what_would_be_too_late_is_refused_before_its_turn(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n, id=n, timeout=400) for n in range(60)])
        replies = line.replies(60)
    refused = [each for each in replies if each["code"] == 429]
    done = [each["result"] for each in replies if each["code"] == 0]
    assert len(refused) + len(done) == 60
    assert done == computing.ran
    assert 5 <= len(done) <= 20
    assert refused[0]["message"] == "its deadline would pass before its turn"
    assert all(each["data"]["retry_after"] > 0.1 for each in refused)
    # They were told while there was still much to do.
    assert [each["code"] for each in replies[-5:]] == [0] * 5


def test_what_comes_while_others_wait_is_refused_at_once(computing):
    with serving(computing.commands) as running, ExitStack() as stack:
        busy, *lines = [stack.enter_context(running.line()) for _ in range(21)]
        computing.busy(busy)
        for n, line in enumerate(lines):
            line.send(work(n, id=n))
        eventually(lambda: len(computing.ran) > 5)
        late = stack.enter_context(running.line())
        assert late.ask(work(99, timeout=100))["code"] == 429  # without an id, as the first
        assert late.ask(work(98, timeout=100, id=1))["code"] == 429
        assert len(computing.ran) < 20
        assert late.ask(PING)["result"] == "pong"  # in its turn
        assert [line.reply()["code"] for line in lines] == [0] * 20
    assert not {98, 99} & set(computing.ran)


def test_without_an_id_the_refusal_comes_in_its_turn(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n) for n in range(20)])
        eventually(lambda: computing.ran)
        line.send(work(20, timeout=1), work(21))
        replies = line.replies(22)
    assert [each.get("result") for each in replies] == [*range(20), None, 21]
    assert replies[20]["code"] == 408


def test_what_is_late_already_is_told_so(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n, id=n, timeout=30) for n in range(5)])
        replies = line.replies(5)
    assert {each["code"] for each in replies} == {408}
    assert not computing.ran


def test_a_notification_that_would_be_too_late_is_dropped(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n, id=n) for n in range(30)])
        eventually(lambda: len(computing.ran) > 5)
        line.send(work(30, oneway=True, timeout=200), work(31, oneway=True))
        assert len(line.replies(30)) == 30
        line.ask(PING)
    assert computing.ran == [*range(30), 31]


def test_params_of_what_is_refused_are_not_decoded_and_what_is_no_request_keeps_its_turn(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n, id=n) for n in range(30)])
        eventually(lambda: len(computing.ran) > 5)
        line.send(
            {"cmdid": 2, "id": 30, "timeout": 200, "params": "none"},
            {"cmdid": 77, "id": 31, "timeout": 200},
            b'{"cmdid": true}\n',
        )
        replies = line.rest()
    codes = {each.get("id"): each["code"] for each in replies}
    assert codes[30] == 429
    assert codes[31] == 404
    assert replies[-1]["code"] == 400
    assert [each["id"] for each in replies if each["code"] == 0] == list(range(30))


def test_who_has_said_all_and_waits_gets_all_replies(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n) for n in range(10)])
        line.finish()
        assert [each["result"] for each in line.rest()] == list(range(10))


def test_of_who_has_gone_nothing_is_run_any_more(computing):
    with serving(computing.commands) as running, running.line() as busy:
        with running.line() as line:
            computing.busy(busy)
            line.send(*[work(n, id=n) for n in range(100)])
            eventually(lambda: len(computing.ran) > 2)
            reset = struct.pack("ii", 1, 0)
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        eventually(lambda: len(running.server.connections) == 1)
        count = len(computing.ran)
        busy.ask(PING)
        busy.ask(PING)
    assert count == len(computing.ran) < 50


def test_of_who_hangs_up_only_what_nobody_waits_for_is_run_in_its_turn(computing):
    computing.commands.handler(4, run_to_end=True)(
        lambda request: computing.ran.append(request.params["n"])
    )
    with serving(computing.commands) as running, running.line() as busy, running.line() as line:
        keep_busy(busy)
        before = len(computing.ran)
        line.send(
            *[work(n, id=n) for n in range(100, 110)],
            work(201, oneway=True),
            {"cmdid": 4, "id": "to its end", "params": {"n": 202}},
            work(203),
        )
        line.finish()
        replies = line.rest()
        assert len(busy.replies(24)) == 24
        ran = computing.ran[before:]
    assert [n for n in ran if n >= 200] == [201, 202, 203]
    # Those of the first piece may have had their turn before the end came.
    assert len([n for n in ran if 100 <= n < 200]) <= 3
    assert [each.get("id") for each in replies[-2:]] == ["to its end", None]


@pytest.mark.parametrize(
    "bad",
    [
        {"cmdid": 2, "id": 1, "timeout": 1, "meta": 5},
        {"cmdid": 2, "id": 1, "timeout": 1, "timestamp": "now"},
        {"cmdid": 2, "id": 1, "timeout": 1, "params": eval("[" * 80 + "]" * 80)},
    ],
    ids=["meta", "timestamp", "depth"],
)
@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_line_that_ends_the_stream_does_so_in_its_turn(computing, bad, hangs_up):
    """Whatever else there is to do, and whoever still waits."""
    with serving(computing.commands) as running, running.line() as busy, running.line() as line:
        keep_busy(busy)
        line.send(bad, work(201, oneway=True), work(202, id=202, timeout=1), work(203))
        if hangs_up:
            line.finish()
        assert [each["code"] for each in line.rest()] == [400]
        assert len(busy.replies(24)) == 24
    assert not {201, 202, 203} & set(computing.ran)


def test_behind_an_unknown_command_it_is_as_elsewhere(computing):
    unknown = {"cmdid": 77, "id": "unknown", "timeout": 400}
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(unknown, *[work(n, id=n, timeout=400) for n in range(60)])
        replies = line.replies(61)
        keep_busy(busy)
        line.send(unknown, *[work(n, id=n) for n in range(100, 120)], work(203))
        line.finish()
        last = line.rest()
    assert [each["code"] for each in replies if each["id"] == "unknown"] == [404]
    assert len([each for each in replies if each["code"] == 429]) > 30
    # Those of the first piece may have had their turn before the end came.
    assert len([n for n in computing.ran if 100 <= n < 200]) <= 3
    assert last[-1]["result"] == 203


def test_what_is_quick_is_run_though_its_caller_has_hung_up(computing):
    """It does not take long enough to be worth a look at who waits for it."""
    with serving(computing.commands) as running, running.line() as line:
        line.send(*[{"cmdid": 0, "id": n} for n in range(1000)])
        line.finish()
        assert [each["id"] for each in line.rest()] == list(range(1000))


def test_who_has_gone_is_noticed_before_what_it_has_sent_has_its_turn(computing, gate):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        line.send({"cmdid": 3, "id": "in flight"})
        eventually(lambda: gate.waiting)
        keep_busy(busy)
        line.send(*[work(n) for n in range(100, 130)])
        line.finish()
        eventually(lambda: gate.stopped)
        assert 129 not in computing.ran
        line.rest()


def test_a_server_that_goes_tells_those_that_wait(computing):
    server = gtcp.Server(gtcp.Settings(port=0))
    server.include(computing.commands)
    running = Serving(server)
    with running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n, id=n) for n in range(50)])
        eventually(lambda: computing.ran)
        running.start_stopping(5)
        replies = line.rest()
        running.join()
    codes = [each["code"] for each in replies]
    assert [each["result"] for each in replies if each["code"] == 0] == computing.ran
    assert codes.count(503) == 51 - len(computing.ran)  # one of them is the goodbye
    assert not running.errors


def test_of_one_connection_only_so_much_is_held(computing):
    computing.seconds = 0.001
    count = 3 * RECV_BYTES // 250
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        computing.busy(busy)
        line.send(*[work(n) for n in range(count)])
        eventually(lambda: any(not each.reading for each in running.server.connections))
        assert [each["result"] for each in line.replies(count)] == list(range(count))


def test_whoever_sends_little_does_not_wait_for_what_another_has_sent(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as other:
        line.send(*[work(n, id=n) for n in range(50)])
        eventually(lambda: computing.ran)
        assert other.ask(work(99))["result"] == 99
        assert len(computing.ran) < 20
        assert len(line.replies(50)) == 50


def test_of_what_comes_together_the_small_is_served_first(computing):
    commands = gtcp.Commands()
    ran: list[int] = []
    commands.handler(1)(lambda request: compute(0.1))
    commands.handler(2)(lambda request: ran.append(request.params["n"]))
    many = [{"cmdid": 2, "id": n, "params": {"n": n}} for n in range(1000)]
    with serving(commands) as running, ExitStack() as stack:
        busy, large, *small = [stack.enter_context(running.line()) for _ in range(5)]
        for line in (large, *small):
            line.ask(PING)
        busy.send({"cmdid": 1, "id": "busy"})
        time.sleep(0.03)  # all that follows is found by one look
        large.send(*many)
        for n, line in enumerate(small, 1000):
            line.send({"cmdid": 2, "id": n, "params": {"n": n}})
        assert {line.reply()["id"] for line in small} == {1000, 1001, 1002}
        assert len(large.replies(1000)) == 1000
    assert set(ran[:3]) == {1000, 1001, 1002}
    assert ran[3:] == list(range(1000))


def test_what_waits_is_not_taken_for_idle(computing):
    with serving(computing.commands, idle_timeout=0.2) as running, running.line() as line:
        line.send(*[work(n) for n in range(30)])
        began = monotonic()
        assert [each["code"] for each in line.replies(30)] == [0] * 30
        assert monotonic() - began > 0.5


def test_an_error_of_our_own_costs_the_connection_whose_turn_it_is(computing, monkeypatch):
    take = Held.take

    def breaks(self, least):
        lines, arrived = take(self, least)
        if b"broken" in lines:
            raise LookupError
        return lines, arrived

    monkeypatch.setattr(Held, "take", breaks)
    server = gtcp.Server(gtcp.Settings(port=0))
    server.include(computing.commands)
    running = Serving(server)
    try:
        with running.line() as busy, running.line() as one, running.line() as other:
            computing.busy(busy)
            other.send(work(1), work(2))
            one.send(work(3), work(4, meta={"is": "broken"}))
            assert [each["result"] for each in one.rest()] in ([], [3])
            assert [each["result"] for each in other.replies(2)] == [1, 2]
            assert busy.reply()["code"] == 0
    finally:
        running.stop(0)
    assert not running.errors


def keep_busy(line) -> None:
    """What comes until all this has run waits for its turn, and it is known how long that takes."""
    line.send(*[work(n, id=n) for n in range(30)])
    line.replies(6)


@pytest.fixture
def gate(computing) -> Gate:
    gate = Gate()
    computing.commands.handler(3)(lambda request: gate.wait())
    return gate


def test_who_has_gone_is_noticed_behind_what_can_not_be_read(computing, gate):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        line.send({"cmdid": 3, "id": "in flight"})
        eventually(lambda: gate.waiting)
        keep_busy(busy)
        line.send(*[work(n, id=n) for n in range(100, 105)], b"nonsense\n")
        line.finish()
        eventually(lambda: gate.stopped)


def test_who_has_gone_is_noticed_by_a_server_that_goes(computing, gate):
    server = gtcp.Server(gtcp.Settings(port=0))
    server.include(computing.commands)
    running = Serving(server)
    with running.line() as line, running.line() as busy:
        line.send({"cmdid": 3, "id": "in flight"})
        eventually(lambda: gate.waiting)
        keep_busy(busy)
        line.send(*[work(n) for n in range(100, 120)])
        line.finish()
        eventually(lambda: any(not each.reading for each in server.connections))
        running.start_stopping(PATIENCE)
        eventually(lambda: gate.stopped)
    running.join()


def test_a_line_that_is_too_long_is_told_of_before_the_end_of_the_stream(computing):
    with (
        serving(computing.commands, max_line_bytes=1000) as running,
        running.line() as line,
        running.line() as busy,
    ):
        keep_busy(busy)
        line.send(work(99), b"x" * 2000)
        line.finish()
        assert [each["code"] for each in line.rest()] == [0, 413]


def test_who_speaks_tls_is_told_that_it_is_not_spoken_here(computing):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        keep_busy(busy)
        line.send(b"\x16\x03\x01\x00\x50" + b"x" * 80)
        assert line.reply()["message"] == "TLS is not spoken here"


def test_who_has_waited_for_long_is_not_idle_when_it_is_served(computing):
    with (
        serving(computing.commands, idle_timeout=0.7) as running,
        running.line() as line,
        running.line() as busy,
    ):
        busy.send(*[work(n, id=n) for n in range(100)])
        line.send(*[work(n) for n in range(50)])
        line.replies(50)
        (one,) = [each for each in running.server.connections if each.handled == 50]
        assert monotonic() - one.active < 0.5


def test_timers_are_on_time_when_many_calls_end_whose_connections_hold_lines(computing):
    released = threading.Event()

    @computing.commands.handler(4)
    def waits(request):
        while not released.is_set():
            gevent.sleep(0.005)

    ran_by_then = []

    def tick():
        while True:
            ran_by_then.append(len(computing.ran))
            gevent.sleep(0.001)

    with serving(computing.commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(30)]
        for n, line in enumerate(lines):
            line.send({"cmdid": 4, "id": n})
        eventually(lambda: len(running.server._context.runners.in_flight) == len(lines))
        for line in lines:
            line.send(*[work(n, id=n) for n in range(4)])
        eventually(lambda: len(computing.ran) > 4)
        ticker = running.run(gevent.spawn, tick)
        released.set()
        for line in lines:
            line.replies(5)
        running.run(ticker.kill)
    assert max(b - a for a, b in pairwise(ran_by_then)) < 10


def test_when_much_comes_at_once_the_loop_goes_round_while_it_is_read(computing, monkeypatch):
    rounds = []
    hold = Connection.hold

    def noting(self, data, now):
        rounds.append(gevent.get_hub().loop.iteration)
        hold(self, data, now)

    monkeypatch.setattr(ready, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(Connection, "hold", noting)
    computing.seconds = 0.005
    with serving(computing.commands) as running, ExitStack() as stack:
        busy, *lines = [stack.enter_context(running.line()) for _ in range(21)]
        busy.send(*[work(n, id=n) for n in range(100)])
        busy.reply()
        for n, line in enumerate(lines):
            line.send(work(n))
        assert [line.reply()["result"] for line in lines] == list(range(20))
        assert len(busy.replies(99)) == 99
    assert len(rounds) == 20
    assert len(set(rounds)) == 20


def test_nobody_is_refused_for_a_single_request_that_was_slow(computing):
    computing.seconds = 0.0001
    computing.commands.handler(3)(lambda request: compute(0.5))
    with serving(computing.commands) as running, ExitStack() as stack:
        busy, slow, *lines = [stack.enter_context(running.line()) for _ in range(22)]
        computing.busy(busy)
        slow.send({"cmdid": 3})
        for n, line in enumerate(lines):
            line.send(work(n, id=n, timeout=5000))
        assert [line.reply()["code"] for line in lines] == [0] * 20
        assert slow.reply()["code"] == 0
