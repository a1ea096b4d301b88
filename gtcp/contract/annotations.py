"""From types to annotations, and what these import.

A class whose field has the name of something that its annotations use (``list: list[int]``) would
hide it from them. There another name is used, one that begins with an underscore.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gtcp.contract.model import Type
from gtcp.contract.source import Alternatives, Expression, Group, literal

#: Where names come from that are not builtins: the module, and what is imported from it.
_ORIGINS = {
    "UUID": "uuid",
    "Iterator": "collections.abc",
    "Decimal": "decimal",
    **dict.fromkeys(
        ("Annotated", "Any", "Literal", "NamedTuple", "TypeAlias", "TypedDict", "Union"), "typing"
    ),
    "overload": "typing",
}

#: Modules that are imported as such, and under which name.
_MODULES = {
    "dataclasses": "dataclasses",
    "dt": "datetime",
    "enum": "enum",
    "gtcp": "gtcp",
    "msgspec": "msgspec",
}

#: Names that no class of a contract may have in a stub.
RESERVED = frozenset({*_ORIGINS, *_MODULES, *dir(builtins), "annotations"})

_THIRD_PARTY = ("gtcp", "msgspec")

_PLAIN = {
    "any": "Any",
    "bool": "bool",
    "bytes": "bytes",
    "bytearray": "bytearray",
    "memoryview": "memoryview",
    "int": "int",
    "float": "float",
    "str": "str",
    "uuid": "UUID",
    "decimal": "Decimal",
    "list": "list",
    "set": "set",
    "frozenset": "frozenset",
    "vartuple": "tuple",
    "tuple": "tuple",
    "dict": "dict",
    "frozendict": "dict",
}

_DOTTED = {
    "datetime": ("dt", "datetime"),
    "date": ("dt", "date"),
    "time": ("dt", "time"),
    "timedelta": ("dt", "timedelta"),
    "raw": ("msgspec", "Raw"),
}

_CONSTRAINTS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "tz")


class Names:
    """The names that a module uses.

    Args:
        classes: what the classes of the contract are called in the module.
    """

    def __init__(self, classes: Mapping[str, str]) -> None:
        self.classes = classes
        self.aliased: set[str] = set()
        self._imports: set[tuple[str, str, str]] = set()

    def use(self, name: str, hidden: Collection[str] = ()) -> str:
        """Return how to write a name, which is imported if need be.

        Args:
            hidden: names that mean something else where it is written.
        """
        aside = "_" if name in hidden else ""
        if name in _ORIGINS:
            if aside and _ORIGINS[name] == "typing":  # type checkers know no aliases of these
                self._imports.add(("import", "typing", "_typing"))
                return f"_typing.{name}"
            self._imports.add((_ORIGINS[name], name, aside + name))
        elif name in _MODULES:
            self._imports.add(("import", _MODULES[name], aside + name))
        elif name in self.classes.values():
            self.aliased.update({name} if aside else ())
        elif aside:
            self._imports.add(("import", "builtins", "_builtins"))
            return f"_builtins.{name}"
        return aside + name

    def alias(self, name: str) -> list[str]:
        """Return the lines that follow a class which is hidden somewhere."""
        if name not in self.aliased:
            return []
        return ["", "", f"_{name}: {self.use('TypeAlias')} = {name}"]

    def imports(self, text: str) -> Iterator[str]:
        """Yield the lines that import the names of a text: the standard library, then the rest."""
        nodes = ast.walk(ast.parse(text))
        words = {
            each.id
            for each in nodes
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
        }
        imports = {each for each in self._imports if each[2] in words}
        modules = sorted(
            (each[1:] for each in imports if each[0] == "import"),
            key=lambda names: (names[0], names[0] != names[1], names[1]),
        )
        own = [each for each in modules if each[0] not in _THIRD_PARTY]
        third = [each for each in modules if each[0] in _THIRD_PARTY]
        yield from map(_import, own)
        for module in sorted({each[0] for each in imports} - {"import"}):
            found = sorted(each[1:] for each in imports if each[0] == module)
            plain = [name for name, here in found if name == here]
            if plain:
                yield f"from {module} import {', '.join(plain)}"
            renamed = [_as(*each) for each in found if each[0] != each[1]]
            yield from (f"from {module} import {each}" for each in renamed)
        if third and imports - {("import", *each) for each in third}:
            yield ""
        yield from map(_import, third)


def _import(names: tuple[str, str]) -> str:
    return f"import {_as(*names)}"


def _as(name: str, here: str) -> str:
    return name if name == here else f"{name} as {here}"


class Annotations:
    """Writes types as annotations.

    Args:
        names: the names of the module.
        hidden: names that mean something else where the annotations are written.
    """

    def __init__(self, names: Names, hidden: Collection[str] = ()) -> None:
        self._names = names
        self._hidden = hidden

    def use(self, name: str) -> str:
        """Return how to write a name here."""
        return self._names.use(name, self._hidden)

    def of(self, kind: Type) -> Expression:
        """Return the annotation for a type."""
        plain = self._unconstrained(kind)
        limits = [
            f"{name}={_number(getattr(kind, name))}"
            for name in _CONSTRAINTS
            if getattr(kind, name) is not None
        ]
        if not limits:
            return plain
        meta = Group(f"{self.use('msgspec')}.Meta(", limits, ")")
        return Group(f"{self.use('Annotated')}[", [plain, meta], "]")

    def iterator_of(self, kind: Type) -> Expression:
        """Return the annotation for an iterator over items of a type."""
        return Group(f"{self.use('Iterator')}[", [self.of(kind)], "]", False)

    def optional(self, kind: Type, other: str) -> Expression:
        """Return the annotation for a type or something else: ``int | None``."""
        plain = self.of(kind)
        known = plain.items if isinstance(plain, Alternatives) else [plain]
        return self._union([*known, other])

    def _union(self, items: list[Expression]) -> Expression:
        ordered = sorted(items, key=lambda each: each == "None")
        kept = [each for at, each in enumerate(ordered) if each not in ordered[:at]]
        return kept[0] if len(kept) == 1 else Alternatives(kept, f"{self.use('Union')}[")

    def _unconstrained(self, kind: Type) -> Expression:
        name = kind.kind
        if name == "none":
            return "None"
        if name == "ref":
            return self.use(self._names.classes[kind.name])
        if name == "literal":
            values = [literal(each) for each in kind.values]
            return Group(f"{self.use('Literal')}[", values, "]", len(values) > 1)
        if name == "union":
            return self._union([self.of(each) for each in kind.types])
        if name in _DOTTED:
            module, attribute = _DOTTED[name]
            return f"{self.use(module)}.{attribute}"
        plain = self.use(_PLAIN[name])
        items = self._items(kind)
        return Group(f"{plain}[", items, "]", len(items) > 1) if items else plain

    def _items(self, kind: Type) -> list[Expression]:
        if kind.kind == "tuple":
            return [self.of(each) for each in kind.types] or ["()"]
        items: list[Expression] = []
        if kind.keys is not None:
            items.append(self.of(kind.keys))
        if kind.items is not None:
            items.append(self.of(kind.items))
        return [*items, "..."] if kind.kind == "vartuple" else items


def _number(value: Any) -> str:
    written = literal(value)
    assert isinstance(written, str)
    return written
