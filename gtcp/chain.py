"""Middleware of servers and clients: functions that each call the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Next = Callable[[Any], Any]


def chained(functions: Iterable[Callable[[Any, Next], Any]], last: Next) -> Next:
    """Return one function that calls the first of these, which is given the next, and so on.

    Args:
        functions: the outermost first; each is called with what it is about and the next function.
        last: the function that the last of them is given.
    """
    following = last
    for function in reversed(tuple(functions)):
        following = _before(function, following)
    return following


def _before(function: Callable[[Any, Next], Any], following: Next) -> Next:
    return lambda what: function(what, following)
