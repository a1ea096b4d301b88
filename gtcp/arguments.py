"""Checks of arguments: one line that names the argument, what was expected and what was given.

TypeError for a wrong type, ValueError for a value of the right type that is impossible. A bool is
not a number, and what may be a secret is not shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import isfinite
from typing import Any, NoReturn

from msgspec import Raw, Struct

from gtcp.errors import CommandError
from gtcp.masking import MASK, may_be_secret

#: Seconds. "No limit" is written None.
LONGEST_SECONDS = 1e9

_SHOWN = 100


def shown(value: object) -> str:
    """Return a value as an error message shows it: short, and no secret."""
    if may_be_secret(value):
        return MASK
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def wrong_type(name: str, expected: str, value: object) -> NoReturn:
    """Raise the TypeError."""
    raise TypeError(f"{name}: expected {expected}, got {shown(value)}")


def wrong_value(name: str, expected: str, value: object) -> NoReturn:
    """Raise the ValueError."""
    raise ValueError(f"{name}: expected {expected}, got {shown(value)}")


def check_seconds(name: str, value: Any, *, optional: bool = True) -> None:
    """Refuse what is not a duration from 0 to ``LONGEST_SECONDS``, in seconds.

    Args:
        optional: whether None is accepted.
    """
    if value is None and optional:
        return
    expected = f"seconds from 0 to {LONGEST_SECONDS:g}" + (" or None" if optional else "")
    check_number(name, value, expected)
    if not 0 <= value <= LONGEST_SECONDS:
        wrong_value(name, expected, value)


def check_number(name: str, value: Any, expected: str = "a number") -> None:
    """Refuse what is not a finite int or float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(name, expected, value)
    if not isfinite(value):
        wrong_value(name, expected, value)


def check_integer(name: str, value: Any, low: int, *, optional: bool = False) -> None:
    """Refuse what is not an int of ``low`` or more."""
    if value is None and optional:
        return
    expected = f"{low} or more" + (" or None" if optional else "")
    if isinstance(value, bool) or not isinstance(value, int):
        wrong_type(name, f"an int of {expected}", value)
    if value < low:
        wrong_value(name, expected, value)


def check_switch(name: str, value: Any) -> None:
    """Refuse what is not True or False."""
    if not isinstance(value, bool):
        wrong_type(name, "True or False", value)


def check_text(name: str, value: Any) -> None:
    """Refuse what is not a string."""
    if not isinstance(value, str):
        wrong_type(name, "a string", value)


def check_path(name: str, value: Any) -> None:
    """Refuse what is not the path of a file or None."""
    if value is not None and not isinstance(value, str | os.PathLike):
        wrong_type(name, "the path of a file or None", value)


def check_secret(name: str, value: Any) -> None:
    """Refuse what is not a string or bytes, without showing it."""
    if not isinstance(value, str | bytes):
        raise TypeError(f"{name}: expected a string or bytes, got {type(value).__name__}")


def checked_secrets(name: str, value: Any) -> str | bytes | list[str]:
    """Return one secret, or a list of several; refuse everything else without showing it."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        several = list(value)
        if all(isinstance(each, str) for each in several):
            return several
    elif isinstance(value, str | bytes):
        return value
    raise TypeError(f"{name}: expected a string, bytes or a list of strings")


def error_classes(name: str, value: Any) -> tuple[type[CommandError], ...]:
    """Return classes of errors of an application; refuse what has no code, or a code twice.

    Raises:
        TypeError: naming the argument.
        ValueError: two of them have the same code.
    """
    classes = tuple(value) if isinstance(value, Iterable) else (value,)
    codes: dict[int, type[CommandError]] = {}
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, CommandError)) or not each.own_code:
            wrong_type(name, "subclasses of gtcp.CommandError with a code=", each)
        if codes.setdefault(each.own_code, each) is not each:
            first = codes[each.own_code].__name__
            raise ValueError(f"{name}: {first} and {each.__name__} both have code {each.own_code}")
    return classes


def check_params(params: Any) -> None:
    """Refuse params that are not a JSON object. Their value is not shown."""
    if params is not None and not isinstance(params, dict) and not _is_object(params):
        expected = "a dict, a msgspec.Struct, a dataclass or None"
        kind = type(params).__name__
        raise TypeError(f"params: expected {expected}, got an object of type {kind}")


def _is_object(value: Any) -> bool:
    """Return whether msgspec encodes a value as a JSON object; dicts are not asked about."""
    if isinstance(value, Struct):
        return not value.__struct_config__.array_like
    if isinstance(value, Raw):
        return bytes(value).lstrip()[:1] == b"{"
    return any(hasattr(type(value), each) for each in ("__dataclass_fields__", "__attrs_attrs__"))
