"""From the types of handlers to a contract.

``msgspec.inspect`` finds the types. What it leaves out is added from the classes themselves: the
options of Structs, and which fields are keyword-only.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections.abc import Iterable
from typing import Any, Literal, Protocol, get_args, get_origin

import msgspec
import msgspec.inspect as found

from gtcp.contract.model import (
    FACTORIES,
    FORMAT,
    Class,
    Command,
    Contract,
    Error,
    Field,
    Type,
)
from gtcp.errors import CommandError


class Registered(Protocol):
    """The part of a registered command that is described."""

    cmdid: int
    name: str
    doc: str
    params_type: Any
    result_type: Any
    errors: tuple[type[CommandError], ...]
    streaming: bool
    idempotent: bool
    deprecated: str | None


def describe(commands: Iterable[Registered]) -> Contract:
    """Return the contract of these commands."""
    rows = sorted(commands, key=lambda each: each.cmdid)
    annotations = [each for row in rows for each in (row.params_type, row.result_type)]
    types = _Types()
    described = [types.of(each) for each in found.multi_type_info(annotations)]
    pairs = zip(rows, described[::2], described[1::2], strict=True)
    listed = tuple(_command(row, params, result) for row, params, result in pairs)
    return Contract(FORMAT, listed, types.classes)


def _command(row: Registered, params: Type, result: Type) -> Command:
    errors = tuple(
        Error(each.own_code or 0, each.__name__, _doc(each))
        for each in sorted(row.errors, key=lambda each: each.own_code or 0)
    )
    return Command(
        row.cmdid,
        row.name,
        params,
        result,
        row.doc,
        errors,
        row.streaming,
        row.idempotent,
        row.deprecated,
    )


_SIMPLE: dict[type[found.Type], Any] = {
    found.AnyType: "any",
    found.NoneType: "none",
    found.BoolType: "bool",
    found.IntType: "int",
    found.FloatType: "float",
    found.StrType: "str",
    found.BytesType: "bytes",
    found.ByteArrayType: "bytearray",
    found.MemoryViewType: "memoryview",
    found.DateTimeType: "datetime",
    found.TimeType: "time",
    found.DateType: "date",
    found.TimeDeltaType: "timedelta",
    found.UUIDType: "uuid",
    found.DecimalType: "decimal",
    found.RawType: "raw",
}

_COLLECTIONS: dict[type[found.Type], Any] = {
    found.ListType: "list",
    found.SetType: "set",
    found.FrozenSetType: "frozenset",
    found.VarTupleType: "vartuple",
}


class _Types:
    """Describes types, and collects the classes in them.

    Attributes:
        classes: described so far, by the names that they have in the contract.
    """

    def __init__(self) -> None:
        self.classes: dict[str, Class] = {}
        self._names: dict[Any, str] = {}

    def of(self, info: Any) -> Type:
        """Return the description of what ``msgspec.inspect`` has found."""
        if isinstance(info, found.Metadata):
            return self.of(info.type)
        if (kind := _SIMPLE.get(type(info))) is not None:
            limits = {name: getattr(info, name) for name in info.__struct_fields__}
            return Type(kind, **limits)
        if (kind := _COLLECTIONS.get(type(info))) is not None:
            items = self.of(info.item_type)
            return Type(kind, items=items, min_length=info.min_length, max_length=info.max_length)
        return self._compound(info)

    def _compound(self, info: Any) -> Type:
        if isinstance(info, found.UnionType):
            return Type("union", types=tuple(map(self.of, info.types)))
        if isinstance(info, found.TupleType):
            return Type("tuple", types=tuple(map(self.of, info.item_types)))
        if isinstance(info, found.LiteralType):
            return Type("literal", values=info.values)
        if hasattr(info, "cls"):
            return Type("ref", name=self._class(info))
        if hasattr(info, "key_type"):
            return Type(
                "dict" if isinstance(info, found.DictType) else "frozendict",
                keys=self.of(info.key_type),
                items=self.of(info.value_type),
                min_length=info.min_length,
                max_length=info.max_length,
            )
        raise TypeError(f"{type(info).__name__} has no JSON form")

    def _class(self, info: Any) -> str:
        name = self._names.get(info.cls)
        if name is None:
            name = self._names[info.cls] = self._new_name(info.cls)
            self.classes[name] = Class("enum")  # keeps its place; it may refer to itself
            if isinstance(info, found.EnumType):
                self.classes[name] = _enum(info.cls)
            else:
                self.classes[name] = self._with_fields(info)
        return name

    def _new_name(self, cls: Any) -> str:
        """Return a name that no other class has: its own one, with a number if need be."""
        plain = _name_of(cls)
        name, number = plain, 1
        while name in self.classes:
            number += 1
            name = f"{plain}{number}"
        return name

    def _with_fields(self, info: Any) -> Class:
        cls = get_origin(info.cls) or info.cls
        fields = tuple(map(self._field, info.fields))
        doc = _doc(cls)
        if isinstance(info, found.StructType):
            options = _struct_options(cls)
            return Class(
                "struct", doc, fields, tag_field=info.tag_field, tag=info.tag, options=options
            )
        if isinstance(info, found.DataclassType):
            return Class("dataclass", doc, fields, options=_dataclass_options(cls))
        kind: Literal["typeddict", "namedtuple"] = (
            "typeddict" if isinstance(info, found.TypedDictType) else "namedtuple"
        )
        return Class(kind, doc, fields)

    def _field(self, field: found.Field) -> Field:
        default, factory = _default(field.default), ""
        if field.default_factory is not msgspec.NODEFAULT:
            factory = self._factory(field.default_factory)
        encode_name = "" if field.encode_name == field.name else field.encode_name
        kind = self.of(field.type)
        return Field(field.name, kind, encode_name, field.required, default, factory)

    def _factory(self, factory: Any) -> str:
        """Return what a default is made by, if a client can do that too; else nothing."""
        if factory in map(_BUILTINS.get, FACTORIES):
            return str(factory.__name__)
        if isinstance(factory, type) and issubclass(factory, msgspec.Struct):
            return self._class(found.type_info(factory))
        return ""


_BUILTINS = {each.__name__: each for each in (list, dict, set, frozenset, tuple, bytearray)}


def _default(value: Any) -> Any:
    """Return a default as JSON; UNSET if it has none that leads back to the same value."""
    if value is msgspec.NODEFAULT:
        return msgspec.UNSET
    try:
        line = msgspec.json.encode(value)
        if msgspec.json.decode(line, type=type(value)) == value:
            return msgspec.json.decode(line)
    except Exception:  # a marker object, or whatever its code raises
        pass
    return msgspec.UNSET


#: Options of a Struct, with their defaults.
_STRUCT_OPTIONS = {
    "array_like": False,
    "cache_hash": False,
    "dict": False,
    "eq": True,
    "forbid_unknown_fields": False,
    "frozen": False,
    "gc": True,
    "omit_defaults": False,
    "order": False,
    "repr_omit_defaults": False,
    "weakref": False,
}


def _struct_options(cls: Any) -> dict[str, bool]:
    config = cls.__struct_config__
    options = {
        name: bool(getattr(config, name))
        for name, default in _STRUCT_OPTIONS.items()
        if bool(getattr(config, name)) is not default
    }
    # A mixture can't be told: then all are.
    if len(cls.__match_args__) < len(cls.__struct_fields__):
        options["kw_only"] = True
    return options


def _dataclass_options(cls: Any) -> dict[str, bool]:
    options: dict[str, bool] = {}
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is not None:
        for name, default in (("eq", True), ("frozen", False), ("order", False)):
            if getattr(parameters, name) is not default:
                options[name] = not default
        if any(each.kw_only is True for each in dataclasses.fields(cls)):
            options["kw_only"] = True
    return options


def _enum(cls: type[enum.Enum]) -> Class:
    members = {name: member.value for name, member in cls.__members__.items()}
    base: Literal["Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"] = "Enum"
    if issubclass(cls, enum.Flag):
        base = "IntFlag" if issubclass(cls, int) else "Flag"
    elif issubclass(cls, int):
        base = "IntEnum"
    elif issubclass(cls, str):
        base = "StrEnum"
    return Class("enum", _doc(cls), members=members, base=base)


#: Docstrings that Python writes itself.
_WRITTEN_BY_PYTHON = re.compile(r"(\w+\(.*\)|An enumeration\.)", re.DOTALL)


def _doc(cls: Any) -> str:
    doc = cls.__dict__.get("__doc__") or ""
    return "" if _WRITTEN_BY_PYTHON.fullmatch(doc) else inspect.cleandoc(doc)


def _name_of(cls: Any) -> str:
    """Return the name of a class; of a generic one, with those of its arguments."""
    name = str(getattr(get_origin(cls) or cls, "__name__", "Type"))
    for argument in get_args(cls):
        words = re.findall(r"\w+", re.sub(r"[\w.]+\.", "", _plain_name(argument)))
        name += "".join(word[:1].upper() + word[1:] for word in words)
    return name


def _plain_name(argument: Any) -> str:
    return argument.__name__ if type(argument) is type else str(argument)
