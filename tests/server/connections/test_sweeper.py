"""All connections are looked at, and nobody has to wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest

from gtcp.server.connections import sweeper as module
from gtcp.server.connections.sweeper import PIECE_SECONDS, Sweeper


class Slow:
    """A connection whose sweep takes longer than a piece may."""

    def __init__(self, seen: list[Any]) -> None:
        self._seen = seen

    def sweep(self, now: float) -> None:
        assert now <= monotonic()
        until = now + PIECE_SECONDS
        while monotonic() < until:
            pass
        self._seen.append(self)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.002)


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def connections(seen: list[Any]) -> Iterator[set[Any]]:
    connections: set[Any] = {Slow(seen) for _ in range(20)}
    sweeper = Sweeper(connections, (), 0.001)
    yield connections
    sweeper.stop()
    count = len(seen)
    gevent.sleep(0.01)
    assert len(seen) == count


def test_between_two_that_take_long_others_have_their_turn(
    seen: list[Any], connections: set[Any]
) -> None:
    while len(connections & set(seen)) < len(connections):
        seen.append("a turn")
        gevent.sleep(0)
    assert not any(isinstance(a, Slow) and isinstance(b, Slow) for a, b in pairwise(seen))


def test_it_begins_again_when_it_is_through(seen: list[Any], connections: set[Any]) -> None:
    while len(seen) < 50:
        gevent.sleep(0.001)
    assert set(seen[:20]) == set(seen[20:40]) == connections


def test_one_that_has_closed_is_left_alone(seen: list[Any], connections: set[Any]) -> None:
    while not seen:
        gevent.sleep(0.001)
    closed = (connections - set(seen)).pop()
    connections.remove(closed)
    while len(seen) < 30:
        gevent.sleep(0.001)
    assert closed not in seen


class Quick:
    """A connection whose sweep takes no time."""

    def __init__(self) -> None:
        self.seen = 0

    def sweep(self, now: float) -> None:
        self.seen += 1


def test_those_that_owe_something_are_looked_at_each_time_the_others_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_SHARE", 0.1)
    owing, idle = Quick(), {Quick() for _ in range(10)}
    connections: Any = {owing, *idle}
    sweeper = Sweeper(connections, {owing}, 10 * 10 * module.SECONDS)  # all of them in ten looks
    while owing.seen < 30:
        gevent.sleep(0.001)
    sweeper.stop()
    assert all(1 <= each.seen <= owing.seen / 4 for each in idle)


def test_without_an_idle_timeout_only_those_that_owe_something_are_looked_at() -> None:
    owing, idle = Quick(), Quick()
    sweeper = Sweeper({owing, idle}, {owing}, None)  # type: ignore[arg-type]
    while owing.seen < 3:
        gevent.sleep(0.001)
    sweeper.stop()
    assert not idle.seen
