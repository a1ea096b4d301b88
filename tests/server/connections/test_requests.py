"""Order, overtaking, deadlines, cancellation and context of the calls of one connection."""

import contextvars
import logging
import threading
from time import monotonic

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gtcp
from gtcp.deadline import current
from tests.helpers import Gate, eventually, serving


class Handlers:
    """Commands that block at gates, and what they saw."""

    def __init__(self):
        self.commands = gtcp.Commands()
        self.gate = Gate()
        self.ran = []
        self.cleaned = []
        handler = self.commands.handler
        handler(1)(self.fast)
        handler(2)(self.blocked)
        handler(3)(self.nap)
        handler(4, run_to_end=True)(self.to_its_end)
        handler(5)(self.stubborn)

    def fast(self, request):
        self.ran.append(request.params.get("n"))
        return request.params.get("n")

    def blocked(self, request):
        self.ran.append(request.params.get("n"))
        try:
            self.gate.wait()
        finally:
            self.cleaned.append(request.params.get("n"))
        return request.params.get("n")

    def nap(self, request):
        gevent.sleep(request.params.get("seconds", 0.001))
        self.ran.append(request.params.get("n"))
        return request.params.get("n")

    def to_its_end(self, request):
        self.gate.wait()
        self.ran.append(request.params.get("n"))
        return current()

    def stubborn(self, request):
        try:
            self.gate.wait()
        except gtcp.Cancelled:
            gevent.sleep(0.01)
            return "cleaned up"


@pytest.fixture
def handlers():
    return Handlers()


@pytest.fixture
def running(handlers):
    with serving(handlers.commands, half_close_grace=30) as running:
        yield running


@pytest.fixture
def line(running):
    with running.line() as line:
        yield line


def fast(n, **more):
    return {"cmdid": 1, "params": {"n": n}, **more}


def blocked(n, **more):
    return {"cmdid": 2, "params": {"n": n}, **more}


def nap(n, seconds=0.001, **more):
    return {"cmdid": 3, "params": {"n": n, "seconds": seconds}, **more}


def cancel(request_id, **more):
    return {"cmdid": 0, "params": {"op": "cancel", "id": request_id}, **more}


def results(replies):
    return [each["result"] for each in replies]


class TestWithoutId:
    def test_one_that_blocks_holds_back_those_behind_it(self, handlers, line):
        line.send(fast(0), blocked(1), fast(2), fast(3))
        assert line.reply()["result"] == 0
        eventually(lambda: handlers.gate.waiting)
        line.send(fast(4))
        assert line.ask(fast(9, id=9))["id"] == 9  # the lines before it have been read
        assert handlers.ran == [0, 1, 9]
        handlers.gate.open()
        assert results(line.replies(4)) == [1, 2, 3, 4]

    def test_all_that_block_keep_their_order(self, line):
        line.send(*[nap(n, 0.002 * (n % 3)) for n in range(40)])
        assert results(line.replies(40)) == list(range(40))

    def test_on_other_connections_are_not_held_back(self, handlers, running, line):
        line.send(blocked(1))
        eventually(lambda: handlers.gate.waiting)
        with running.line() as other:
            assert other.ask(fast(2))["result"] == 2
        handlers.gate.open()
        assert line.reply()["result"] == 1

    def test_after_the_queue_is_empty_are_run_at_once_again(self, handlers, line):
        for _ in range(3):
            line.send(nap(1), fast(2))
            assert results(line.replies(2)) == [1, 2]
            assert line.ask(fast(3))["result"] == 3


