"""What is public: the members of classes, and the sections of docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any


def members(cls: Any) -> list[str]:
    """Return the public methods and properties of a class that gtcp defines, in any base."""
    if not isinstance(cls, type):
        return []
    found = []
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != "gtcp":
            continue
        for name, value in vars(base).items():
            plain = inspect.isfunction(value) or isinstance(value, property | classmethod)
            if plain and not name.startswith("_"):
                found.append(name)
    return sorted(set(found))


def sections(doc: str) -> dict[str, str]:
    """Return the sections of a docstring, such as Args and Raises, with their text."""
    parts = re.split(
        r"^(Args|Returns|Yields|Raises|Attributes):\n", inspect.cleandoc(doc), flags=re.M
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def named(section: str) -> set[str]:
    """Return the names that a section explains: one or several at the beginning of an item."""
    items = re.findall(r"^ {4}([\w*, ]+):", section, re.MULTILINE)
    return {name.strip().lstrip("*") for item in items for name in item.split(",")}
