"""Requests that have been read and wait for their turn, since handlers compute.

While they wait, more is read: so a request that would be too late by its turn is refused when it
comes, not when its time has passed, and the queue stays short enough to be worth waiting in.
How long a turn is away is estimated by how long the last ones took. The connections have their
turns in rotation: whoever sends the most waits the longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub

from gtcp.protocol import count_lines

#: Seconds of a round: as long timers, signals, and what has come meanwhile wait, and a handler.
ROUND_SECONDS = 0.002

#: Seconds of one connection's turn, at least, while it holds enough: several requests, if quick.
#: A piece that takes less is followed by a larger one.
TURN_SECONDS = 0.00125

#: How much of what was learned before still counts when more is: an average over some pieces.
KEPT = 0.9

#: Requests from which on the average says something: one that is slow says nothing of others.
ENOUGH = 4.0

#: Seconds in which nothing ran, after which it counts no more: what runs now may be something else.
FRESH_SECONDS = 1.0


class Backlog:
    """The connections that wait for their turn, in their order. Belongs to one hub.

    It is true while there are any.

    Attributes:
        seconds: how long a request takes, about; 0 while that is not known.
        requests: how many wait.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.requests = 0
        self._spent = self._done = 0.0  # seconds, and requests that ran in them
        self._noted = 0.0  # when something was learned last
        self._queue: deque[Held] = deque()
        loop: Any = get_hub().loop
        # Not `run_callback`: of those gevent runs fifty in a row before the loop goes round.
        self._round = loop.timer(0)

    def __len__(self) -> int:
        return len(self._queue)

    def append(self, held: Held) -> None:
        """Give what a connection holds its turn after those that wait already."""
        self._queue.append(held)
        if not self._round.active:
            self._round.start(self._run)

    def note(self, seconds: float, requests: int) -> None:
        """Learn how long it took to run so many."""
        now = monotonic()
        kept = KEPT if now - seconds - self._noted < FRESH_SECONDS else 0.0
        self._noted = now
        self._spent = kept * self._spent + seconds
        self._done = kept * self._done + requests
        self.seconds = self._spent / self._done if self._done >= ENOUGH else 0.0

    def close(self) -> None:
        """Run nothing any more."""
        self._queue.clear()
        self._round.stop()
        self._round.close()

    def _run(self) -> None:
        until = monotonic() + ROUND_SECONDS
        try:
            while self._queue:
                held = self._queue.popleft()
                held.queued = False
                held.run()
                if monotonic() >= until:
                    break
        finally:
            if self._queue and not self._round.active:
                self._round.start(self._run)


class Held:
    """The lines of one connection that wait for their turn, in their order.

    It is true while there are any. The end of the stream is held too, as an empty one.

    Args:
        run: serves some of them; called when it is their turn.

    Attributes:
        requests: how many lines there are.
        size: how many bytes they have.
        queued: whether their turn will come.
    """

    __slots__ = ("_backlog", "_chunks", "_new", "queued", "requests", "run", "size")

    def __init__(self, backlog: Backlog, run: Callable[[], None]) -> None:
        self._backlog = backlog
        self._chunks: deque[tuple[bytes, float]] = deque()
        self._new: deque[tuple[bytes, float]] = deque()  # comes after the chunks
        self.run = run
        self.requests = self.size = 0
        self.queued = False

    def __bool__(self) -> bool:
        return bool(self._chunks or self._new)

    def put(self, lines: bytes, arrived: float) -> None:
        """Hold these too, which came at this time."""
        self._new.append((lines, arrived))
        self._count(count_lines(lines), len(lines))

    def take(self, least: int) -> tuple[bytes, float]:
        """Take the first lines that together have more than so many bytes, or all of one time.

        Returns:
            The lines, and when they came.
        """
        chunks = self._chunks or self._new
        lines, arrived = chunks.popleft()
        end = lines.find(b"\n", least) + 1
        if 0 < end < len(lines):
            chunks.appendleft((lines[end:], arrived))
            lines = lines[:end]
        self._count(-count_lines(lines), -len(lines))
        return lines, arrived

    def take_all(self) -> bytes:
        """Take all lines."""
        lines = b"".join(lines for lines, _arrived in (*self._chunks, *self._new))
        self._chunks.clear()
        self._new.clear()
        self._count(-self.requests, -self.size)
        return lines

    def keep(self, which: Callable[[bytes], bytes]) -> None:
        """Leave of the lines that came together those that are returned."""
        for chunks in (self._chunks, self._new):
            held = [(which(lines), arrived) for lines, arrived in chunks]
            chunks.clear()
            chunks.extend(each for each in held if each[0])
        left = b"".join(lines for lines, _arrived in (*self._chunks, *self._new))
        self._count(count_lines(left) - self.requests, len(left) - self.size)

    def wait_for_turn(self, sift: Callable[[bytes, float, int], bytes]) -> None:
        """Have them run when those before have had their turn.

        Args:
            sift: called once with lines that are to wait, when they came, and how many wait
                before them, when it is known how long that takes; returns those that shall.
        """
        if self._backlog.seconds:
            self._sift(sift)
        if self and not self.queued:
            self.queued = True
            self._backlog.append(self)

    def wait(self, ahead: int) -> float:
        """Seconds until the turn of a request with so many before it here, by estimate.

        Before each turn the others have one: also those whose requests come later.
        """
        backlog = self._backlog
        if not backlog.seconds:
            return 0.0
        a_turn = max(1.0, TURN_SECONDS / backlog.seconds)
        others = len(backlog) - self.queued
        of_others = min(a_turn * others, max(others, backlog.requests - self.requests))
        return backlog.seconds * (ahead + 1 + (ahead // a_turn + 1) * of_others)

    def _sift(self, sift: Callable[[bytes, float, int], bytes]) -> None:
        new, self._new = self._new, deque()
        for lines, _arrived in new:
            self._count(-count_lines(lines), -len(lines))
        for lines, arrived in new:
            left = sift(lines, arrived, self.requests) if lines else lines
            if left or not lines:
                self._chunks.append((left, arrived))
                self._count(count_lines(left), len(left))

    def _count(self, requests: int, size: int) -> None:
        self.requests += requests
        self._backlog.requests += requests
        self.size += size