class TestWithId:
    def test_overtakes_one_that_blocks(self, handlers, line):
        line.send(blocked(1, id=1), fast(2, id=2), blocked(3, id=3), fast(4, id=4))
        assert [each["id"] for each in line.replies(2)] == [2, 4]
        handlers.gate.open()
        assert {each["id"] for each in line.replies(2)} == {1, 3}

    def test_overtakes_those_without(self, handlers, line):
        line.send(blocked(1), fast(2), fast(3, id=3), fast(4))
        assert line.reply() == {"id": 3, "code": 0, "result": 3}
        handlers.gate.open()
        assert results(line.replies(3)) == [1, 2, 4]

    def test_fifty_that_sleep_are_answered_together(self, line):
        """They take 2.5 s one after another; that is far off, so this asserts no speed."""
        began = monotonic()
        line.send(*[nap(n, 0.05, id=n) for n in range(50)], fast(50, id=50))
        replies = line.replies(51)
        assert monotonic() - began < 1.5
        assert replies[0]["id"] == 50
        assert {each["id"] for each in replies} == set(range(51))

    def test_may_be_the_same_twice(self, handlers, line):
        handlers.gate.open()
        line.send(nap(1, id="x"), nap(2, id="x"))
        assert sorted(results(line.replies(2))) == [1, 2]

    @given(st.lists(st.tuples(st.sampled_from([fast, nap]), st.booleans()), max_size=30))
    @pytest.mark.filterwarnings("ignore:Do not use the .random. module")  # the server does
    @settings(max_examples=40)
    def test_any_mix_is_answered_and_those_without_in_order(self, mixed, kinds):
        requests = [
            make(n, **({"id": n} if with_id else {})) for n, (make, with_id) in enumerate(kinds)
        ]
        with mixed.line() as line:
            line.send(*requests)
            line.sock.setblocking(True)
            replies = line.replies(len(requests))
        assert [each["result"] for each in replies if "id" not in each] == [
            each["params"]["n"] for each in requests if "id" not in each
        ]
        assert all(each["result"] == each["id"] for each in replies if "id" in each)
        assert {each["id"] for each in replies if "id" in each} == {
            each["id"] for each in requests if "id" in each
        }


@pytest.fixture(scope="module")
def mixed():
    with serving(Handlers().commands) as running:
        yield running


class TestLateOnArrival:
    @pytest.mark.parametrize("more", [{}, {"id": 7}], ids=["without id", "with id"])
    def test_is_refused_and_did_not_run(self, handlers, line, more):
        line.send(fast(1, timeout=0, **more), fast(2))
        first, second = line.replies(2)
        assert (first["code"], first.get("id")) == (408, more.get("id"))
        assert first["data"] == {"executed": "no"}
        assert second["result"] == 2
        assert handlers.ran == [2]

    def test_behind_a_slow_one_is_refused_too(self, handlers, running, line):
        commands = gtcp.Commands()
        commands.handler(1)(handlers.fast)

        @commands.handler(2)
        def busy(request):
            until = monotonic() + 0.02
            while monotonic() < until:
                pass

        with serving(commands) as running, running.line() as line:
            line.send({"cmdid": 2}, fast(1, timeout=5), fast(2, timeout=5000))
            assert [each["code"] for each in line.replies(3)] == [0, 408, 0]
            line.send({"cmdid": 2, "oneway": True}, fast(3, timeout=5), fast(4, timeout=5000))
            assert [each["code"] for each in line.replies(2)] == [408, 0]
            # So long that what follows is run as a piece of its own.
            line.send({"cmdid": 2, "params": {"a": "x" * 5000}}, fast(5, timeout=5), fast(6))
            assert [each["code"] for each in line.replies(3)] == [0, 408, 0]
        assert handlers.ran == [2, 4, 6]


