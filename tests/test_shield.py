"""Code under gtcp.shield() is stopped when the shield ends, not in the middle."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

import gtcp
from gtcp.deadline import block, current
from tests.helpers import Gate, Serving, eventually, process, serving


class Handlers:
    """Handlers that wait at a gate under a shield, and note how far they come."""

    def __init__(self) -> None:
        self.commands = gtcp.Commands()
        self.gate = Gate()
        self.notes: list[Any] = []
        self.running: set[Any] = set()
        handler = self.commands.handler
        handler(1)(self.shielded)
        handler(2)(self.nested)
        handler(3)(self.raising)
        handler(4)(self.around)
        handler(5)(self.inside)
        handler(6, run_to_end=True)(self.shielded)
        handler(7)(self.caught)
        handler(8)(self.parent)
        handler(9)(lambda request: Event().wait())
        handler(10)(self.killed)

    def shielded(self, request: gtcp.Request) -> str:
        try:
            with gtcp.shield():
                self.gate.wait()
                self.notes.append("inside")
            self.notes.append("after")
        except BaseException as exc:
            self.notes.append(type(exc).__name__)
            raise
        return "done"

    def nested(self, request: gtcp.Request) -> None:
        with gtcp.shield():
            with gtcp.shield():
                self.gate.wait()
            gevent.sleep(0)  # would be stopped here
            self.notes.append("inside")
        self.notes.append("after")

    def raising(self, request: gtcp.Request) -> None:
        try:
            with gtcp.shield():
                self.gate.wait()
                raise KeyError("of the block")
        except BaseException as exc:
            self.notes += [type(exc), type(exc.__context__)]
            raise

    def around(self, request: gtcp.Request) -> str:
        try:
            with gtcp.deadline(0.01), gtcp.shield():
                self.gate.wait()
                self.notes.append("inside")
        except gtcp.CallTimeout:
            self.notes.append("deadline")
        return "done"

    def inside(self, request: gtcp.Request) -> str:
        with gtcp.shield():
            self.notes.append((request.remaining(), current()))
            try:
                with gtcp.deadline(0.01):
                    Event().wait()
            except gtcp.CallTimeout:
                self.notes.append("deadline")
        return "done"

    def caught(self, request: gtcp.Request) -> str:
        try:
            with gtcp.shield():
                self.gate.wait()
        except gtcp.Cancelled:
            self.notes.append("caught")
        gevent.sleep(0)
        return "done"

    def parent(self, request: gtcp.Request) -> str:
        with gtcp.shield():
            child = gtcp.spawn(self.child)
        try:
            Event().wait()
        except gtcp.Cancelled:
            self.gate.open()
            child.get()
            raise
        return "done"

    def child(self) -> None:
        self.notes.append(current())
        try:
            with gtcp.deadline(0.01), gtcp.shield():
                self.gate.wait()
                self.notes.append("inside")
        except gtcp.CallTimeout:
            self.notes.append("deadline")

    def killed(self, request: gtcp.Request) -> None:
        here = gevent.getcurrent()
        try:
            with gtcp.deadline(0.01):
                try:
                    with gtcp.shield():
                        gevent.spawn_later(0.03, here.throw, KeyboardInterrupt())
                        Event().wait()
                except KeyboardInterrupt:
                    self.notes.append("killed")
                Event().wait()
        except gtcp.CallTimeout:
            self.notes.append("deadline")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def running(handlers: Handlers) -> Iterator[Serving]:
    with serving(handlers.commands) as running:
        yield running


def ask(cmdid: int, **more: Any) -> dict[str, Any]:
    return {"cmdid": cmdid, "id": 1, **more}


def test_deadline_is_raised_at_the_end(handlers: Handlers, running: Serving) -> None:
    with running.line() as line:
        line.send(ask(1, timeout=20))
        eventually(lambda: handlers.gate.waiting)
        eventually(lambda: running.run(stopped, running))
        assert handlers.gate.stopped == 0
        handlers.gate.open()
        assert line.reply()["code"] == 408
    assert handlers.notes == ["inside", "Cancelled"]


def test_call_that_ends_in_time_is_left_alone(handlers: Handlers, running: Serving) -> None:
    handlers.gate.open()
    with running.line() as line:
        assert line.ask(ask(1, timeout=60_000))["result"] == "done"
        assert line.ask(ask(9, timeout=20))["code"] == 408  # the next one is not shielded
    assert handlers.notes == ["inside", "after"]


@pytest.mark.parametrize("how", ["cancel", "hang up", "reset"])
def test_caller_that_gives_up_is_noticed_at_the_end(
    handlers: Handlers, running: Serving, how: str
) -> None:
    with running.line() as line:
        line.send(ask(1))
        eventually(lambda: handlers.gate.waiting)
        if how == "cancel":
            line.send({"cmdid": 0, "oneway": True, "params": {"op": "cancel", "id": 1}})
        if how == "hang up":
            line.finish()
        if how == "reset":
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
        eventually(lambda: running.run(stopped, running))
        assert handlers.gate.stopped == 0
        handlers.gate.open()
        eventually(lambda: not running.server.in_flight)
    assert handlers.notes == ["inside", "Cancelled"]


def test_outermost_shield_counts(handlers: Handlers, running: Serving) -> None:
    with running.line() as line:
        line.send(ask(2, timeout=20))
        eventually(lambda: running.run(stopped, running))
        handlers.gate.open()
        assert line.reply()["code"] == 408
    assert handlers.notes == ["inside"]


def test_exception_of_the_block_becomes_the_context(handlers: Handlers, running: Serving) -> None:
    with running.line() as line:
        line.send(ask(3, timeout=20))
        eventually(lambda: running.run(stopped, running))
        handlers.gate.open()
        assert line.reply()["code"] == 408
    assert handlers.notes == [gtcp.Cancelled, KeyError]


def test_handler_that_catches_it_is_stopped_once(handlers: Handlers, running: Serving) -> None:
    with running.line() as line:
        line.send(ask(7, timeout=20))
        eventually(lambda: running.run(stopped, running))
        handlers.gate.open()
        assert line.reply()["result"] == "done"
    assert handlers.notes == ["caught"]


def test_deadline_block_around_it_is_stopped_at_the_end(
    handlers: Handlers, running: Serving
) -> None:
    with running.line() as line:
        line.send(ask(4))
        eventually(lambda: handlers.gate.waiting)
        eventually(lambda: running.run(due, running))
        assert handlers.gate.stopped == 0
        handlers.gate.open()
        assert line.reply()["result"] == "done"
    assert handlers.notes == ["inside", "deadline"]


def test_request_that_is_cancelled_wins_over_a_deadline_block(
    handlers: Handlers, running: Serving
) -> None:
    with running.line() as line:
        line.send(ask(4, timeout=20))
        eventually(lambda: handlers.gate.waiting)
        eventually(lambda: running.run(due, running) and running.run(stopped, running))
        handlers.gate.open()
        assert line.reply()["code"] == 408
    assert handlers.notes == ["inside"]


def test_deadline_block_inside_stops_its_own_code(handlers: Handlers, running: Serving) -> None:
    with running.line() as line:
        assert line.ask(ask(5, timeout=60_000))["result"] == "done"
    (left, inherited), *rest = handlers.notes
    assert 50 < left <= 60
    assert inherited is None
    assert rest == ["deadline"]


def test_child_inherits_what_calls_in_the_shield_do(handlers: Handlers, running: Serving) -> None:
    """It has no deadline then, is not stopped with the request, and its shields are its own."""
    with running.line() as line:
        assert line.ask(ask(8, timeout=60))["code"] == 408
    assert handlers.notes == [None, "inside", "deadline"]


def test_kill_is_not_replaced_by_a_deadline(handlers: Handlers, running: Serving) -> None:
    with running.line() as line:
        assert line.ask(ask(10))["code"] == 0
    assert handlers.notes == ["killed", "deadline"]


class TestDrain:
    @pytest.mark.parametrize("cmdid", [1, 6], ids=["plain", "run_to_end"])
    def test_that_is_over_cuts_at_the_end_of_the_shield(
        self, handlers: Handlers, running: Serving, cmdid: int
    ) -> None:
        with running.line() as line:
            line.send(ask(cmdid))
            eventually(lambda: handlers.gate.waiting)
            running.start_stopping(0)
            eventually(lambda: running.run(stopped, running))
            assert handlers.gate.stopped == 0
            handlers.gate.open()
            running.join()
        assert handlers.notes == ["inside", "Cancelled"]

    def test_ends_the_process_after_the_moment_for_cleanup(self, tmp_path: Path) -> None:
        source = """
