"""Writes the classes of a contract: Structs, enums, TypedDicts, NamedTuples and dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from gtcp.contract.annotations import Annotations, Names
from gtcp.contract.defaults import Defaults, has_default, is_plain_member, needed
from gtcp.contract.model import FACTORIES, Class, Field
from gtcp.contract.source import (
    INDENT,
    Expression,
    Group,
    assignment,
    docstring,
    flat,
    identifier,
    layout,
    literal,
    quoted,
)

_ENUM_BASES = {
    "Enum": ["enum.Enum"],
    "IntEnum": ["enum.IntEnum"],
    "StrEnum": ["str", "enum.Enum"],
    "Flag": ["enum.Flag"],
    "IntFlag": ["enum.IntFlag"],
}


#: Defaults that msgspec copies.
_EMPTY = {"list": "[]", "dict": "{}"}


def in_order(classes: Mapping[str, Class]) -> Iterator[str]:
    """Yield the names of the classes, each behind those that its defaults need."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if name in done or name not in classes:
            return
        done.add(name)
        for field in classes[name].fields:
            for other in needed(field):
                yield from visit(other)
        yield name

    for name in classes:
        yield from visit(name)


class ClassWriter:
    """Writes classes.

    Args:
        classes: those of the contract.
        names: the names of the module.
    """

    def __init__(self, classes: Mapping[str, Class], names: Names) -> None:
        self._classes = classes
        self._names = names

    def lines(self, name: str) -> list[str]:
        """Return the lines of one class, and the aliases behind it."""
        definition = usable(self._classes[name])
        called = self._names.classes[name]
        if definition.kind == "enum":
            return self._enum(called, definition)
        if definition.kind == "typeddict":
            return self._typed_dict(called, definition)
        return self._with_fields(called, definition)

    def _enum(self, called: str, definition: Class) -> list[str]:
        self._names.use("enum")
        bases = _ENUM_BASES[definition.base]
        members = definition.members
        if members and all(is_plain_member(each, definition.base) for each in members):
            body = [f"{INDENT}{each} = {flat(literal(value))}" for each, value in members.items()]
            return [f"class {called}({', '.join(bases)}):", *_body(definition.doc, body)]
        arguments: list[Expression] = [literal(called), literal(members)]
        arguments += ["type=str"] if definition.base == "StrEnum" else []
        value = Group(f"{bases[-1]}(", arguments, ")")
        return [f"{called} = {layout(value, 0, len(called) + 3)}"]

    def _typed_dict(self, called: str, definition: Class) -> list[str]:
        """A class; two, one derived from the other, where only some keys are required."""
        use = self._names.use
        base = use("TypedDict")
        required = [each for each in definition.fields if each.required]
        rest = [each for each in definition.fields if not each.required]
        if any(identifier(each.name) != each.name for each in definition.fields):
            return self._functional(called, required, rest)
        if not (required and rest):
            header = f"class {called}({base}{', total=False' if rest else ''}):"
            return [header, *self._keys(definition.doc, definition, required or rest)]
        first = f"_{called}Required"
        return [
            f"class {first}({base}):",
            *self._keys("", definition, required),
            "",
            "",
            f"class {called}({first}, total=False):",
            *self._keys(definition.doc, definition, rest),
        ]

    def _keys(self, doc: str, definition: Class, fields: list[Field]) -> list[str]:
        annotations = Annotations(self._names, _field_names(definition))
        return _body(
            doc, [assignment(each.name, annotations.of(each.type), None, 4) for each in fields]
        )

    def _functional(self, called: str, required: list[Field], rest: list[Field]) -> list[str]:
        """For keys that are no identifiers."""
        base = self._names.use("TypedDict")
        first, second = f"_{called}Required", f"_{called}Rest"
        lines: list[str] = []
        for name, fields in ((first, required), (second, rest)):
            # Types that are evaluated at once may refer to later classes only as strings.
            types: list[Expression] = [
                f"{quoted(each.name)}: {quoted(flat(Annotations(self._names).of(each.type)))}"
                for each in fields
            ]
            arguments: list[Expression] = [literal(name), Group("{", types, "}")]
            arguments += ["total=False"] if fields is rest else []
            value = Group(f"{base}(", arguments, ")")
            lines += [f"{name} = {layout(value, 0, len(name) + 3)}"]
        return [*lines, "", "", f"class {called}({first}, {second}):", f"{INDENT}pass"]

    def _with_fields(self, called: str, definition: Class) -> list[str]:
        annotations = Annotations(self._names, _field_names(definition))
        header = []
        bases: list[Expression] = []
        if definition.kind == "struct":
            bases = ["msgspec.Struct", *_struct_options(definition)]
            self._names.use("msgspec")
        elif definition.kind == "namedtuple":
            bases = [self._names.use("NamedTuple")]
        else:
            self._names.use("dataclasses")
            options: list[Expression] = [f"{k}={v}" for k, v in sorted(definition.options.items())]
            decorator = Group("dataclasses.dataclass(", options, ")")
            header = ["@" + (layout(decorator, 0, 1) if options else "dataclasses.dataclass")]
        parent = layout(Group("(", bases, ")"), 0, len(f"class {called}"), 1) if bases else ""
        body = [self._field(each, definition, annotations) for each in definition.fields]
        return [*header, f"class {called}{parent}:", *_body(definition.doc, body)]

    def _field(self, field: Field, definition: Class, annotations: Annotations) -> str:
        kind = annotations.of(field.type)
        name = identifier(field.name)
        if is_unknown(field):
            kind = annotations.optional(field.type, f"{annotations.use('msgspec')}.UnsetType")
        rename = field.encode_name or (field.name if name != field.name else "")
        return assignment(name, kind, self._value(field, definition, annotations, rename), 4)

    def _value(
        self, field: Field, definition: Class, annotations: Annotations, rename: str
    ) -> Expression | None:
        """Return the default, or its replacement; None if there is none."""
        arguments: list[Expression] = []
        value: Expression | None = None
        if definition.kind == "struct" and not rename and field.factory in _EMPTY:
            return _EMPTY[field.factory]
        if field.factory:
            factory = field.factory
            if factory not in FACTORIES:
                factory = self._names.classes[factory]
            arguments.append(f"default_factory={annotations.use(factory)}")
        elif is_unknown(field):
            value = f"{annotations.use('msgspec')}.UNSET"
        elif not field.required:
            defaults = Defaults(self._classes, annotations, self._names.classes)
            value = defaults.of(field.default, field.type)
        if rename:
            if value is not None:
                arguments.append(f"default={flat(value)}")
            arguments.append(f"name={quoted(rename)}")
        if not arguments:
            return value
        module = "dataclasses" if definition.kind == "dataclass" else "msgspec"
        return Group(f"{annotations.use(module)}.field(", arguments, ")")


