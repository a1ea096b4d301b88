"""Iterators that tell when they end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gtcp.results import WatchedResults


def watched(results: Any) -> tuple[WatchedResults, list[BaseException | None]]:
    """Return the iterator, and what it tells at its end."""
    told: list[BaseException | None] = []
    return WatchedResults(results, told.append), told


def test_the_end_is_told_once() -> None:
    results, told = watched(iter([1, 2]))
    assert list(results) == [1, 2]
    assert told == [None]
    results.close()
    del results
    assert told == [None]


def test_an_iterator_that_nobody_refers_to_has_ended() -> None:
    results, told = watched(iter([1, 2]))
    assert next(results) == 1
    del results
    assert told == [None]


def test_iterators_that_are_no_generators() -> None:
    results, told = watched(iter([1, 2]))
    error = KeyError()
    with pytest.raises(KeyError):
        results.throw(error)
    assert told == [error]
    results.close()


def test_a_generator_may_handle_what_is_thrown() -> None:
    def numbers() -> Iterator[int]:
        try:
            yield 1
        except KeyError:
            yield 2
        raise OverflowError

    results, told = watched(numbers())
    assert next(results) == 1
    assert results.throw(KeyError()) == 2
    assert told == []
    with pytest.raises(OverflowError), results:
        next(results)
    assert [type(each) for each in told] == [OverflowError]