class TestDeadline:
    @pytest.mark.parametrize("more", [{}, {"id": 7}], ids=["without id", "with id"])
    def test_stops_a_handler_that_waits_again_and_again(self, handlers, line, more):
        for n in range(5):  # one runner serves them all
            reply = line.ask(blocked(n, timeout=20, **more))
            assert (reply["code"], reply.get("id")) == (408, more.get("id"))
            assert "data" not in reply
        assert handlers.cleaned == list(range(5))
        assert line.ask(fast(2))["result"] == 2

    def test_of_many_calls_stops_each_at_its_own(self, handlers, line):
        line.send(*[blocked(n, timeout=10 * (5 - n), id=n) for n in range(5)], blocked(5, id=5))
        replies = line.replies(5)
        assert sorted(each["id"] for each in replies) == [0, 1, 2, 3, 4]
        assert {each["code"] for each in replies} == {408}
        handlers.gate.open()
        assert line.reply() == {"id": 5, "code": 0, "result": 5}

    def test_spares_what_is_to_run_to_its_end(self, handlers, line):
        line.send(
            {"cmdid": 4, "params": {"n": 1}, "timeout": 10, "id": 1}, blocked(2, timeout=20, id=2)
        )
        assert line.reply()["id"] == 2
        handlers.gate.open()
        assert line.reply() == {"id": 1, "code": 0, "result": None}  # and it inherits none
        assert handlers.ran == [2, 1]

    def test_lets_a_handler_clean_up_and_answer(self, line):
        assert line.ask({"cmdid": 5, "timeout": 10})["result"] == "cleaned up"
        assert line.ask(fast(2))["result"] == 2

    def test_is_what_calls_of_the_handler_inherit(self):
        commands = gtcp.Commands()

        def left():
            return current() - monotonic()

        @commands.handler(1)
        def inline(request):
            return left()

        @commands.handler(2)
        def after_a_wait(request):
            gevent.sleep(0.001)
            return left()

        @commands.handler(3)
        def in_a_child(request):
            return gtcp.spawn(left).get()

        @commands.handler(4)
        def narrowed(request):
            with gtcp.deadline(1):
                return left()

        @commands.handler(5)
        def plain_child(request):
            return gevent.spawn(current).get()

        with serving(commands) as running, running.line() as line:
            for cmdid in (1, 2, 3):
                line.send(*[{"cmdid": cmdid, "timeout": each * 1000} for each in (100, 200)])
                assert [round(each) for each in results(line.replies(2))] == [100, 200]
            assert 0 < line.ask({"cmdid": 4, "timeout": 100_000})["result"] <= 1
            assert line.ask({"cmdid": 5, "timeout": 100_000})["result"] is None

    def test_of_a_block_stops_the_block_only(self):
        commands = gtcp.Commands()

        @commands.handler(1)
        def narrow(request):
            try:
                with gtcp.deadline(0.01):
                    gevent.sleep(30)
            except gtcp.CallTimeout:
                return "in time"

        with serving(commands) as running, running.line() as line:
            assert line.ask({"cmdid": 1, "timeout": 20_000})["result"] == "in time"
            assert line.ask({"cmdid": 1})["result"] == "in time"


