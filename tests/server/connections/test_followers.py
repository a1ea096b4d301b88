"""A connection's greenlet owns it for life; followers serve it while a handler is blocked."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent.local import local
from greenlet import greenlet

import gtcp
from gtcp.server.connections.in_flight import ServingGreenlet
from tests.helpers import PATIENCE, Gate, Line, compute, eventually, process, serving

PING = {"cmdid": 0}


def greenlets() -> int:
    """How many greenlets of connections there are in this process."""
    gc.collect()
    return sum(isinstance(each, ServingGreenlet) and not each.dead for each in gc.get_objects())


class Handlers:
    """Handlers that tell in which greenlet they ran."""

    def __init__(self) -> None:
        self.commands = gtcp.Commands()
        self.gate = Gate()
        self.locals = local()
        handler = self.commands.handler
        handler(1)(lambda request: id(gevent.getcurrent()))
        handler(2)(self.nap)
        handler(3)(self.wait)
        handler(4)(lambda request: gevent.Timeout(0.01).start())
        handler(5)(lambda request: gevent.spawn_later(0.01, gevent.getcurrent().kill) and None)
        handler(6)(self.leave_local)

    def nap(self, request: gtcp.Request) -> int:
        gevent.sleep(0.005)
        return id(gevent.getcurrent())

    def wait(self, request: gtcp.Request) -> int:
        self.gate.wait()
        return id(gevent.getcurrent())

    def leave_local(self, request: gtcp.Request) -> Any:
        before = getattr(self.locals, "value", None)
        self.locals.value = request.params.get("value")
        gevent.sleep(request.params.get("seconds", 0))
        return before


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def test_fifty_idle_connections_are_fifty_more_greenlets(handlers: Handlers) -> None:
    with serving(handlers.commands) as running, ExitStack() as stack:
        before = greenlets()
        for _ in range(50):
            line = stack.enter_context(running.line())
            assert line.ask(PING)["result"] == "pong"
        assert greenlets() == before + 50
    assert greenlets() == before


@pytest.mark.parametrize("with_id", [True, False])
def test_sequential_calls_of_a_connection_run_in_one_greenlet(
    handlers: Handlers, with_id: bool
) -> None:
    with serving(handlers.commands) as running, running.line() as line, running.line() as other:
        more = {"id": 1} if with_id else {}
        seen = {line.ask({"cmdid": cmdid, **more})["result"] for cmdid in (2, 1, 2, 2, 1)}
        line.send(*[{"cmdid": 2}] * 5, {"cmdid": 1})  # without an id, though they block
        seen |= {each["result"] for each in line.replies(6)}
        assert len(seen) == 1
        assert other.ask({"cmdid": 1})["result"] not in seen


def test_what_overtakes_a_blocked_handler_runs_in_a_follower_until_it_returns(
    handlers: Handlers,
) -> None:
    with serving(handlers.commands) as running, running.line() as line:
        owner = line.ask({"cmdid": 1})["result"]
        line.send({"cmdid": 3, "id": "blocked"})
        eventually(lambda: handlers.gate.waiting)
        followers = {line.ask({"cmdid": 1, "id": n})["result"] for n in range(5)}
        assert owner not in followers
        handlers.gate.open()
        assert line.reply() == {"id": "blocked", "code": 0, "result": owner}
        assert {line.ask({"cmdid": cmdid, "id": 9})["result"] for cmdid in (1, 2, 1)} == {owner}


def test_followers_end_when_they_are_not_needed(handlers: Handlers) -> None:
    with serving(handlers.commands) as running, running.line() as line:
        line.ask(PING)
        before = greenlets()
        line.send(*[{"cmdid": 3, "id": n} for n in range(40)])
        eventually(lambda: handlers.gate.waiting == 40)
        assert greenlets() == before + 39
        handlers.gate.open()
        line.replies(40)
        eventually(lambda: greenlets() == before)
        assert line.ask(PING)["result"] == "pong"


@pytest.mark.parametrize("cmdid", [4, 5], ids=["timeout", "kill"])
@pytest.mark.parametrize("blocked", [False, True], ids=["idle", "beside a blocked call"])
def test_what_a_handler_leaves_behind_ends_nothing(
    handlers: Handlers, caplog: pytest.LogCaptureFixture, cmdid: int, blocked: bool
) -> None:
    with serving(handlers.commands) as running, running.line() as line:
        if blocked:
            line.send({"cmdid": 3, "id": "blocked"})
            eventually(lambda: handlers.gate.waiting)
        assert line.ask({"cmdid": cmdid, "id": 1})["code"] == 0
        eventually(lambda: "left a " in caplog.text)
        for n in range(3):
            assert line.ask({"cmdid": 2, "id": n})["code"] == 0
        handlers.gate.open()
        if blocked:
            assert line.reply()["code"] == 0


def test_greenlet_locals_are_seen_by_later_requests_of_the_same_connection_only(
    handlers: Handlers,
) -> None:
    def left(value: int, **more: Any) -> dict[str, Any]:
        return {"cmdid": 6, "params": {"value": value, **more}}

    with serving(handlers.commands) as running, running.line() as line, running.line() as other:
        assert line.ask(left(1))["result"] is None
        assert line.ask(left(2))["result"] == 1
        assert other.ask(left(3))["result"] is None
        for each in (line, other):
            each.send(*[left(n, seconds=0.005) | {"id": n} for n in range(10, 30)])
        seen = [{each["result"] for each in one.replies(20)} for one in (line, other)]
        assert seen[0] <= {None, 2, *range(10, 30)}
        assert seen[1] <= {None, 3, *range(10, 30)}


class Params(dict):  # type: ignore[type-arg]
    """A dict that can be referred to weakly."""


def test_an_idle_connection_keeps_nothing_of_its_last_requests(handlers: Handlers) -> None:
    seen: list[weakref.ref[Any]] = []

    @handlers.commands.handler(10)
    def remember(request: gtcp.Request) -> None:
        request.params = Params(request.params)
        seen.append(weakref.ref(request.params))
        if request.params.get("block"):
            gevent.sleep(0.001)

    with serving(handlers.commands) as running, running.line() as line:
        for block in (False, True):
            params = {"block": block, "text": "x" * 1000}
            line.ask({"cmdid": 10, "params": params})
            line.send(*[{"cmdid": 10, "params": params, "id": n} for n in range(5)])
            line.replies(5)
        eventually(lambda: not any(each() for each in seen))
        assert len(seen) == 12


def test_queued_calls_that_are_cancelled_do_not_run() -> None:
    commands, ran = gtcp.Commands(), []
    commands.handler(1)(lambda request: compute(0.05))

    @commands.handler(2)
    def computing(request: gtcp.Request) -> None:
        ran.append(request.id)
        compute(0.012)  # more than the interpreter's switch interval: the test's thread runs too

    def cancel(n: int) -> dict[str, Any]:
        return {"cmdid": 0, "oneway": True, "params": {"op": "cancel", "id": n}}

    with serving(commands) as running, running.line() as busy, running.line() as line:
        line.ask(PING)
        busy.send({"cmdid": 1})
        time.sleep(0.01)
        # All in one piece: each cancellation is queued behind its call.
        line.send(*[{"cmdid": 2, "id": n} for n in range(40)], *map(cancel, range(1, 40)))
        replies = line.replies(40)
        assert ran in ([], [0])
        late = [each for each in replies if each["id"]]
        assert {each["code"] for each in late} == {408}
        assert all(each["data"] == {"executed": "no"} for each in late)
        # In two pieces: what is cancelled is queued when the cancellations arrive.
        ran.clear()
        line.send(*[{"cmdid": 2, "id": n} for n in range(40)])
        eventually(lambda: ran)
        line.send(*map(cancel, range(1, 40)))
        assert len(line.replies(40)) == 40
        assert len(ran) < 20


def test_a_cancellation_does_not_reach_a_later_call_with_the_same_id() -> None:
    commands, ran = gtcp.Commands(), []
    commands.handler(1)(lambda request: ran.append(request.params["n"]))
    cancel = {"cmdid": 0, "oneway": True, "params": {"op": "cancel", "id": 7}}
    with serving(commands) as running, running.line() as line:
        line.send(
            {"cmdid": 1, "id": 7, "params": {"n": 1}},
            cancel,
            {"cmdid": 1, "id": 7, "params": {"n": 2}},
        )
        assert [each["code"] for each in line.replies(2)] == [408, 0]
    assert ran == [2]


def test_slow_calls_of_one_command_say_nothing_about_another() -> None:
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: compute(0.2))
    commands.handler(2)(lambda request: compute(0.004))
    with serving(commands) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.line()) for _ in range(8)]
        for line in lines:
            line.send({"cmdid": 1})
        for line in lines:
            line.reply()
        lines[0].send(*[{"cmdid": 2, "id": n, "timeout": 2000} for n in range(50)])
        assert [each["code"] for each in lines[0].replies(50)] == [0] * 50


COMPUTING = """
import time, gtcp
server = gtcp.Server(gtcp.Settings(port=0))
@server.handler(1)
def computing(request):
    print("computing", flush=True)
    until = time.monotonic() + request.params["seconds"]
    while time.monotonic() < until:
        pass
