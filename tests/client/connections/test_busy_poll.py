"""How long the only call of a thread stays awake for its reply."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from select import POLLIN
from time import monotonic, sleep

import pytest

import gtcp
from gtcp.client.connections import busy_poll
from gtcp.client.connections.busy_poll import MAX_MISSES, MAX_SKIPPED, BusyPoll
from tests.client.fakes import Peer, fake_server

MOMENT = 0.005


class Poller:
    """In place of the system's: notes how long it is asked to wait."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answers: Iterator[bool] = iter(())
        self.on_poll: Callable[[], object] = lambda: None

    def register(self, fd: int, events: int) -> None:
        assert events == POLLIN

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.asked.append(milliseconds)
        self.on_poll()
        return [(0, POLLIN)] if next(self.answers, False) else []


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch) -> Poller:
    made = Poller()
    monkeypatch.setattr(busy_poll, "new_poller", lambda: made)
    return made


def slept(poller: Poller, busy: BusyPoll) -> bool:
    """Whether a call, whose reply does not come, sleeps at once."""
    poller.asked.clear()
    assert not busy.wait(60)
    assert sleeps(poller.asked[-1])
    return len(poller.asked) == 1


def sleeps(milliseconds: float) -> bool:
    return 30_000 < milliseconds <= 60_000


def test_a_reply_that_comes_in_a_moment_is_taken_awake(poller: Poller) -> None:
    poller.answers = iter([False, False, True])
    assert BusyPoll(0, 60).wait(60)
    assert poller.asked == [0, 0, 0]


def test_after_a_moment_it_sleeps(poller: Poller) -> None:
    started = monotonic()
    assert not slept(poller, BusyPoll(0, MOMENT))
    assert monotonic() - started >= MOMENT
    assert set(poller.asked[:-1]) == {0}


def test_it_stays_awake_no_longer_than_it_may_wait(poller: Poller) -> None:
    started = monotonic()
    BusyPoll(0, 60).wait(MOMENT)
    assert MOMENT <= monotonic() - started < 30
    assert poller.asked[-1] == 0  # awake it has waited for as long as it may


def test_what_it_was_awake_for_it_sleeps_less(poller: Poller) -> None:
    BusyPoll(0, MOMENT).wait(2 * MOMENT)
    assert 0 <= poller.asked[-1] <= 1000 * MOMENT