class TestCancel:
    def test_stops_the_call_with_that_id(self, handlers, line):
        line.send(blocked(1, id=1), blocked(2, id="two"), blocked(3))
        eventually(lambda: handlers.gate.waiting == 3)
        line.send(cancel("two", oneway=True))
        reply = line.reply()
        assert (reply["id"], reply["code"]) == ("two", 408)
        assert handlers.cleaned == [2]
        assert line.ask(cancel(1, id=9))["id"] in (1, 9)
        line.reply()
        handlers.gate.open()
        assert line.reply()["result"] == 3

    def test_does_not_wait_for_a_turn(self, handlers, line):
        """Send a request without an id behind a oneway request that blocks, as the client does."""
        line.send(blocked(1, oneway=True), blocked(2, id=2))
        eventually(lambda: handlers.gate.waiting == 2)
        line.send(cancel(2, oneway=True))
        assert line.reply()["id"] == 2

    @pytest.mark.parametrize("more", [{"oneway": True}, {"id": 9}], ids=str)
    def test_is_heard_when_there_is_no_room_for_more_calls(self, handlers, more):
        server = serving(handlers.commands, max_in_flight_per_connection=1)
        with server as running, running.line() as line:
            line.send(blocked(1, id=1))
            eventually(lambda: handlers.gate.waiting)
            line.send(cancel(1, **more))
            codes = {each["id"]: each["code"] for each in line.replies(1 + ("id" in more))}
            assert codes == ({1: 408, 9: 0} if "id" in more else {1: 408})

    def test_of_no_id_or_of_another_connection_stops_nothing(self, handlers, running, line):
        line.send(blocked(1), blocked(2, id=2))
        eventually(lambda: handlers.gate.waiting == 2)
        assert line.ask(cancel(None, id=5))["id"] == 5
        with running.line() as other:
            assert other.ask(cancel(2, id=6))["id"] == 6
        handlers.gate.open()
        assert results(line.replies(2)) in ([1, 2], [2, 1])

    def test_spares_what_is_to_run_to_its_end(self, handlers, line):
        line.send({"cmdid": 4, "params": {"n": 1}, "id": 1})
        eventually(lambda: handlers.gate.waiting)
        assert line.ask(cancel(1, id=2))["id"] == 2
        handlers.gate.open()
        assert line.reply() == {"id": 1, "code": 0, "result": None}

    def test_of_a_call_that_is_over_stops_no_other(self, handlers, line):
        assert line.ask(nap(1, id=1))["id"] == 1
        line.send(cancel(1, oneway=True), nap(2, id=2))
        assert line.reply() == {"id": 2, "code": 0, "result": 2}

    def test_and_its_handlers_end_may_meet(self, handlers, line):
        for n in range(200):
            line.send(nap(n, 0, id=n), cancel(n, oneway=True), fast(n))
            replies = line.replies(2)
            assert {each.get("id") for each in replies} == {n, None}
            assert all(each["code"] in (0, 408) for each in replies)


class TestCallerHangsUp:
    def test_and_its_calls_are_stopped_but_what_is_to_run_to_its_end(self, handlers, running, line):
        line.send({"cmdid": 4, "params": {"n": 1}, "id": 1}, blocked(2, id=2), blocked(3, id=3))
        eventually(lambda: handlers.gate.waiting == 3)
        line.close()
        eventually(lambda: sorted(handlers.cleaned) == [2, 3])
        assert handlers.gate.stopped == 2
        handlers.gate.open()
        eventually(lambda: handlers.ran == [2, 3, 1])
        eventually(lambda: not running.server.connections and not running.server.in_flight)

    def test_and_its_queue_is_dropped(self, handlers, running):
        with serving(handlers.commands, half_close_grace=0.01) as running:
            with running.line() as line:
                line.send(blocked(1), fast(2), fast(3))
                eventually(lambda: handlers.gate.waiting)
            eventually(lambda: not running.server.connections and not running.server.in_flight)
        assert handlers.ran == [1]


color = contextvars.ContextVar("color", default="none")


class TestContext:
    @pytest.mark.parametrize("seconds", [None, 0.001], ids=["inline", "blocked"])
    @pytest.mark.parametrize("more", [{}, {"id": 1}], ids=["without id", "with id"])
    def test_never_leaks_from_one_request_to_the_next(self, seconds, more):
        commands = gtcp.Commands()

        @commands.handler(1)
        def paint(request):
            before = color.get()
            color.set(request.params["color"])
            if seconds is not None:
                gevent.sleep(seconds)
            return [before, color.get()]

        @commands.handler(2)
        def look(request):
            return color.get()

        request = {"cmdid": 1, "params": {"color": "red"}, **more}
        with serving(commands) as running, running.line() as line:
            for _ in range(3):
                line.send(request, request, {"cmdid": 2, **more}, request, {"cmdid": 2, **more})
                seen = results(line.replies(5))
                assert [each for each in seen if isinstance(each, str)] == ["none"] * 2
                assert [each for each in seen if isinstance(each, list)] == [["none", "red"]] * 3
                assert line.ask({"cmdid": 2})["result"] == "none"

    def test_of_a_handler_that_fails_does_not_leak(self):
        commands = gtcp.Commands()

        @commands.handler(1)
        def paint(request):
            color.set("red")
            gtcp.deadline(60).__enter__()  # and it is never left
            gevent.sleep(0)
            raise gtcp.CommandError(1000, "x")

        commands.handler(2)(lambda request: [color.get(), current()])
        with serving(commands) as running, running.line() as line:
            line.send({"cmdid": 1}, {"cmdid": 2}, {"cmdid": 1, "id": 1}, {"cmdid": 2})
            seen = [each["result"] for each in line.replies(4) if not each["code"]]
            assert seen == [["none", None]] * 2


