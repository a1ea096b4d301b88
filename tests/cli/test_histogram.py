"""The histogram: close to the truth, whatever it holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcp.cli.histogram import BAR, ROWS, Histogram, Row, bars

seconds = st.floats(min_value=0, max_value=10_000, allow_nan=False)


def of(values: list[float]) -> Histogram:
    histogram = Histogram()
    for each in values:
        histogram.add(each)
    return histogram


@given(st.lists(seconds, min_size=1), st.floats(min_value=0.1, max_value=100))
def test_a_percentile_is_at_most_a_64th_too_high(values: list[float], percent: float) -> None:
    true = sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
    told = of(values).percentile(percent)
    assert true * (1 - 1e-9) <= told <= true * 65 / 64 + 2e-6


@given(st.lists(seconds, min_size=1))
def test_the_rest_is_exact(values: list[float]) -> None:
    histogram = of(values)
    assert histogram.count == len(values)
    assert histogram.longest == max(values) == histogram.percentile(100)
    assert histogram.total == pytest.approx(math.fsum(values))


@given(st.lists(seconds, min_size=1))
def test_rows_hold_every_call_once(values: list[float]) -> None:
    rows = of(values).rows()
    assert 1 <= len(rows) <= ROWS
    assert sum(row.calls for row in rows) == len(values)
    assert sorted(row.up_to for row in rows) == [row.up_to for row in rows]


def test_many_calls_take_little_memory() -> None:
    histogram = Histogram()
    for number in range(100_000):
        histogram.add(number / 100)
    assert len(histogram._buckets) < 2_000


def test_nothing_counted_is_nothing_shown() -> None:
    assert Histogram().rows() == []
    assert list(bars([])) == []


def test_calls_that_took_all_the_same_are_one_row() -> None:
    assert [row.calls for row in of([0.25] * 3).rows()] == [3]


def test_bars_are_as_long_as_their_share() -> None:
    lines = list(bars([Row(0.001, 1), Row(0.0105, 100), Row(1.0, 50), Row(2.0, 0)][:3]))
    assert [line.count("#") for line in lines] == [1, BAR, BAR // 2]
    assert lines[0].startswith("<=    1.000 ms #")
    assert lines[2].startswith("<= 1000.000 ms ####")
    assert [line.split()[-1] for line in lines] == ["0.66%", "66.23%", "33.11%"]