def test_what_comes_when_the_processor_is_offered_is_not_in_vain(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have needed just that, however long it took."""

    def yield_processor() -> None:
        sleep(2 * MOMENT)
        poller.answers = iter([True])

    monkeypatch.setattr(busy_poll, "yield_processor", yield_processor)
    busy = BusyPoll(0, MOMENT)
    assert busy.wait(60)
    assert poller.asked == [0, 0]


def test_what_comes_while_it_sleeps_is_told(poller: Poller) -> None:
    busy = BusyPoll(0, MOMENT)
    for _ in range(MAX_MISSES):
        assert not slept(poller, busy)
    poller.answers = iter([True])
    poller.asked.clear()
    assert busy.wait(60)
    assert len(poller.asked) == 1
    assert sleeps(poller.asked[0])


def rows(poller: Poller, busy: BusyPoll, calls: int) -> list[tuple[str, int]]:
    """How many calls in a row stay awake for nothing, sleep at once, and so on."""
    how = ("asleep" if slept(poller, busy) else "awake" for _ in range(calls))
    return [(each, len(list(row))) for each, row in groupby(how)]


def test_the_more_often_it_was_for_nothing_the_more_calls_sleep_at_once(poller: Poller) -> None:
    asleep = [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]
    calls = sum(asleep) + MAX_MISSES * len(asleep)
    expected = [row for count in asleep for row in (("awake", MAX_MISSES), ("asleep", count))]
    assert rows(poller, BusyPoll(0, 1e-6), calls) == expected
    assert asleep[-1] == MAX_SKIPPED


def test_once_it_was_for_something_it_begins_anew(poller: Poller) -> None:
    busy = BusyPoll(0, 1e-6)
    assert rows(poller, busy, 3 * MAX_MISSES + 1 + 2 + 4)[-1] == ("asleep", 4)
    poller.answers = iter([True])
    assert busy.wait(60)
    assert rows(poller, busy, MAX_MISSES + 2) == [
        ("awake", MAX_MISSES),
        ("asleep", 1),
        ("awake", 1),
    ]


def test_who_gets_a_quick_reply_now_and_then_stays_awake(poller: Poller) -> None:
    busy = BusyPoll(0, 1e-6)
    for _ in range(100):
        assert not slept(poller, busy)
        poller.answers = iter([True])
        assert busy.wait(60)


@pytest.mark.parametrize("awake", [0, 0.0])
def test_it_need_not_stay_awake_at_all(poller: Poller, awake: float) -> None:
    busy = BusyPoll(0, awake)
    assert all(slept(poller, busy) for _ in range(10))


def test_where_it_can_offer_the_processor_to_nobody_it_sleeps(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy_poll, "yield_processor", None)
    busy = BusyPoll(0, MOMENT)
    assert all(slept(poller, busy) for _ in range(10))


def test_it_offers_the_processor_to_others_each_time(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[int] = []
    monkeypatch.setattr(busy_poll, "yield_processor", lambda: offered.append(len(poller.asked)))
    poller.answers = iter([False, False, False, True])
    assert BusyPoll(0, 60).wait(60)
    assert offered == [1, 2, 3]


def test_of_those_that_wait_at_the_same_time_two_stay_awake(poller: Poller) -> None:
    polls = [BusyPoll(0, MOMENT) for _ in range(4)]
    first_asked: list[float] = []

    def another() -> None:
        """The next one waits while those before it do."""
        first_asked.append(poller.asked[-1])
        if len(first_asked) < len(polls):
            polls[len(first_asked)].wait(60)

    poller.on_poll = another
    polls[0].wait(60)
    assert first_asked[:2] == [0, 0]
    assert sleeps(first_asked[2])
    assert sleeps(first_asked[3])
    poller.on_poll = lambda: None
    assert not slept(poller, polls[3])  # nobody waits any more


def test_who_is_interrupted_does_not_wait_any_more(poller: Poller) -> None:
    class Interrupt(BaseException):
        """Make a call as a signal handler does."""

    def interrupt() -> None:
        raise Interrupt

    poller.on_poll = interrupt
    for _ in range(5):
        with pytest.raises(Interrupt):
            BusyPoll(0, MOMENT).wait(60)
    poller.on_poll = lambda: None
    assert not slept(poller, BusyPoll(0, MOMENT))


def test_nobody_waits_twice_at_the_same_time(poller: Poller) -> None:
    """Poll as a call of a signal handler does, which has interrupted the first."""
    busy = BusyPoll(0, MOMENT)
    inner: list[bool] = []
    poller.on_poll = lambda: inner.append(busy.wait(60))
    poller.answers = iter([True])
    assert busy.wait(60)
    assert inner == [False]
    assert poller.asked == [0]


class Interrupted(set[BusyPoll]):
    """A signal's handler raises as soon as somebody waits."""

    def add(self, busy: BusyPoll) -> None:
        super().add(busy)
        raise KeyboardInterrupt


def test_who_is_interrupted_at_once_does_not_wait_any_more(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Interrupted()
    monkeypatch.setattr(busy_poll, "_waiting", waiting)
    with pytest.raises(KeyboardInterrupt):
        BusyPoll(0, MOMENT).wait(60)
    assert not waiting


FORKING = """
import os, socket, threading, time
from gtcp.client.connections import busy_poll

pairs = [socket.socketpair() for _ in range(4)]
for mine, _ in pairs:
    wait = busy_poll.BusyPoll(mine.fileno(), 0).wait
    threading.Thread(target=wait, args=(60,), daemon=True).start()
while len(busy_poll._waiting) < len(pairs):
    time.sleep(0.001)

def stays_awake():
    mine, other = socket.socketpair()
    offered = []
    busy_poll.yield_processor = lambda: offered.append(None)
    busy_poll.BusyPoll(mine.fileno(), 0.005).wait(0.005)
    return bool(offered)

print("parent", stays_awake(), flush=True)
if os.fork() == 0:
    print("child", stays_awake(), flush=True)
    os._exit(0)
os.wait()
for _, other in pairs:
    other.send(b"x")
"""


def test_a_forked_child_has_none_of_its_parents_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:2] == ["parent False", "child True"], done.stderr


def test_a_real_socket() -> None:
    mine, other = socket.socketpair()
    with mine, other:
        busy = BusyPoll(mine.fileno(), MOMENT)
        assert not busy.wait(2 * MOMENT)
        other.send(b"x")
        assert busy.wait(60)
        assert mine.recv(2) == b"x"
        other.close()
        assert busy.wait(60)  # it has ended
        assert mine.recv(2) == b""


@pytest.mark.parametrize("busy_poll", [0, 1e-6, 0.005])
def test_calls_are_answered_however_long_they_stay_awake(busy_poll: float) -> None:
    with (
        fake_server(Peer.echo) as server,
        gtcp.Client(server.address, busy_poll=busy_poll) as client,
    ):
        for n in range(50):
            assert client.call(1, {"n": n}) == {"n": n}


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="a system without sched_yield")
def test_this_system_can_give_way() -> None:
    assert busy_poll.yield_processor is not None
    busy_poll.yield_processor()
