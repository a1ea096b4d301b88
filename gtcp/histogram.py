"""Histograms of durations, with the buckets of OpenTelemetry's conventions for RPC."""

from __future__ import annotations

from bisect import bisect_left

#: Upper bounds of the buckets of durations, in seconds: those of the convention.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Histogram:
    """Counts of observations by bucket, not cumulative, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        """Add the observations of another one with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def names(self) -> list[str]:
        """The bounds as Prometheus writes them, that of the last bucket too."""
        return [*(f"{bound:.15g}" for bound in self.bounds), "+Inf"]
