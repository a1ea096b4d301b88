"""Functions around requests, and at start and stop."""

from __future__ import annotations

import contextvars
import json
import logging
from typing import Any

import gevent
import pytest
from gevent.local import local

import gtcp
from gtcp.deadline import remaining
from gtcp.testing import running
from tests.helpers import Gate, eventually, serving

NAMES = ("before_request", "after_request", "on_start", "on_stop")


class Application:
    """A server whose hooks and handlers write down that they ran.

    Attributes:
        ran: what ran, in order.
        errors: what ``after_request`` functions were given.
        gate: where command 3 waits; ``after_gate`` is where the cleanup of its request waits.
    """

    def __init__(self, **settings: Any) -> None:
        self.server = gtcp.Server(gtcp.Settings(port=0, **settings))
        self.ran: list[str] = []
        self.errors: list[BaseException | None] = []
        self.gate, self.after_gate = Gate(), Gate()
        self.server.before_request(self.before)
        self.server.after_request(self.after)
        self.server.handler(1)(self.echo)
        self.server.handler(2)(self.fail)
        self.server.handler(3)(self.wait)

    def before(self, request: Any) -> None:
        self.ran.append("before")

    def after(self, request: Any, error: BaseException | None) -> None:
        self.ran.append("after")
        self.errors.append(error)

    def echo(self, request: Any) -> Any:
        self.ran.append("handler")
        return request.params

    def fail(self, request: Any) -> Any:
        raise gtcp.CommandError(1001, "no")

    def wait(self, request: Any) -> Any:
        self.gate.wait()
        return "waited"

    def answer(self, cmdid: int, **params: Any) -> Any:
        line = json.dumps({"cmdid": cmdid, "params": params}).encode()
        return json.loads(self.server.commands.answer(line))


@pytest.fixture
def application() -> Application:
    return Application()


def request_line(cmdid: int, **more: Any) -> dict[str, Any]:
    return {"cmdid": cmdid, **more}


