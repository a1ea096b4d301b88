"""Events that meet in one iteration of the loop, and other rare sequences."""

import logging
import time
from contextlib import ExitStack
from typing import Any

import gevent
import pytest

import gtcp
from tests.helpers import Gate, Hold, compute, eventually, serving

PING = {"cmdid": 0}


def gated() -> tuple[gtcp.Commands, Gate]:
    commands, gate = gtcp.Commands(), Gate()
    commands.handler(1)(lambda request: gate.wait())
    return commands, gate


def test_refusals_without_an_id_keep_their_place_behind_unknown_commands() -> None:
    commands, gate = gated()
    with serving(commands, max_in_flight_per_connection=1) as running, running.line() as line:
        line.send({"cmdid": 1, "id": 1})
        eventually(lambda: gate.waiting)
        line.send({"cmdid": 999}, {"cmdid": 1}, {"cmdid": 1, "id": 2}, {"cmdid": 999}, {"cmdid": 1})
        replies = line.replies(5)
        assert [each["code"] for each in replies if "id" not in each] == [404, 429, 404, 429]
        assert [each["code"] for each in replies if "id" in each] == [429]
        gate.open()


def test_unknown_commands_that_queue_leave_nothing_behind() -> None:
    commands, hold = gtcp.Commands(), Hold()
    commands.handler(2)(hold.handler)
    with serving(commands) as running, running.line() as busy, running.line() as line:
        line.ask(PING)
        with hold.held(busy, {"cmdid": 2}):
            line.send(*[{"cmdid": 10_000 + n, "id": n} for n in range(3000)])
        assert {each["code"] for each in line.replies(3000)} == {404}
        context = running.server._context
        assert context is not None
        assert set(context.scheduler.queued) <= {None, 0, 1, 2}
        assert set(context.durations._known) <= {0, 1, 2}
        assert sum(context.scheduler.queued.values()) == 0


def test_the_limit_of_calls_in_flight_holds_for_calls_that_begin_together() -> None:
    commands, gate = gated()
    hold = Hold()
    commands.handler(2)(hold.handler)
    with serving(commands, max_in_flight=5) as running, ExitStack() as stack:
        busy, *lines = [stack.enter_context(running.line()) for _ in range(31)]
        for line in lines:
            line.ask(PING)
        with hold.held(busy, {"cmdid": 2}):
            for n, line in enumerate(lines):
                line.send({"cmdid": 1, "id": n})
        eventually(lambda: gate.waiting == 5)
        assert running.run(lambda: running.server.in_flight) == 5
        gate.open()
        codes = [line.reply()["code"] for line in lines]
        assert codes.count(0) == 5
        assert codes.count(429) == 25


def test_a_stop_in_the_iteration_in_which_a_handler_begins_cancels_it() -> None:
    commands, stopped = gtcp.Commands(), []

    @commands.handler(1)
    def stops(request: gtcp.Request) -> None:
        gevent.spawn(running.server.stop, 0)
        try:
            gevent.sleep(10)
        except gtcp.Cancelled:
            stopped.append(True)
            raise

    with serving(commands) as running, running.line() as line:
        line.send({"cmdid": 1})
        running.join()
        assert stopped


class Interrupted(logging.Handler):
    """A log handler that waits, while something that a handler left behind fires."""

    def emit(self, record: logging.LogRecord) -> None:
        gevent.sleep(0.03)

    def handle(self, record: logging.LogRecord) -> Any:
        self.emit(record)  # without the lock, which belongs to threads here


def test_a_timeout_left_behind_that_fires_while_a_failure_is_logged_ends_nothing() -> None:
    log = logging.getLogger("tests.interrupted")
    log.propagate = False
    log.handlers = [Interrupted()]
    commands, gate = gated()

    @commands.handler(3, logger=log)
    def careless(request: gtcp.Request) -> None:
        gevent.Timeout(0.01).start()
        raise LookupError

    with serving(commands) as running, running.line() as line:
        assert line.ask({"cmdid": 3, "id": 1})["code"] == 500  # in the owner
        line.send({"cmdid": 1, "id": 2})
        eventually(lambda: gate.waiting)
        assert line.ask({"cmdid": 3, "id": 3})["code"] == 500  # in a follower
        assert line.ask(PING)["result"] == "pong"
        gate.open()
        assert line.reply()["id"] == 2
        eventually(lambda: not running.server.in_flight)


def test_the_grace_after_a_half_close_ends_what_has_begun_in_the_same_iteration() -> None:
    commands, gate = gtcp.Commands(), Gate()
    commands.handler(1)(lambda request: gevent.sleep(0.25))
    commands.handler(2)(lambda request: gate.wait())
    commands.handler(3)(lambda request: compute(0.3))
    with serving(commands, half_close_grace=0.3) as running, running.line() as line:
        with running.line() as busy:
            line.send({"cmdid": 1}, {"cmdid": 2}, {"cmdid": 2})
            line.finish()
            time.sleep(0.15)
            busy.send({"cmdid": 3})  # the wake-up and the end of the grace are due together
            assert [each["code"] for each in line.rest()] == [0, 408]
        eventually(lambda: not running.server.connections)
        assert gate.waiting == 0


def test_refused_connections_do_not_keep_others_out() -> None:
    commands, _ = gated()
    with serving(commands, max_connections=2) as running, ExitStack() as stack:
        first, second = [stack.enter_context(running.line()) for _ in range(2)]
        for line in (first, second):
            line.ask(PING)
        for _ in range(5):  # each waits for its peer to close
            assert stack.enter_context(running.line()).reply()["code"] == 429
        first.close()
        second.close()
        eventually(lambda: len(running.server.connections) <= 5)
        with running.line() as line:
            assert line.ask(PING)["result"] == "pong"


@pytest.mark.parametrize("count", [1, 3])
def test_params_that_wait_on_a_connection_that_is_closed_meanwhile_run_nothing(count: int) -> None:
    commands, ran = gtcp.Commands(), []

    class Waits(gtcp.Request, kw_only=True):
        params: dict  # type: ignore[type-arg]

        def __post_init__(self) -> None:
            for each in running.server.connections:
                gevent.spawn(each.close)
            gevent.sleep(0.01)

    @commands.handler(1)
    def never(request: Waits) -> None:
        ran.append(1)

    with serving(commands) as running, running.line() as line:
        line.send(*[{"cmdid": 1, "params": {}}] * count)
        eventually(lambda: not running.server.connections)
        assert ran == []
