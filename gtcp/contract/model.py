"""A contract as data: commands, the types of their params and results, and the classes in these.

It holds what ``msgspec.inspect`` knows of a type, which JSON Schema does not: that a string is a
UUID, a naive datetime, bytes or a Decimal, and how unions are tagged. docs/wire.md describes the
JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

#: The version of the JSON format that this release writes; it reads this and older ones.
FORMAT = 1

#: How deep types may nest: a contract may come from a peer, and is read recursively.
MAX_DEPTH = 60

Scalar = bool | int | str | None

Kind = Literal[
    "any",
    "none",
    "bool",
    "int",
    "float",
    "str",
    "bytes",
    "bytearray",
    "memoryview",
    "datetime",
    "time",
    "date",
    "timedelta",
    "uuid",
    "decimal",
    "raw",
    "literal",
    "list",
    "set",
    "frozenset",
    "vartuple",
    "tuple",
    "dict",
    "frozendict",
    "union",
    "ref",
]

#: Kinds with ``items``.
ARRAYS = frozenset({"list", "set", "frozenset", "vartuple"})
MAPPINGS = frozenset({"dict", "frozendict"})
BINARY = frozenset({"bytes", "bytearray", "memoryview"})


class ContractError(ValueError):
    """The text is not a contract, or one of a newer format; the message is one line."""


class Type(msgspec.Struct, omit_defaults=True, frozen=True):
    """A type.

    Attributes:
        kind: which; ``ref`` is a class among ``Contract.types``.
        ge, gt, le, lt, multiple_of: limits of an int or a float.
        min_length, max_length: of a str, bytes or a collection.
        pattern: a regular expression that a str must match somewhere.
        tz: whether a datetime or time must have a time zone (True) or none (False).
        values: of a literal.
        keys, items: of a mapping; ``items`` of a list, set, frozenset or vartuple too.
        types: of a union, or of the positions of a tuple.
        name: of a ref.
    """

    kind: Kind
    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None
    multiple_of: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    tz: bool | None = None
    values: tuple[Scalar, ...] = ()
    keys: Type | None = None
    items: Type | None = None
    types: tuple[Type, ...] = ()
    name: str = ""


class Field(msgspec.Struct, omit_defaults=True, frozen=True):
    """A field of a class.

    Attributes:
        name: its name in Python.
        type: its type.
        encode_name: its name on the wire; empty if that is ``name``.
        required: whether it must be there. If not and it has neither ``default`` nor ``factory``,
            its default is known to the server alone.
        default: its default as JSON.
        factory: what makes its default: "list", "dict", "set" or the like, or the name of a class.
    """

    name: str
    type: Type
    encode_name: str = ""
    required: bool = True
    default: Any = msgspec.UNSET
    factory: str = ""

    @property
    def wire_name(self) -> str:
        """The name of the field in the JSON."""
        return self.encode_name or self.name


class Class(msgspec.Struct, omit_defaults=True, frozen=True):
    """A class that types refer to by its name.

    Attributes:
        kind: which; attrs classes are dataclasses here.
        doc: its docstring, cleaned.
        fields: its fields, in order; of all but enums.
        members: names and values of an enum.
        base: what an enum is derived from: "Enum", "IntEnum", "StrEnum", "Flag" or "IntFlag".
        tag_field, tag: how a struct says on the wire which it is.
        options: options of a struct or dataclass that are not as by default, such as
            ``forbid_unknown_fields``.
    """

    kind: Literal["struct", "enum", "typeddict", "namedtuple", "dataclass"]
    doc: str = ""
    fields: tuple[Field, ...] = ()
    members: dict[str, int | str] = {}
    base: Literal["Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"] = "Enum"
    tag_field: str | None = None
    tag: str | int | None = None
    options: dict[str, bool] = {}

    def has(self, option: str) -> bool:
        """Return whether an option is on that is off by default."""
        return self.options.get(option, False)

    @property
    def is_array(self) -> bool:
        """Whether it is an array on the wire."""
        return self.kind == "namedtuple" or self.has("array_like")


class Error(msgspec.Struct, frozen=True):
    """An error of the application that a command declares."""

    code: int
    name: str
    doc: str = ""


class Command(msgspec.Struct, frozen=True):
    """A command.

    Attributes:
        result: the type of its result; of an item, if it streams.
    """

    cmdid: int
    name: str
    params: Type
    result: Type
    doc: str = ""
    errors: tuple[Error, ...] = ()
    streaming: bool = False
    idempotent: bool = False
    deprecated: str | None = None


class Contract(msgspec.Struct):
    """Everything that a client can know of a server.

    Attributes:
        gtcp_contract: the version of the format.
        commands: in order of their cmdids.
        types: the classes that types refer to, by name.
    """

    gtcp_contract: int
    commands: tuple[Command, ...]
    types: dict[str, Class] = {}


class _Head(msgspec.Struct):
    gtcp_contract: int


_decode = msgspec.json.Decoder(Contract).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def write(contract: Contract) -> str:
    """Return a contract as JSON on several lines, the last one ended too."""
    return msgspec.json.format(msgspec.json.encode(contract), indent=2).decode() + "\n"


def read(text: bytes) -> Contract:
    """Return the contract that a JSON text holds.

    Raises:
        ContractError: it holds none, or one of a newer format.
    """
    try:
        version = _decode_head(text).gtcp_contract
        if version > FORMAT:
            raise ContractError(
                f"a contract of format {version}: this gtcp reads formats up to {FORMAT}, "
                "a newer release is needed"
            )
        contract = _decode(text)
        _check(contract)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ContractError(f"not a contract: {exc}") from exc
    return contract


def _check(contract: Contract) -> None:
    for command in contract.commands:
        for each in (command.params, command.result):
            _check_type(each, contract.types, 0)
    for definition in contract.types.values():
        for field in definition.fields:
            _check_type(field.type, contract.types, 0)
            if field.factory and field.factory not in {*FACTORIES, *contract.types}:
                raise ContractError(f"not a contract: unknown factory {field.factory!r}")


#: Builtin types that make an empty default.
FACTORIES = ("list", "dict", "set", "frozenset", "tuple", "bytearray")


def _check_type(each: Type, classes: dict[str, Class], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ContractError(f"not a contract: types nest deeper than {MAX_DEPTH}")
    if each.kind == "ref" and each.name not in classes:
        raise ContractError(f"not a contract: there is no class {each.name!r}")
    incomplete = (
        (each.kind in ARRAYS and each.items is None)
        or (each.kind in MAPPINGS and (each.keys is None or each.items is None))
        or (each.kind == "union" and len(each.types) < 2)
        or (each.kind == "literal" and not each.values)
    )
    if incomplete:
        raise ContractError(f"not a contract: an incomplete type {each.kind!r}")
    for part in parts(each):
        _check_type(part, classes, depth + 1)


def parts(each: Type) -> Iterator[Type]:
    """Yield the types that a type is made of."""
    if each.keys is not None:
        yield each.keys
    if each.items is not None:
        yield each.items
    yield from each.types