class TestAroundARequest:
    def test_before_and_after_run_around_the_handler(self, application: Application) -> None:
        assert application.answer(1, n=1) == {"code": 0, "result": {"n": 1}}
        assert application.ran == ["before", "handler", "after"]
        assert application.errors == [None]

    def test_they_run_in_the_greenlet_of_the_handler_and_in_its_context(self) -> None:
        server = gtcp.Server(gtcp.Settings(port=0))
        user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
        seen: list[tuple[Any, str]] = []

        def note(*_args: Any) -> None:
            seen.append((gevent.getcurrent(), user.get("nobody")))

        @server.before_request
        def set_user(request: Any) -> None:
            note()
            user.set(request.params["user"])

        server.handler(1)(note)
        server.after_request(note)
        with serving(server) as up, up.line() as line:
            for name in ("ann", "bob"):
                line.ask(request_line(1, params={"user": name}))
        assert [name for _, name in seen] == ["nobody", "ann", "ann", "nobody", "bob", "bob"]
        assert len({greenlet for greenlet, _ in seen}) == 1

    def test_the_error_is_what_the_handler_raised(self, application: Application) -> None:
        assert application.answer(2)["code"] == 1001
        (error,) = application.errors
        assert isinstance(error, gtcp.CommandError)

    @pytest.mark.parametrize(
        ("error", "code"),
        [(gtcp.CommandError(1002, "not now"), 1002), (KeyError("x"), 500), (SystemExit(), 500)],
    )
    def test_what_before_raises_is_answered_and_the_handler_does_not_run(
        self, application: Application, error: BaseException, code: int
    ) -> None:
        @application.server.before_request
        def refuse(request: Any) -> None:
            raise error

        @application.server.before_request
        def not_reached(request: Any) -> None:
            application.ran.append("not reached")

        assert application.answer(1)["code"] == code
        assert application.ran == ["before", "after"]
        assert application.errors == [error]

    def test_several_run_in_order_before_and_in_reverse_order_after(self) -> None:
        server, ran = gtcp.Server(gtcp.Settings(port=0)), []
        for n in (1, 2, 3):
            server.before_request(lambda request, n=n: ran.append(n))
            server.after_request(lambda request, error, n=n: ran.append(-n))
        server.handler(1)(lambda request: ran.append(0))
        server.commands.answer(b'{"cmdid":1}')
        assert ran == [1, 2, 3, 0, -3, -2, -1]

    def test_what_after_raises_is_logged_and_changes_neither_reply_nor_the_others(
        self, application: Application, caplog: pytest.LogCaptureFixture
    ) -> None:
        @application.server.after_request
        def clean_up(request: Any, error: BaseException | None) -> None:
            raise SystemExit("no database")

        assert application.answer(1, n=1) == {"code": 0, "result": {"n": 1}}
        assert application.ran == ["before", "handler", "after"]
        (record,) = caplog.records
        assert "cmdid 1 (echo) after_request clean_up raised" in record.getMessage()
        assert record.exc_info is not None
        assert application.answer(2)["code"] == 1001
        assert isinstance(application.errors[-1], gtcp.CommandError)

    def test_gtcps_own_commands_have_none(self, application: Application) -> None:
        assert application.answer(0)["result"] == "pong"
        assert application.answer(99)["code"] == 404
        assert application.ran == []

    def test_what_is_refused_does_not_run_them(self) -> None:
        application = Application()
        application.server.handler(4, max_in_flight=1)(application.wait)
        application.server.handler(5, allow=["somebody"])(application.wait)
        with serving(application.server) as up, up.line() as line:
            line.send(request_line(4, id=1))
            eventually(lambda: application.gate.waiting)
            assert line.ask(request_line(4, id=2))["code"] == 429
            assert line.ask(request_line(5, id=3))["code"] == 403
            assert application.ran == ["before"]
            application.gate.open()
            assert line.reply()["result"] == "waited"

    def test_a_limit_of_a_command_counts_until_after_has_run(self) -> None:
        application = Application()
        application.server.handler(4, max_in_flight=1)(lambda request: "done")

        @application.server.after_request
        def slow(request: Any, error: BaseException | None) -> None:
            application.after_gate.wait()

        with serving(application.server) as up, up.line() as line:
            line.send(request_line(4, id=1))
            eventually(lambda: application.after_gate.waiting)
            assert line.ask(request_line(4, id=2))["code"] == 429
            application.after_gate.open()
            assert line.reply()["result"] == "done"

    def test_classes_and_typed_handlers_have_them_too(self) -> None:
        application = Application()

        @application.server.handler(4)
        class Typed(gtcp.BaseHandler):
            def process(self, request: gtcp.Request[list[int]]) -> int:
                return sum(request.params)

        with serving(application.server) as up, up.line() as line:
            assert line.ask(request_line(4, params=[1, 2]))["result"] == 3
            assert line.ask(request_line(4, params=["x"]))["code"] == 422
        assert application.ran == ["before", "after"]

    def test_included_commands_have_them_and_other_servers_of_the_table_do_not(self) -> None:
        commands = gtcp.Commands()
        commands.handler(4)(lambda request: "done")
        application, other = Application(), gtcp.Server(gtcp.Settings(port=0))
        application.server.include(commands)
        other.include(commands)
        line = b'{"cmdid":4}'
        assert b"done" in application.server.commands.answer(line)
        assert application.ran == ["before", "after"]
        assert b"done" in other.commands.answer(line)
        assert b"done" in commands.answer(line)
        assert application.ran == ["before", "after"]

    def test_without_them_a_command_is_served_as_it_is(self) -> None:
        """The path of a request is not longer for those that have no hooks."""
        server = gtcp.Server(gtcp.Settings(port=0))
        server.handler(1)(lambda request: None)
        server.on_start(lambda: None)
        (command,) = server.commands
        assert server.commands.table(64).commands[1] is command

    def test_a_greenlet_local_is_cleaned_for_the_next_request(self) -> None:
        server, state = gtcp.Server(gtcp.Settings(port=0)), local()

        @server.after_request
        def forget(request: Any, error: BaseException | None) -> None:
            state.__dict__.clear()

        @server.handler(1)
        def login(request: Any) -> Any:
            before = getattr(state, "user", None)
            state.user = request.params["user"]
            gevent.sleep(request.params["seconds"])
            return before

        with serving(server) as up, up.line() as line:
            for seconds in (0, 0.001, 5, 0):
                reply = line.ask(
                    request_line(1, params={"user": "ann", "seconds": seconds}, timeout=300)
                )
                assert reply["code"] == (408 if seconds == 5 else 0)
                assert reply.get("result") is None


