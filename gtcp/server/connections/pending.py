"""The requests of one connection that were read and have not run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from time import monotonic

from gtcp.server.commands.table import Item
from gtcp.server.connections.overload import Durations
from gtcp.server.connections.scheduler import Scheduler

#: Bytes queued on a connection beyond which it is not read from.
MAX_QUEUED_BYTES = 65536


class PendingRequests(deque[Item]):
    """A deque of requests. While its connection is queued, they are counted in the scheduler.

    A batch that runs as soon as it is read is not counted: that would cost more than it tells.

    Attributes:
        size: bytes of the lines that are counted.
        counted: how many requests are counted: none, or all.
        by_command: how many of them each command has.
        unknown: whether some were counted when their command had no estimate of its duration.
    """

    __slots__ = ("_durations", "_scheduler", "by_command", "counted", "size", "unknown")

    def __init__(self, scheduler: Scheduler, durations: Durations) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._durations = durations
        self.size = self.counted = 0
        self.by_command: Counter[int | None] | None = None
        self.unknown = False

    @property
    def full(self) -> bool:
        """Whether enough is queued: no more is to be read."""
        return self.size >= MAX_QUEUED_BYTES

    def seconds(self, now: float) -> float:
        """Return how long the counted requests will compute, by estimate."""
        return self._durations.total(self.by_command or {}, now)

    def count_all(self) -> None:
        """Count the requests, unless they are counted already."""
        if not self.counted:
            self._count(self)

    def put(self, items: list[Item]) -> None:
        """Append requests, counted."""
        self.count_all()
        self.extend(items)
        self._count(items)

    def put_first(self, items: deque[Item]) -> None:
        """Put requests before the others."""
        self.extendleft(reversed(items))
        if self.counted:
            self._count(items)

    def uncount(self, item: Item) -> None:
        """Forget a request that has been taken, if it was counted."""
        if self.counted:
            assert self.by_command is not None
            self.counted -= 1
            key = _key(item)
            self.by_command[key] -= 1
            self._scheduler.queued[key] -= 1
            self.size -= len(item._source.line)
            self.unknown = self.unknown and bool(self.counted)

    def take_all(self) -> list[Item]:
        """Take all requests."""
        items = list(self)
        self.clear()
        for item in items:
            self.uncount(item)
        return items

    def _count(self, items: Iterable[Item]) -> None:
        if self.by_command is None:
            self.by_command = Counter()
        now, estimate = monotonic(), self._durations.of
        for item in items:
            self.counted += 1
            key = _key(item)
            self.by_command[key] += 1
            self._scheduler.queued[key] += 1
            self.size += len(item._source.line)
            self.unknown = self.unknown or not (key is None or estimate(key, now))


def _key(item: Item) -> int | None:
    """Return the cmdid of a request; None for others, whose cmdids are whatever a peer sends."""
    return None if item._command is None else item.cmdid