import sys
import gevent
import gtcp

server = gtcp.Server(gtcp.Settings(port=0))

@server.handler(1)
def forever(request):
    with gtcp.shield():
        print("in it", flush=True)
        gevent.sleep(1000)

gevent.spawn(lambda: print(server.addresses[0], flush=True))
server.serve_forever()
"""
        with process(source, tmp_path) as (child, address), gtcp.Client(address) as client:
            client.notify(1)
            assert child.stdout is not None
            assert child.stdout.readline() == "in it\n"
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGINT)  # the second one cuts the drain short
            assert child.wait(20) == 0


class TestOutsideOfAHandler:
    def test_it_does_nothing(self) -> None:
        with gtcp.shield(), gtcp.shield():
            assert current() is None
            gevent.sleep(0)
        with pytest.raises(KeyError), gtcp.shield():
            raise KeyError("x")

    def test_deadline_block_around_it_is_stopped_at_the_end(self) -> None:
        notes = []

        def block() -> None:
            with gtcp.deadline(0.01):
                with gtcp.shield():
                    gevent.sleep(0.03)
                    notes.append("inside")
                notes.append("after")

        with pytest.raises(gtcp.CallTimeout, match=r"0\.01 s"):
            block()
        assert notes == ["inside"]

    def test_of_several_deadline_blocks_the_outermost_is_stopped(self) -> None:
        notes = []

        def block() -> None:
            with gtcp.deadline(0.02):
                try:
                    with gtcp.deadline(0.01), gtcp.shield():
                        gevent.sleep(0.04)
                except gtcp.CallTimeout:
                    notes.append("inner")

        with pytest.raises(gtcp.CallTimeout, match=r"0\.02 s"):
            block()
        assert notes == []

    def test_deadline_between_two_shields_is_stopped_at_the_end_of_the_inner(self) -> None:
        notes = []

        def block() -> None:
            with gtcp.deadline(0.01):
                with gtcp.shield():
                    gevent.sleep(0.03)
                    notes.append("inside")
                notes.append("after")

        with gtcp.shield(), pytest.raises(gtcp.CallTimeout):
            block()
        assert notes == ["inside"]

    def test_timeouts_of_the_application_are_not_deferred(self) -> None:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01), gtcp.shield():
            Event().wait()

    def test_deadline_of_another_greenlet_is_not_deferred(self) -> None:
        """The child copies the context, in which its parent's block is."""
        child: Any = None

        def block() -> None:
            nonlocal child
            with gtcp.deadline(0.01):
                child = gtcp.spawn(shield_forever)
                child.join()

        with pytest.raises(gtcp.CallTimeout):
            block()
        child.kill()


def shield_forever() -> None:
    with gtcp.shield():
        Event().wait()


def stopped(running: Serving) -> bool:
    """Whether every request in flight was cancelled."""
    context: Any = running.server._context
    greenlets = list(context.in_flight) if context else []
    return bool(greenlets) and all(each.stopped for each in greenlets)


def due(running: Serving) -> bool:
    """Whether a deadline block around the shield of the request in flight keeps its exception."""
    (greenlet,) = running.server._context.in_flight  # type: ignore[union-attr]
    around = greenlet.gr_context.get(block)
    while around is not None and around.deferred is None:
        around = around.outer
    return around is not None