class TestCancellation:
    def test_after_runs_when_the_deadline_has_stopped_the_handler(
        self, application: Application
    ) -> None:
        with serving(application.server) as up, up.line() as line:
            assert line.ask(request_line(3, timeout=20))["code"] == 408
        assert application.ran == ["before", "after"]
        assert isinstance(application.errors[0], gtcp.Cancelled)

    def test_after_runs_when_the_caller_has_gone(self, application: Application) -> None:
        with serving(application.server) as up:
            with up.line() as line:
                line.send(request_line(3, id=1))
                eventually(lambda: application.gate.waiting)
            eventually(lambda: application.errors)
        assert isinstance(application.errors[0], gtcp.Cancelled)

    def test_after_runs_when_before_is_cancelled(self, application: Application) -> None:
        @application.server.before_request
        def wait(request: Any) -> None:
            application.gate.wait()

        with serving(application.server) as up, up.line() as line:
            assert line.ask(request_line(1, timeout=20))["code"] == 408
        assert application.ran == ["before", "after"]
        assert isinstance(application.errors[0], gtcp.Cancelled)

    @pytest.mark.parametrize("way", ["deadline", "cancel", "hang up"])
    @pytest.mark.parametrize("cmdid", [1, 2, 3])
    def test_what_arrives_while_after_runs_does_not_skip_it(self, way: str, cmdid: int) -> None:
        """The handler returned, failed or has waited; the reply stays what it was."""
        application = Application()
        finished: list[float | None] = []

        @application.server.after_request
        def slow(request: Any, error: BaseException | None) -> None:
            application.after_gate.wait()
            finished.append(remaining())

        application.gate.open()
        with serving(application.server) as up, up.line() as line:
            more = {"timeout": 500} if way == "deadline" else {}
            line.send(request_line(cmdid, id=1, **more))
            eventually(lambda: application.after_gate.waiting)
            if way == "deadline":
                request = up.run(lambda: next(iter(up.server._context.in_flight)).request)
                eventually(lambda: request.remaining() == 0)
                up.run(gevent.sleep, 0.01)  # the alarm has gone off
            elif way == "cancel":
                line.send(request_line(0, params={"op": "cancel", "id": 1}, oneway=True))
                assert line.ask(request_line(0, id=2))["result"] == "pong"
            else:
                line.close()
                eventually(lambda: next(iter(up.server.connections)).ending)
            up.run(gevent.sleep, 0)
            assert not finished
            application.after_gate.open()
            eventually(lambda: finished)
            if way != "hang up":
                assert line.reply()["code"] == (1001 if cmdid == 2 else 0)
        assert finished == [None]  # no deadline: calls that it makes are not refused
        assert application.after_gate.stopped == 0
        assert application.ran[-1] == "after"

    def test_a_cancelled_request_is_cleaned_up_without_interruption(self) -> None:
        application = Application()

        @application.server.after_request
        def slow(request: Any, error: BaseException | None) -> None:
            application.after_gate.wait()

        with serving(application.server) as up:
            with up.line() as line:
                line.send(request_line(3, id=1, timeout=20))
                eventually(lambda: application.after_gate.waiting)
            eventually(lambda: next(iter(up.server.connections)).ending)
            up.run(gevent.sleep, 0)
            application.after_gate.open()
            eventually(lambda: application.errors)
        assert application.after_gate.stopped == 0
        assert isinstance(application.errors[0], gtcp.Cancelled)

    def test_a_timeout_that_a_handler_left_behind_ends_one_function_only(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        application = Application()

        @application.server.after_request
        def slow(request: Any, error: BaseException | None) -> None:
            application.after_gate.wait()

        @application.server.handler(4)
        def forgetful(request: Any) -> str:
            gevent.Timeout.start_new(0.01)
            return "done"

        with serving(application.server) as up, up.line() as line:
            assert line.ask(request_line(4))["result"] == "done"
            assert application.ran == ["before", "after"]
            application.after_gate.open()
            assert line.ask(request_line(1, params={"n": 1}, id=1))["result"] == {"n": 1}
        assert "after_request slow raised" in caplog.text

    def test_the_drain_waits_for_after(self, application: Application) -> None:
        @application.server.after_request
        def slow(request: Any, error: BaseException | None) -> None:
            application.after_gate.wait()

        stopped: list[str] = []
        application.server.on_stop(lambda: stopped.append("stopped"))
        with serving(application.server) as up, up.line() as line:
            line.send(request_line(1, id=1))
            eventually(lambda: application.after_gate.waiting)
            up.start_stopping()
            up.wait_until_leaving()
            assert not stopped
            application.after_gate.open()
            assert line.reply()["code"] == 0
            up.join()
        assert stopped == ["stopped"]
        assert application.after_gate.stopped == 0

    def test_a_drain_that_is_cut_cancels_the_handler_and_not_its_cleanup(
        self, application: Application
    ) -> None:
        @application.server.after_request
        def slow(request: Any, error: BaseException | None) -> None:
            gevent.sleep(0.05)
            application.ran.append("cleaned up")

        with serving(application.server) as up, up.line() as line:
            line.send(request_line(3, id=1))
            eventually(lambda: application.gate.waiting)
            up.stop(0)
        assert application.ran == ["before", "cleaned up", "after"]
        assert isinstance(application.errors[0], gtcp.Cancelled)


class TestStartAndStop:
    def test_start_runs_before_listening_and_stop_after_the_drain(self) -> None:
        application = Application()
        server, ran = application.server, application.ran
        server.on_start(lambda: ran.append(f"start 1 {server.addresses}"))
        server.on_start(lambda: ran.append("start 2"))
        server.on_stop(lambda: ran.append("stop 1"))
        server.on_stop(lambda: ran.append(f"stop 2 {len(server.connections)}"))
        with serving(server) as up, up.line() as line:
            line.ask(request_line(1))
        assert ran == [
            "start 1 []", "start 2", "before", "handler", "after", "stop 2 0", "stop 1",
        ]  # fmt: skip

    def test_they_run_for_each_start(self) -> None:
        application = Application()
        application.server.on_start(lambda: application.ran.append("start"))
        application.server.on_stop(lambda: application.ran.append("stop"))
        for _ in range(2):
            application.server.start()
            application.server.stop()
        application.server.stop()  # harmless
        assert application.ran == ["start", "stop"] * 2

    def test_when_start_fails_the_server_does_not_listen_and_stop_is_run(self) -> None:
        application = Application()
        server, ran = application.server, application.ran

        @server.on_start
        def open_pool() -> None:
            ran.append("start 1")

        @server.on_start
        def connect() -> None:
            raise OSError("no database\nat 10.0.0.1")

        server.on_start(lambda: ran.append("not reached"))
        server.on_stop(lambda: ran.append("stop"))
        with pytest.raises(RuntimeError) as caught:
            server.start()
        assert str(caught.value) == "on_start connect failed: OSError: no database at 10.0.0.1"
        assert isinstance(caught.value.__cause__, OSError)
        assert ran == ["start 1", "stop"]
        assert not server.started
        assert server.addresses == []

    def test_when_listening_fails_stop_is_run(self) -> None:
        first, second = Application(), Application()
        with serving(first.server) as up:
            second.server.settings = gtcp.Settings(bind=(up.address,))
            second.server.on_start(lambda: second.ran.append("start"))
            second.server.on_stop(lambda: second.ran.append("stop"))
            with pytest.raises(OSError, match="ddress already in use"):
                second.server.start()
        assert second.ran == ["start", "stop"]

    def test_sys_exit_at_start_is_not_a_failure(self) -> None:
        application = Application()

        @application.server.on_start
        def leave() -> None:
            raise SystemExit(7)

        with pytest.raises(SystemExit) as caught:
            application.server.start()
        assert caught.value.code == 7

    def test_what_stop_raises_is_logged_and_the_others_run(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        application = Application()
        application.server.on_stop(lambda: application.ran.append("first"))

        @application.server.on_stop
        def close_pool() -> None:
            raise OSError("broken")

        with serving(application.server):
            pass
        assert application.ran == ["first"]
        (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
        assert record.getMessage() == "on_stop close_pool failed"

    def test_sys_exit_at_stop_ends_when_all_have_run(self) -> None:
        application = Application()
        application.server.on_stop(lambda: application.ran.append("first"))

        @application.server.on_stop
        def leave() -> None:
            raise SystemExit(7)

        application.server.start()
        with pytest.raises(SystemExit):
            application.server.stop()
        assert application.ran == ["first"]
        assert not application.server.started

    def test_another_stop_waits_for_it_and_a_stop_without_time_does_not(self) -> None:
        application = Application()
        application.server.on_stop(application.gate.wait)
        application.server.start()
        first = gevent.spawn(application.server.stop)
        while not application.gate.waiting:
            gevent.sleep(0.001)
        second = gevent.spawn(application.server.stop, 20)
        gevent.sleep(0.01)
        assert not second.dead
        application.server.stop(0)
        second.get(timeout=20)
        application.gate.open()
        first.get(timeout=20)
        assert application.gate.passed == 1

    def test_a_second_start_while_it_starts_is_refused(self) -> None:
        application = Application()
        application.server.on_start(application.gate.wait)
        starting = gevent.spawn(application.server.start)
        while not application.gate.waiting:
            gevent.sleep(0.001)
        with pytest.raises(RuntimeError, match="started already"):
            application.server.start()
        application.gate.open()
        starting.get(timeout=20)
        application.server.stop()


class TestRegistration:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_decorator_returns_the_function(self, name: str) -> None:
        def function(*args: Any) -> None:
            pass

        assert getattr(gtcp.Server(gtcp.Settings(port=0)), name)(function) is function

    @pytest.mark.parametrize("name", NAMES)
    def test_after_the_start_it_raises(self, name: str) -> None:
        server = gtcp.Server(gtcp.Settings(port=0))
        server.start()
        try:
            with pytest.raises(RuntimeError, match=f"{name} late: the server has started already"):

                @getattr(server, name)
                def late(*args: Any) -> None:
                    pass
        finally:
            server.stop()

    @pytest.mark.parametrize("name", NAMES)
    def test_async_and_generator_functions_are_refused(self, name: str) -> None:
        async def coroutine(*args: Any) -> None:
            pass

        def generator(*args: Any) -> Any:
            yield

        async def both(*args: Any) -> Any:
            yield

        register = getattr(gtcp.Server(gtcp.Settings(port=0)), name)
        for function, kind in ((coroutine, "async"), (generator, "generator"), (both, "async")):
            message = f"is an? {kind} function: {name} takes a plain function"
            with pytest.raises(TypeError, match=message):
                register(function)

    @pytest.mark.parametrize(
        ("name", "wrong", "message"),
        [
            ("before_request", lambda: None, "is called with the request: too many"),
            ("after_request", lambda request: None, "with the request and the error or None: too"),
            ("on_start", lambda server: None, "with no arguments: missing a required argument"),
            ("on_stop", 5, "on_stop takes a function, got 5"),
        ],
    )
    def test_wrong_arguments_are_refused(self, name: str, wrong: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            getattr(gtcp.Server(gtcp.Settings(port=0)), name)(wrong)

    def test_gtcp_testing_runs_what_a_server_has(self, application: Application) -> None:
        application.server.on_start(lambda: application.ran.append("start"))
        application.server.on_stop(lambda: application.ran.append("stop"))
        with running(application.server) as up, gtcp.Client(up.address) as client:
            client.call(1)
        assert application.ran == ["start", "before", "handler", "after", "stop"]

    def test_a_failing_start_is_raised_by_gtcp_testing(self, application: Application) -> None:
        application.server.on_start(lambda: 1 / 0)
        with (
            pytest.raises(RuntimeError, match="ZeroDivisionError"),
            running(application.server),
        ):
            pass
