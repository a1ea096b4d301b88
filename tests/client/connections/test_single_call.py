"""The only call of a thread where nothing else goes on: it waits for its reply outside the hub."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import gevent
import pytest
from gevent.event import Event

import gtcp
from gtcp.client.connections.busy_poll import OUTSIDE_HUB_SECONDS
from tests.client.connections.test_connection import is_error
from tests.client.fakes import Peer, Script, answer, fake_server, outcome
from tests.helpers import PATIENCE, process

#: Whether the event loop says what lives in it: with libuv every call waits in the hub.
counts = pytest.mark.skipif(
    "libuv" in str(gevent.config.loop), reason="libuv's loop does not count what is active"
)


def alone(function: Callable[[], Any]) -> None:
    """Run it in a thread of its own, in whose event loop there is nothing."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def alone_with(check: Callable[[gtcp.Client], None], *scripts: Script) -> None:
    """The same, with the client of a server that follows these scripts."""
    with fake_server(*scripts) as server:

        def run() -> None:
            with gtcp.Client(server.address) as client:
                check(client)

        alone(run)


def turns() -> int:
    """Return how often the thread's event loop has iterated."""
    count: int = gevent.get_hub().loop.iteration
    return count


def until(condition: Callable[[], Any], call: Callable[[], Any]) -> None:
    """Call again and again, and let nothing else happen, until it is true."""
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, "not in time"
        call()


def waits_outside(call: Callable[[], Any]) -> bool:
    """Whether a call leaves the event loop alone; it may now and then give it its turn."""
    for _ in range(50):
        before = turns()
        call()
        if turns() == before:
            return True
    return False


@counts
def test_the_loop_counts_what_lives_in_it() -> None:
    """A fact that gtcp relies on and gevent does not document."""

    def check() -> None:
        loop = gevent.get_hub().loop
        mine, other = socket.socketpair()
        with mine, other:
            assert (loop.activecnt, loop.pendingcnt) == (0, 0)
            reader = loop.io(mine.fileno(), 1)
            reader.start(lambda: None)
            assert loop.activecnt == 1
            timer = loop.timer(60)
            timer.start(lambda: None)
            assert loop.activecnt == 2
            uncounted = loop.timer(60, ref=False)
            uncounted.start(lambda: None)
            assert loop.activecnt == 2
            loop.run_callback(lambda: None)
            assert loop.activecnt == 3
            for watcher in (reader, timer, uncounted):
                watcher.stop()
                watcher.close()
            gevent.sleep(0)
            assert loop.activecnt == 0

    alone(check)


@counts
def test_a_timer_that_is_due_and_not_yet_told_so_is_pending() -> None:
    def check() -> None:
        loop = gevent.get_hub().loop
        seen: list[tuple[int, int]] = []
        over = Event()  # a sleep would be a third timer, which may be due at the same time

        def look() -> None:
            seen.append((loop.activecnt, loop.pendingcnt))
            if len(seen) == 2:
                over.set()

        timers = [loop.timer(0.0) for _ in range(2)]
        for timer in timers:
            timer.start(look)
        over.wait()
        # The first got its outcome while the second was not active any more.
        assert seen[0][1] >= 1
        assert seen[-1][1] == 0
        for timer in timers:
            timer.close()

    alone(check)


@counts
def test_the_only_call_leaves_the_event_loop_alone() -> None:
    def check(client: gtcp.Client) -> None:
        assert client.call(1, {"n": 0}) == {"n": 0}
        assert waits_outside(lambda: client.call(1))
        for n in range(100):
            assert client.call(1, {"n": n}) == {"n": n}

    alone_with(check, Peer.echo)


# Others in the process


def beside_a_sleeper(stack: ExitStack, _client: gtcp.Client) -> None:
    stack.callback(gevent.spawn_later(60, lambda: None).kill)


def beside_a_reader(stack: ExitStack, _client: gtcp.Client) -> None:
    mine, other = socket.socketpair()
    stack.enter_context(mine)
    stack.enter_context(other)
    reader = gevent.spawn(gevent.socket.wait_read, mine.fileno())
    gevent.sleep(0)
    stack.callback(reader.kill)


def beside_a_thread_of_the_pool(stack: ExitStack, _client: gtcp.Client) -> None:
    done = threading.Event()
    job = gevent.get_hub().threadpool.spawn(done.wait, PATIENCE)
    stack.callback(job.get)
    stack.callback(done.set)


