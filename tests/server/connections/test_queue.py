"""Requests that queue while handlers compute: which are refused, cancelled, dropped or run."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from time import monotonic

import gevent
import pytest

import gtcp
from gtcp.server.connections import connection, scheduler
from gtcp.server.connections.pending import MAX_QUEUED_BYTES
from gtcp.server.connections.reader import RequestReader
from gtcp.server.connections.receiving import RECV_LONG_BYTES
from tests.helpers import PATIENCE, Gate, Hold, Serving, compute, eventually, serving

PING = {"cmdid": 0}


class Computing:
    """Handlers that compute, in a server."""

    seconds = 0.02

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.commands = gtcp.Commands()
        self.hold = Hold()
        self.commands.handler(1)(self.hold.handler)

        @self.commands.handler(2)
        def computing(request):
            self.ran.append(request.params["n"])
            compute(self.seconds)
            return request.params["n"]

    def busy(self, line):
        """Keep a handler busy meanwhile, so that requests sent then arrive together."""
        return self.hold.held(line, {"cmdid": 1, "id": "busy"})

    @contextmanager
    def beside(self, *messages):
        """A connection that has sent messages together, and another one that was busy then."""
        with serving(self.commands) as running, running.line() as line, running.line() as busy:
            with self.busy(busy):
                line.send(*messages)
            yield line, busy


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Computing:
    # `compute` uses up the clock's time, whatever of it the processor gives to this process.
    for module in (connection, scheduler):
        monkeypatch.setattr(module, "thread_time", monotonic)
    return Computing()


def work(n: int, **others) -> dict:
    """So long that the first piece of many holds two or three."""
    return {"cmdid": 2, "params": {"n": n, "padding": "x" * 250}, **others}


def test_what_would_be_too_late_is_refused_before_its_turn(computing):
    with computing.beside(*[work(n, id=n, timeout=400) for n in range(60)]) as (line, _):
        replies = line.replies(60)
    refused = [each for each in replies if each["code"] in (408, 429)]
    done = [each["result"] for each in replies if each["code"] == 0]
    assert len(refused) + len(done) == 60
    assert done == computing.ran
    assert 1 <= len(done) <= 20
    early = [each for each in refused if each["code"] == 429]
    assert early[0]["message"] == "its deadline would pass before its turn"
    assert all(each["data"]["retry_after"] > 0 for each in early)
    # They got their replies while much was still queued.
    assert [each["code"] for each in replies[-5:]] == [0] * 5


def test_what_comes_while_others_wait_is_refused_at_once(computing):
    holds = {8: Hold(), 40: Hold()}

    @computing.commands.handler(3)
    def computing_held(request):
        computing.ran.append(request.params["n"])
        if hold := holds.get(len(computing.ran)):
            hold.handler(request)
        compute(computing.seconds)

    with serving(computing.commands) as running, ExitStack() as stack:
        busy, late, *lines = [stack.enter_context(running.line()) for _ in range(42)]
        with computing.busy(busy):
            for n, line in enumerate(lines):
                line.send({"cmdid": 3, "id": n, "params": {"n": n}})
        holds[8].wait()
        late.send({"cmdid": 3, "timeout": 600, "params": {"n": 99}})  # without an id, as the first
        late.send({"cmdid": 3, "timeout": 600, "id": 1, "params": {"n": 98}})
        holds[8].end()
        codes = [each["code"] for each in late.replies(2)]
        holds[40].end()  # only now: what is refused in its turn gets no reply before
        assert set(codes) <= {408, 429}
        assert late.ask(PING)["result"] == "pong"
        assert [line.reply()["code"] for line in lines] == [0] * 40
    assert not {98, 99} & set(computing.ran)


def test_a_notification_that_would_be_too_late_is_dropped_without_an_id_it_is_told_in_turn(
    computing,
):
    with computing.beside(*[work(n) for n in range(20)]) as (line, _):
        eventually(lambda: len(computing.ran) > 5)
        line.send(work(20, timeout=1), work(30, oneway=True, timeout=200))
        line.send(work(31, oneway=True), work(21))
        line.finish()  # a peer that has sent all and waits gets all replies
        replies = line.rest()
    assert [each.get("result") for each in replies] == [*range(20), None, 21]
    assert replies[20]["code"] == 408
    assert computing.ran == [*range(20), 31, 21]


def test_params_of_what_is_refused_are_not_decoded_and_what_is_no_request_keeps_its_turn(computing):
    with computing.beside(*[work(n, id=n) for n in range(60)]) as (line, _):
        eventually(lambda: len(computing.ran) > 5)
        line.send(
            {"cmdid": 2, "id": 60, "timeout": 200, "params": "none"},
            {"cmdid": 77, "id": 61, "timeout": 200},
            b'{"cmdid": true}\n',
        )
        replies = line.rest()
    codes = {each.get("id"): each["code"] for each in replies}
    assert codes[60] in (408, 429)
    assert codes[61] == 404
    assert replies[-1]["code"] == 400
    assert [each["id"] for each in replies if each["code"] == 0] == list(range(60))


def test_of_who_has_gone_nothing_is_run_any_more(computing):
    with serving(computing.commands) as running, running.line() as busy:
        with running.line() as line:
            with computing.busy(busy):
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
    # Those of the first piece may have run before the end of the stream arrived.
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
    """It does so whatever else is queued or waits."""
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
    messages = unknown, *[work(n, id=n, timeout=400) for n in range(60)]
    with computing.beside(*messages) as (line, busy):
        replies = line.replies(61)
        keep_busy(busy)
        line.send(unknown, *[work(n, id=n) for n in range(100, 120)], work(203))
        line.finish()
        last = line.rest()
    assert [each["code"] for each in replies if each["id"] == "unknown"] == [404]
    assert len([each for each in replies if each["code"] == 429]) > 30
    # Those of the first piece may have run before the end of the stream arrived.
    assert len([n for n in computing.ran if 100 <= n < 200]) <= 3
    assert last[-1]["result"] == 203


def test_what_is_quick_is_run_though_its_caller_has_hung_up(computing):
    """It is too short for a check whether its peer still waits."""
    with serving(computing.commands) as running, running.line() as line:
        line.send(*[{"cmdid": 0, "id": n} for n in range(1000)])
        line.finish()
        assert [each["id"] for each in line.rest()] == list(range(1000))


@pytest.mark.parametrize("last", [(), (b"nonsense\n",)], ids=["requests", "nonsense"])
def test_who_has_gone_is_noticed_before_what_it_has_sent_has_its_turn(computing, gate, last):
    with serving(computing.commands) as running, running.line() as line, running.line() as busy:
        line.send({"cmdid": 3, "id": "in flight"})
        eventually(lambda: gate.waiting)
        keep_busy(busy)
        line.send(*[work(n) for n in range(100, 130)], *last)
        line.finish()
        eventually(lambda: gate.stopped)
        assert last or 129 not in computing.ran
        line.rest()


def test_a_server_that_goes_tells_those_that_wait(computing):
    server = gtcp.Server(gtcp.Settings(port=0))
    server.include(computing.commands)
    running = Serving(server)
    with running.line() as line, running.line() as busy:
        with computing.busy(busy):
            line.send(*[work(n, id=n) for n in range(50)])
        eventually(lambda: computing.ran)
        running.start_stopping(5)
        replies = line.rest()
        running.join()
    codes = [each["code"] for each in replies]
    assert [each["result"] for each in replies if each["code"] == 0] == computing.ran
    assert codes.count(503) == 51 - len(computing.ran)  # one line is the goodbye
    assert not running.errors


def test_of_one_connection_only_so_much_is_held(computing):
    seen = []

    @computing.commands.handler(5)
    def looks(request):
        compute(0.001)
        for each in running.server.connections:
            seen.append((each.pending.size, each.reading))

    count = 3 * MAX_QUEUED_BYTES // 250
    with serving(computing.commands) as running, running.line() as line:
        line.send(*[{"cmdid": 5, "params": {"padding": "x" * 250}}] * count)
        assert [each["code"] for each in line.replies(count)] == [0] * count
    assert max(size for size, _reading in seen) < MAX_QUEUED_BYTES + RECV_LONG_BYTES
    assert not all(reading for _size, reading in seen)


def test_whoever_sends_little_does_not_wait_for_what_another_has_sent(computing):
    hold = Hold()
    computing.commands.handler(3)(hold.handler)
    with serving(computing.commands) as running, running.line() as line, running.line() as other:
        line.send(work(0, id=0), {"cmdid": 3, "id": 1}, *[work(n, id=n) for n in range(2, 50)])
        hold.wait()
        other.send(work(99))
        hold.end()
        assert other.reply()["result"] == 99
        assert len(line.replies(50)) == 50
    assert computing.ran.index(99) < 20


def test_of_what_comes_together_the_small_is_served_first(computing):
    commands, ran = computing.commands, []
    commands.handler(3)(lambda request: ran.append(request.params["n"]))
    many = [{"cmdid": 3, "id": n, "params": {"n": n}} for n in range(1000)]
    with serving(commands) as running, ExitStack() as stack:
        busy, large, *small = [stack.enter_context(running.line()) for _ in range(5)]
        for line in (large, *small):
            line.ask(PING)
        with computing.busy(busy):
            large.send(*many)
            for n, line in enumerate(small, 1000):
                line.send({"cmdid": 3, "id": n, "params": {"n": n}})
        assert {line.reply()["id"] for line in small} == {1000, 1001, 1002}
        assert len(large.replies(1000)) == 1000
    assert set(ran[:3]) == {1000, 1001, 1002}
    assert ran[3:] == list(range(1000))


def test_an_error_of_our_own_costs_the_connection_whose_turn_it_is(computing, monkeypatch):
    read = RequestReader.requests

    def breaks(self, lines, *others):
        if b"broken" in lines:
            raise LookupError
        return read(self, lines, *others)

    monkeypatch.setattr(RequestReader, "requests", breaks)
    server = gtcp.Server(gtcp.Settings(port=0))
    server.include(computing.commands)
    running = Serving(server)
    try:
        with running.line() as busy, running.line() as one, running.line() as other:
            with computing.busy(busy):
                other.send(work(1), work(2))
                one.send(work(3), work(4, meta={"is": "broken"}))
            assert [each["result"] for each in one.rest()] in ([], [3])
            assert [each["result"] for each in other.replies(2)] == [1, 2]
            assert busy.reply()["code"] == 0
    finally:
        running.stop(0)
    assert not running.errors


def keep_busy(line) -> None:
    """Fill the queue with requests whose duration is known."""
    line.send(*[work(n, id=n) for n in range(30)])
    line.replies(6)


@pytest.fixture
def gate(computing) -> Gate:
    gate = Gate()
    computing.commands.handler(3)(lambda request: gate.wait())
    return gate


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


def test_who_has_waited_for_long_is_not_idle_when_it_is_served(computing):
    with (
        serving(computing.commands, idle_timeout=0.7) as running,
        running.line() as line,
        running.line() as busy,
    ):
        began = monotonic()
        busy.send(*[work(n, id=n) for n in range(100)])
        line.send(*[work(n) for n in range(50)])
        line.replies(50)
        (one,) = [each for each in running.server.connections if each.handled == 50]
        assert one.active > began + 0.7


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
        eventually(lambda: len(running.server._context.in_flight) == len(lines))
        for line in lines:
            line.send(*[work(n, id=n) for n in range(4)])
        eventually(lambda: len(computing.ran) > 4)
        ticker = running.run(gevent.spawn, tick)
        released.set()
        for line in lines:
            line.replies(5)
        running.run(ticker.kill)
    assert max(b - a for a, b in pairwise(ran_by_then)) < 10


def test_nobody_is_refused_for_a_single_request_that_was_slow(computing):
    computing.seconds = 0.0001
    computing.commands.handler(3)(lambda request: compute(0.5))
    with serving(computing.commands) as running, ExitStack() as stack:
        busy, slow, *lines = [stack.enter_context(running.line()) for _ in range(22)]
        with computing.busy(busy):
            slow.send({"cmdid": 3})
            for n, line in enumerate(lines):
                line.send(work(n, id=n, timeout=5000))
        assert [line.reply()["code"] for line in lines] == [0] * 20
        assert slow.reply()["code"] == 0