def usable(definition: Class) -> Class:
    """Return a class that can be written, and is the same on the wire.

    Names that are no identifiers need a Struct, which can rename its fields. What is an array has
    no way to leave a position out: if the default of one is unknown, all are required.
    """
    fields = definition.fields
    if definition.kind in ("dataclass", "namedtuple") and any(
        identifier(each.name) != each.name or each.name.startswith("_") for each in fields
    ):
        options = {"array_like": True} if definition.kind == "namedtuple" else {}
        definition = msgspec.structs.replace(definition, kind="struct", options=options)
    if definition.is_array and any(map(is_unknown, fields)):
        fields = tuple(Field(each.name, each.type, each.encode_name) for each in fields)
    return msgspec.structs.replace(definition, fields=fields)


def is_unknown(field: Field) -> bool:
    """Return whether the field has a default that only the server knows."""
    return not (field.required or field.factory or has_default(field))


def _struct_options(definition: Class) -> list[Expression]:
    options: dict[str, bool | str | int] = {**definition.options}
    if definition.tag is not None:
        options |= {"tag": definition.tag, "tag_field": definition.tag_field or "type"}
    return [f"{name}={flat(literal(value))}" for name, value in sorted(options.items())]


def _field_names(definition: Class) -> set[str]:
    return {identifier(each.name) for each in definition.fields}


def _body(doc: str, lines: list[str]) -> list[str]:
    text = docstring(doc, 4)
    if text and lines:
        text.append("")
    return [*text, *lines] or [f"{INDENT}pass"]
