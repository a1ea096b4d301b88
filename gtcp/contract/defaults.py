"""From the default of a field, as JSON, to the expression that makes it."""

from __future__ import annotations

import base64
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gtcp.contract.annotations import Annotations
from gtcp.contract.model import Class, Field, Type, parts
from gtcp.contract.source import Expression, Group, identifier, literal

_SCALARS = frozenset({"bool", "int", "float", "str", "literal", "any"})


class Defaults:
    """Writes defaults.

    Args:
        classes: those of the contract.
        annotations: writes the types where the defaults are written.
        names: what the classes are called.
    """

    def __init__(
        self, classes: Mapping[str, Class], annotations: Annotations, names: Mapping[str, str]
    ) -> None:
        self._classes = classes
        self._annotations = annotations
        self._names = names

    def of(self, value: Any, kind: Type) -> Expression:
        """Return the expression for a value of a type."""
        simple = self._simple(value, kind)
        if simple is not None:
            return simple
        use = self._annotations.use
        return Group(
            f"{use('msgspec')}.convert(", [literal(value), self._annotations.of(kind)], ")"
        )

    def _simple(self, value: Any, kind: Type) -> Expression | None:
        if kind.kind == "union":
            others = [each for each in kind.types if each.kind != "none"]
            if value is None or all(each.kind in _SCALARS for each in others):
                kind = Type("any")
            elif len(others) == 1:
                return self.of(value, others[0])
        if value is None or kind.kind in _SCALARS:
            return repr(value) if not isinstance(value, str | list | dict) else literal(value)
        if kind.kind in ("uuid", "decimal") and isinstance(value, str):
            name = "UUID" if kind.kind == "uuid" else "Decimal"
            return Group(f"{self._annotations.use(name)}(", [literal(value)], ")")
        if kind.kind == "bytes" and isinstance(value, str):
            return "b" + _double_quoted(base64.b64decode(value))
        if kind.kind == "ref" and self._classes[kind.name].kind == "enum":
            return self._member(value, kind.name)
        return None

    def _member(self, value: Any, name: str) -> Expression:
        cls = self._annotations.use(self._names[name])
        definition = self._classes[name]
        for member, each in definition.members.items():
            if each == value and is_plain_member(member, definition.base):
                return f"{cls}.{member}"
        return Group(f"{cls}(", [literal(value)], ")")


def _double_quoted(value: bytes) -> str:
    body = repr(value + b"'\"")[2:-1].removesuffix("\\'\"").replace("\\'", "'")
    if value.count(b'"') > value.count(b"'"):
        return "'" + body.replace("'", "\\'") + "'"
    return '"' + body.replace('"', '\\"') + '"'


_BASES = {
    "Enum": (enum.Enum,),
    "IntEnum": (enum.IntEnum,),
    "StrEnum": (enum.Enum, str),
    "Flag": (enum.Flag,),
    "IntFlag": (enum.IntFlag,),
}


def is_plain_member(name: str, base: str) -> bool:
    """Return whether a member can be written as an attribute of the class."""
    plain = identifier(name) == name and not name.startswith("_") and name not in ("mro", "name")
    return plain and name != "value" and not any(hasattr(each, name) for each in _BASES[base])


def needed(field: Field) -> Iterator[str]:
    """Yield the names of the classes that must be defined before a field's default."""
    if field.factory:
        yield field.factory
    if field.default is not None and has_default(field):
        yield from _refs(field.type)


def has_default(field: Field) -> bool:
    """Return whether the contract has the default as a value."""
    return field.default is not msgspec.UNSET


def _refs(kind: Type) -> Iterator[str]:
    if kind.kind == "ref":
        yield kind.name
    for part in parts(kind):
        yield from _refs(part)