def beside_a_limit(stack: ExitStack, _client: gtcp.Client) -> None:
    stack.enter_context(gevent.Timeout(60))


def beside_a_deadline(stack: ExitStack, _client: gtcp.Client) -> None:
    stack.enter_context(gtcp.deadline(60))


def beside_another_client(stack: ExitStack, client: gtcp.Client) -> None:
    stack.enter_context(gtcp.Client(str(client.address))).call(1)


@pytest.mark.parametrize(
    "beside",
    [
        beside_a_sleeper,
        beside_a_reader,
        beside_a_thread_of_the_pool,
        beside_a_limit,
        beside_a_deadline,
        beside_another_client,
    ],
)
@counts
def test_where_something_else_goes_on_a_call_waits_in_the_hub(
    beside: Callable[[ExitStack, gtcp.Client], None],
) -> None:
    def check(client: gtcp.Client) -> None:
        with ExitStack() as stack:
            client.call(1)
            beside(stack, client)
            assert not waits_outside(lambda: client.call(1))

    alone_with(check, Peer.echo)


def test_a_greenlet_that_could_run_does_so_during_a_call() -> None:
    def check(client: gtcp.Client) -> None:
        client.call(1)
        for _ in range(50):
            ran: list[None] = []
            gevent.spawn(ran.append, None)
            client.call(1)
            assert ran

    alone_with(check, Peer.echo)


def test_calls_of_several_greenlets_all_get_their_own_replies() -> None:
    def check(client: gtcp.Client) -> None:

        def calls(n: int) -> None:
            for m in range(30):
                assert client.call(1, {"n": n, "m": m}) == {"n": n, "m": m}

        for count in (1, 2, 5):
            gevent.joinall([gevent.spawn(calls, n) for n in range(count)], raise_error=True)
            calls(0)

    alone_with(check, Peer.echo)


# What does not count, and gets its turn all the same


def test_a_timer_that_does_not_count_goes_off_between_calls() -> None:
    def check(client: gtcp.Client) -> None:
        fired: list[None] = []
        timer = gevent.get_hub().loop.timer(0.02, ref=False)
        timer.start(fired.append, None)
        until(lambda: fired, lambda: client.call(1))
        timer.close()

    alone_with(check, Peer.echo)


def test_a_callback_from_another_thread_runs_while_a_call_waits() -> None:
    begun, told = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        request = peer.request()
        begun.set()
        assert told.wait(PATIENCE)  # only then is there a reply
        peer.answer(request)
        peer.echo()

    with fake_server(script) as server:

        def check() -> None:
            loop = gevent.get_hub().loop

            def tell() -> None:
                assert begun.wait(PATIENCE)
                loop.run_callback_threadsafe(told.set)

            with gtcp.Client(server.address) as client:
                client.call(1)
                thread = threading.Thread(target=tell)
                thread.start()
                assert client.call(1, {"n": 2}, timeout=PATIENCE) == {"n": 2}
                thread.join()

        alone(check)


def test_a_greenlet_that_another_thread_wakes_runs_while_a_call_waits() -> None:
    woken, told = Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        request = peer.request()
        woken.set()
        assert told.wait(PATIENCE)
        peer.answer(request)
        peer.echo()

    with fake_server(script) as server:

        def check() -> None:
            def wait() -> None:
                woken.wait()
                told.set()

            with gtcp.Client(server.address) as client:
                waiting = gevent.spawn(wait)
                client.call(1)
                assert client.call(1, {"n": 2}, timeout=PATIENCE) == {"n": 2}
                waiting.join()

        alone(check)


# What the peer does


@pytest.mark.parametrize("timeout", [0.002, 0.02, 0.2])
def test_a_deadline_passes(timeout: float) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.silence()

    def check(client: gtcp.Client) -> None:
        client.call(1)
        started = monotonic()
        error = outcome(client.call, 1, timeout=timeout)
        # A thread that did not run for so long has sent nothing.
        assert is_error(error, gtcp.CallTimeout, error.executed)
        assert monotonic() - started >= timeout
        assert client.stats()["in_flight"] == 0

    alone_with(check, script)


