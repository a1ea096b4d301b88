"""Facts that gtcp relies on and gevent does not document, with a test for each."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.server import StreamServer
from greenlet import getcurrent


def in_a_new_hub(function: Callable[[], Any]) -> Any:
    """Run a function in a thread, whose hub has no other watchers."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as exc:
            found.append(exc)
        finally:
            get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def test_a_prepare_watcher_of_lowest_priority_runs_behind_callbacks_and_before_the_poll() -> None:
    def order() -> list[str]:
        loop, seen = get_hub().loop, []
        prepare = loop.prepare(ref=False, priority=loop.MINPRI)
        check = loop.check(ref=False, priority=loop.MAXPRI)
        loop.run_callback(seen.append, "callback")
        prepare.start(seen.append, "prepare")
        check.start(seen.append, "check")
        gevent.sleep(0.001)
        for watcher in (prepare, check):
            watcher.stop()
            watcher.close()
        return seen

    seen = in_a_new_hub(order)
    assert seen.index("callback") < seen.index("prepare") < seen.index("check")
    # In turns: each poll is between one and the other.
    rest = [each for each in seen if each != "callback"]
    assert rest[: len(rest) // 2 * 2] == ["prepare", "check"] * (len(rest) // 2)


def test_a_zero_timer_lets_the_loop_iterate() -> None:
    def iterations() -> int:
        loop = get_hub().loop
        timer, seen = loop.timer(0), []

        def tick() -> None:
            seen.append(loop.iteration)
            if len(seen) < 20:
                timer.start(tick)

        timer.start(tick)
        gevent.sleep(0.05)
        timer.close()
        return len(set(seen))

    assert in_a_new_hub(iterations) == 20


def test_the_callback_of_a_watcher_that_is_started_can_be_replaced() -> None:
    def replaced() -> list[str]:
        one, other = socket.socketpair()
        seen: list[str] = []
        watcher = get_hub().loop.io(one.fileno(), 1)
        watcher.start(seen.append, "first")
        watcher.callback = lambda _args: seen.append("second")
        other.send(b"x")
        gevent.sleep(0.005)
        watcher.stop()
        watcher.close()
        one.close()
        other.close()
        return seen[:1]

    assert in_a_new_hub(replaced) == ["second"]


def test_a_watcher_whose_callback_is_a_switch_resumes_the_greenlet() -> None:
    def resumed() -> bytes:
        one, other = socket.socketpair()
        watcher = get_hub().loop.io(one.fileno(), 1)
        watcher.start(getcurrent().switch)
        gevent.spawn(other.send, b"x")
        get_hub().switch()
        watcher.stop()
        watcher.close()
        data = one.recv(10)
        one.close()
        other.close()
        return data

    assert in_a_new_hub(resumed) == b"x"


def test_the_loop_counts_what_is_active() -> None:
    """The client's busy poll asks whether anything else lives in the loop."""

    def counts() -> tuple[int, int]:
        loop = get_hub().loop
        before = loop.activecnt
        timer = loop.timer(10)
        timer.start(lambda: None)
        during = loop.activecnt
        timer.stop()
        timer.close()
        return during - before, loop.activecnt - before

    assert in_a_new_hub(counts) == (1, 0)


@pytest.mark.parametrize(
    "name",
    ["_do_read", "_start_accepting_if_started", "start_accepting", "stop_accepting", "do_read",
     "do_handle", "do_close"],
)  # fmt: skip
def test_what_the_listener_overrides_is_there(name: str) -> None:
    assert callable(getattr(StreamServer, name))


def test_accepting_stops_when_do_read_finds_nothing() -> None:
    class Empty(StreamServer):  # type: ignore[misc]
        looks = 0

        def do_read(self) -> None:
            self.looks += 1

    def look() -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = Empty(listener, print)
        server._do_read()
        server.close()
        return server.looks

    assert in_a_new_hub(look) == 1
