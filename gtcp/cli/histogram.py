"""Latencies counted in buckets, so that the memory used does not grow with the number of calls.

There are 64 buckets for each doubling, as in HdrHistogram, so that the width of a bucket is at most
1/64 of its values. The maximum is exact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

#: Below this number of units a bucket is one unit wide; above it the width grows with the value.
EXACT = 128

#: Units per second: a microsecond is far below the duration of a call.
UNITS = 1_000_000

ROWS, BAR = 12, 40


class Row(NamedTuple):
    """The number of calls that took up to ``up_to`` seconds, and more than the previous row."""

    up_to: float
    calls: int


class Histogram:
    """The distribution of latencies. Used by one greenlet at a time.

    Attributes:
        count: the number of calls.
        total: the sum of their latencies, seconds.
        longest: the maximum, seconds; 0 when there are no calls.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._shortest = math.inf
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count a call that took this many seconds."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self._shortest = min(self._shortest, seconds)
        units = int(seconds * UNITS)
        shift = max(0, units.bit_length() - EXACT.bit_length() + 1)
        self._buckets[(units >> shift) + (shift << 32)] += 1

    def percentile(self, percent: float) -> float:
        """Return a percentile in seconds, at most 2 percent too high."""
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for upper, count in self._sorted():
            seen += count
            if seen >= wanted:
                return upper
        return self.longest

    def rows(self) -> list[Row]:
        """Return the distribution in a dozen rows from the shortest to the longest.

        The bounds grow by a constant factor, since latencies span orders of magnitude.
        """
        if not self.count:
            return []
        low = max(self._shortest, 1 / UNITS)
        step = max(1.0, self.longest / low) ** (1 / ROWS)
        bounds = [low * step**number for number in range(1, ROWS)]
        counts = [0] * ROWS
        for upper, count in self._sorted():
            counts[sum(bound < upper for bound in bounds)] += count
        return [Row(*each) for each in zip([*bounds, self.longest], counts, strict=True) if each[1]]

    def _sorted(self) -> Iterator[tuple[float, int]]:
        """Yield the upper bound of each bucket in seconds, and its count."""
        for key, count in sorted(self._buckets.items()):
            shift, units = key >> 32, key & 0xFFFFFFFF
            yield min(((units + 1) << shift) / UNITS, self.longest), count


def bars(rows: list[Row]) -> Iterator[str]:
    """Yield the rows as lines of text, in milliseconds."""
    most = max((row.calls for row in rows), default=0)
    total = sum(row.calls for row in rows)
    shown = [f"{row.up_to * 1000:.3f}" for row in rows]
    width = max(map(len, shown), default=0)
    for row, up_to in zip(rows, shown, strict=True):
        bar = "#" * max(1, round(BAR * row.calls / most))
        yield f"<= {up_to:>{width}} ms {bar:<{BAR}} {row.calls / total:7.2%}"