import gevent
gevent.spawn(lambda: print(server.addresses[0], flush=True))
server.serve_forever()
print("drained", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_process_whose_handler_computes(
    tmp_path: Any, number: signal.Signals
) -> None:
    with process(COMPUTING, tmp_path) as (child, address), Line(address) as line:
        line.send({"cmdid": 1, "params": {"seconds": 60}})
        assert child.stdout is not None
        assert child.stdout.readline() == "computing\n"
        child.send_signal(number)
        said = tmp_path / "stderr"
        eventually(lambda: f"{number.name}: draining" in said.read_text())
        assert child.poll() is None
        child.send_signal(number)
        assert child.wait(PATIENCE) == 128 + number
        assert f"{number.name}: ending now" in said.read_text()


def test_the_first_signal_lets_a_handler_compute_to_its_end(tmp_path: Any) -> None:
    with process(COMPUTING, tmp_path) as (child, address), Line(address) as line:
        line.send({"cmdid": 1, "params": {"seconds": 0.3}})
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        assert [each["code"] for each in line.rest()] == [0, 503]
        assert child.stdout.readline() == "drained\n"
        assert child.wait(PATIENCE) == 0


APP = "import gtcp\nserver = gtcp.Server(gtcp.Settings(port=0))\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["-c", f"{APP}server.start()"], 1),
        (["-m", "gtcp", "serve", "app:server"], 2),
        (["-m", "gtcp", "serve", "app:server", "--workers", "2"], 2),
    ],
    ids=["start", "serve", "workers"],
)
@pytest.mark.cover_programs
def test_libuv_is_refused_with_what_to_do(tmp_path: Any, command: list[str], status: int) -> None:
    (tmp_path / "app.py").write_text(APP)
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "GEVENT_LOOP": "libuv"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == status
    lines = ended.stderr.splitlines()
    assert "GEVENT_LOOP: a server needs gevent's libev loop" in lines[-1]
    assert status == 1 or len(lines) == 1  # by the command, no traceback


def test_the_greenlets_are_gevents_and_hub_children(handlers: Handlers) -> None:
    """So that what gevent says of them holds: killing, linking, local variables."""
    seen: list[Any] = []
    handlers.commands.handler(10)(lambda request: seen.append(gevent.getcurrent()))
    with serving(handlers.commands) as running, running.line() as line:
        line.ask({"cmdid": 10})
        assert isinstance(seen[0], gevent.Greenlet)
        assert isinstance(seen[0], greenlet)
        assert not seen[0].dead
    eventually(lambda: seen[0].dead)