class TestRawBody:
    """Lines that arrive together, each request with its own."""

    @pytest.mark.parametrize("seconds", [None, 0.001], ids=["inline", "blocked"])
    def test_is_the_line_of_this_very_request(self, seconds):
        commands = gtcp.Commands()

        @commands.handler(1)
        def raw(request):
            request.params.clear()
            if seconds is not None:
                gevent.sleep(seconds)
            return request.raw_body.decode()

        lines = [
            b'{"cmdid":1}',
            b'{"cmdid":1,"params":{"a":1}}',
            b'{"cmdid":1,"params":{"a":1},"unknown":2}',
            b'{ "cmdid":1,"params":{"a":1}}',
            b'{"cmdid":"1","params":{"a":1}}',
        ]
        with serving(commands) as running, running.line() as line:
            for batch in (lines[:4], lines):
                line.send(b"\n".join(batch) + b"\n")
                assert results(line.replies(len(batch))) == [each.decode() for each in batch]


class SlowLog(logging.Handler):
    """A log handler that waits, as one that sends its lines over a network does."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def emit(self, record):
        self.gate.wait()

    def handle(self, record):
        self.emit(record)  # without the lock, which belongs to threads here


class TestLogThatWaits:
    @pytest.mark.parametrize("more", [{}, {"id": 1}], ids=["without id", "with id"])
    @pytest.mark.parametrize("waits", [True, False])
    @pytest.mark.parametrize("result", [LookupError(), print], ids=["raises", "not JSON"])
    def test_does_not_lose_the_reply_to_a_deadline(self, result, waits, more):
        gate, log = Gate(), logging.getLogger("tests.slow")
        log.propagate = False
        log.handlers = [SlowLog(gate)]
        commands = gtcp.Commands()

        @commands.handler(1, logger=log)
        def broken(request):
            if waits:
                gevent.sleep(0.001)
            if isinstance(result, Exception):
                raise result
            return result

        with serving(commands) as running, running.line() as line:
            line.send({"cmdid": 1, "timeout": 100, **more})
            eventually(lambda: gate.waiting)
            late = monotonic() + 0.12
            eventually(lambda: monotonic() > late)
            gate.open()
            assert line.reply()["code"] == 500
            eventually(lambda: gate.passed == 1)
            assert line.ask({"cmdid": 0})["result"] == "pong"


class TestLeftBehind:
    def test_timeout_does_not_end_the_process(self, caplog):
        commands = gtcp.Commands()

        @commands.handler(1)
        def careless(request):
            gevent.Timeout(0.01).start()

        with serving(commands) as running, running.line() as line:
            assert line.ask({"cmdid": 1})["code"] == 0
            eventually(lambda: "left a Timeout behind" in caplog.text)
            assert line.ask({"cmdid": 0})["result"] == "pong"

    def test_runners_end_with_their_server(self, caplog):
        before = threading.active_count()
        with serving(Handlers().commands) as running, running.line() as line:
            line.send(*[nap(n, 0.01, id=n) for n in range(20)])
            line.replies(20)
        assert threading.active_count() == before
        assert "left a" not in caplog.text