def test_a_late_reply_that_comes_first_reaches_nobody() -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        late = peer.request()
        second = peer.request()
        peer.send(answer(late))
        peer.send(answer(second))
        third = peer.request()
        peer.send(answer(third), answer(late))
        peer.echo()

    def check(client: gtcp.Client) -> None:
        client.call(1)
        is_error(outcome(client.call, 1, timeout=0.05), gtcp.CallTimeout, "maybe")
        for n in range(2, 5):
            assert client.call(1, {"n": n}) == {"n": n}
        assert client.stats()["dropped"] == 2
        assert client.stats()["opened"] == 1

    alone_with(check, script)


def test_a_reply_in_pieces() -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        for _ in range(20):
            request = peer.request()
            peer.send(b'{"code":0,"id":')
            peer.send(b'%d,"result":"whole"}' % request["id"])
            peer.send(b"\n")
        peer.echo()

    def check(client: gtcp.Client) -> None:
        client.call(1)
        assert {client.call(1) for _ in range(20)} == {"whole"}

    alone_with(check, script)


def test_a_server_that_says_goodbye_is_left() -> None:
    def leaving(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.request()
        peer.go_away()
        peer.close()

    def check(client: gtcp.Client) -> None:
        client.call(1)
        assert client.call(1, {"n": 2}) == {"n": 2}
        assert client.stats()["opened"] == 2

    alone_with(check, leaving, Peer.echo)


def test_a_goodbye_behind_a_reply_is_heard_before_the_next_call_is_waited_for() -> None:
    """The reply wakes its caller from the hub, and the caller calls again immediately."""

    def leaving(peer: Peer) -> None:
        peer.answer(peer.request())
        request = peer.request()
        sleep(4 * OUTSIDE_HUB_SECONDS)  # so long that it waits in the hub
        peer.send(answer(request), {"code": 503, "message": "going away"})
        peer.request()
        peer.close()

    def check(client: gtcp.Client) -> None:
        assert [client.call(1, {"n": n}) for n in range(4)] == [{"n": n} for n in range(4)]
        assert client.stats()["opened"] == 2

    alone_with(check, leaving, Peer.echo)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_connection_that_ends_may_have_run_the_call(end: Callable[[Peer], None]) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.request()
        end(peer)

    def check(client: gtcp.Client) -> None:
        client.call(1)
        assert is_error(outcome(client.call, 1), gtcp.ConnectionLost, "maybe")
        assert client.call(1, {"n": 3}) == {"n": 3}

    alone_with(check, script, Peer.echo)


def test_another_thread_closes_the_client() -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.request()
        client.close()
        peer.silence()

    with fake_server(script) as server:
        client = gtcp.Client(server.address)

        def check() -> None:
            client.call(1)
            assert is_error(outcome(client.call, 1), gtcp.ConnectionLost, "maybe")
            assert isinstance(outcome(client.call, 1), gtcp.ConnectError)

        alone(check)


class Interrupted:
    """A socket whose next send is interrupted by a signal, before or behind it."""

    def __init__(self, sock: Any, handler: Callable[[], object], *, before: bool) -> None:
        self._sock = sock
        self._handler: Callable[[], object] | None = handler
        self._before = before

    def send(self, data: bytes) -> int:
        handler, self._handler = self._handler, None
        if handler is not None and self._before:
            handler()
        count: int = self._sock.send(data)
        if handler is not None and not self._before:
            handler()
        return count


@pytest.mark.parametrize("before", [True, False])
def test_a_call_that_interrupts_a_send_takes_another_connection(before: bool) -> None:
    """Its line could only leave behind the handler, which waits for the reply to it."""

    def check(client: gtcp.Client) -> None:
        client.call(1)
        (connection,) = client._pools.here().connections
        told: list[Any] = []
        writer: Any = connection.writer
        sock = writer._sock
        writer._sock = Interrupted(
            sock,
            lambda: told.append(outcome(client.call, 1, {"n": 2}, timeout=PATIENCE)),
            before=before,
        )
        assert client.call(1, {"n": 1}) == {"n": 1}
        assert told == [{"n": 2}]
        assert client.stats()["opened"] == 2
        writer._sock = sock
        assert [client.call(1, {"n": n}) for n in range(9)] == [{"n": n} for n in range(9)]

    alone_with(check, Peer.echo, Peer.echo)


# Signals, which are the main thread's

PROGRAM = """
import os, signal, threading
import gevent, gtcp
from tests.client.fakes import Peer, answer, fake_server, outcome

signalled = threading.Event()

def script(peer):
    peer.answer(peer.request())
    request = peer.request()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signalled.wait(20)  # only then is there a reply
    peer.answer(request)
    peer.echo()

with fake_server(script, Peer.echo) as server, gtcp.Client(server.address) as client:
    client.call(1)
    {body}
    print("done")
"""

BODIES = {
    "a handler of Python's": """
    signal.signal(signal.SIGUSR1, lambda *_: signalled.set())
    assert client.call(1, {"n": 2}) == {"n": 2}
    """,
    "a handler of gevent's": """
    handler = gevent.signal_handler(signal.SIGUSR1, signalled.set)
    assert client.call(1, {"n": 2}) == {"n": 2}
    """,
    "a handler that raises": """
    def interrupt(*_):
        signalled.set()
        raise KeyboardInterrupt
    signal.signal(signal.SIGUSR1, interrupt)
    try:
        client.call(1)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it was not interrupted")
    assert client.stats()["in_flight"] == 0
    assert client.call(1, {"n": 3}) == {"n": 3}
    """,
    "a handler that closes the client": """
    def close(*_):
        client.close()
        signalled.set()
    signal.signal(signal.SIGUSR1, close)
    error = outcome(client.call, 1)
    assert isinstance(error, gtcp.ConnectionLost) and error.executed == "maybe", repr(error)
    """,
    "a handler that sleeps": """
    told = []
    def sleep(*_):
        signalled.set()
        told.append(outcome(gevent.sleep, 0.01))
    signal.signal(signal.SIGUSR1, sleep)
    assert client.call(1, {"n": 2}) == {"n": 2}
    assert told == [None] or isinstance(told[0], gevent.exceptions.BlockingSwitchOutError), told
    assert client.call(1, {"n": 3}) == {"n": 3}
    """,
    "a handler that calls elsewhere": """
    other = gtcp.Client(server.address)
    told = []
    def call(*_):
        signalled.set()
        told.append(outcome(other.call, 1, {"n": 3}))
    signal.signal(signal.SIGUSR1, call)
    assert client.call(1, {"n": 2}) == {"n": 2}
    # Where the call waited in the hub, the handler ran there, and could not wait.
    assert told == [{"n": 3}] or isinstance(told[0], gevent.exceptions.BlockingSwitchOutError), told
    other.close()
    """,
    "a handler that calls on the same client, and lets others do so": """
    told, others = [], []
    def call(*_):
        signalled.set()
        others.extend(gevent.spawn(outcome, client.call, 1, {"n": n}) for n in range(10, 20))
        told.append(outcome(client.call, 1, {"n": 3}, timeout=0.5))
    signal.signal(signal.SIGUSR1, call)
    assert client.call(1, {"n": 2}) == {"n": 2}
    # In the midst of a send no other line can leave.
    refused = gevent.exceptions.BlockingSwitchOutError
    late = isinstance(told[0], gtcp.CallTimeout) and told[0].executed == "no"
    assert told == [{"n": 3}] or late or isinstance(told[0], refused), told
    assert [each.get() for each in others] == [{"n": n} for n in range(10, 20)]
    assert client.call(1, {"n": 4}) == {"n": 4}
    """,
}


@pytest.mark.parametrize("body", BODIES)
def test_a_signal_while_a_call_waits(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(gtcp.__file__).parents[1]))
    with process(PROGRAM.replace("{body}", BODIES[body].strip()), tmp_path) as (child, first):
        assert first == "done"
        assert child.wait(PATIENCE) == 0, (tmp_path / "stderr").read_text()


def test_an_interrupt_from_the_keyboard_ends_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(gtcp.__file__).parents[1]))
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.request()
        begun.set()
        peer.silence()

    with fake_server(script) as server:
        source = f"""
import gtcp
client = gtcp.Client({server.address!r})
client.call(1)
print("ready", flush=True)
client.call(1, timeout=None)
"""
        with process(source, tmp_path) as (child, _):
            assert begun.wait(PATIENCE)
            child.send_signal(signal.SIGINT)
            assert child.wait(PATIENCE) == -signal.SIGINT
        assert "KeyboardInterrupt" in (tmp_path / "stderr").read_text()
