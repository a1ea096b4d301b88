"""Families of types, made by hypothesis as contracts, and values of them."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import inspect
import itertools
import sys
import types
import uuid
from typing import Any

import msgspec
from hypothesis import strategies as st

from gtcp.contract.model import FORMAT, Class, Command, Contract, Error, Field, Type
from gtcp.contract.stubs import write_stubs

_counter = itertools.count()


def load(text: str) -> types.ModuleType:
    """The module with this source; annotations are looked up in ``sys.modules``."""
    module = types.ModuleType(f"generated_{next(_counter)}")
    sys.modules[module.__name__] = module
    exec(compile(text, module.__name__, "exec", dont_inherit=True), module.__dict__)
    return module


# Types

#: Names that are likely to be in the way of something.
WORDS = """
a b item list str dict msgspec gtcp dt datetime UUID Any Union Literal Annotated params timeout int
float bool set bytes tuple enum dataclasses Decimal C0 C1 C2 C3
"""
NAMES = st.sampled_from(WORDS.split())
DOCS = st.sampled_from(
    [
        "",
        "One line.",
        "Two.\n\n    Lines.",
        'It says "hi"',
        '"',
        "\\",
        'a """ b',
        "\x1b[31m",
        "ü\t|",
    ]
)
LENGTHS = st.sampled_from([(None, None), (0, None), (1, 3), (None, 4)])


def numbers(kind: Any) -> st.SearchStrategy[Type]:
    limits = [{}, {"ge": 0}, {"gt": -5, "le": 100}, {"ge": -3, "lt": 7}]
    return st.sampled_from([Type(kind, **each) for each in limits])


strings = st.sampled_from(
    [
        Type("str"),
        Type("str", min_length=1, max_length=5),
        Type("str", pattern="^[a-z\"']*$"),
        Type("str", pattern="^(a very long pattern that fits on no line |" + "x" * 60 + ")?$"),
    ]
)
literals = st.sampled_from(
    [
        Type("literal", values=(1, 2)),
        Type("literal", values=("a", 'b"', "c'")),
        Type("literal", values=(5,)),
    ]
)
texts = st.one_of(
    strings,
    st.sampled_from(
        [
            Type("bytes"),
            Type("bytes", max_length=4),
            Type("bytearray"),
            Type("datetime"),
            Type("datetime", tz=True),
            Type("datetime", tz=False),
            Type("date"),
            Type("time", tz=False),
            Type("timedelta"),
            Type("uuid"),
            Type("decimal"),
        ]
    ),
)
hashable = st.one_of(numbers("int"), strings, st.sampled_from([Type("uuid"), Type("date")]))
scalars = st.one_of(
    st.just(Type("bool")), numbers("int"), numbers("float"), texts, literals, st.just(Type("any"))
)


@st.composite
def kinds(draw: Any, classes: dict[str, Class], depth: int = 0) -> Type:
    """A type that may refer to these classes."""
    choices = ["scalar", "scalar"]
    if depth < 3:
        choices += ["array", "dict", "tuple", "set", "union"]
    if classes:
        choices += ["ref", "ref"]
    choice = draw(st.sampled_from(choices))
    inner = kinds(classes, depth + 1)
    low, high = draw(LENGTHS)
    if choice == "array":
        kind = draw(st.sampled_from(["list", "vartuple"]))
        return Type(kind, items=draw(inner), min_length=low, max_length=high)
    if choice == "set":
        return Type(
            draw(st.sampled_from(["set", "frozenset"])), items=draw(hashable), max_length=high
        )
    if choice == "dict":
        return Type("dict", keys=draw(hashable), items=draw(inner), min_length=low, max_length=high)
    if choice == "tuple":
        return Type("tuple", types=tuple(draw(st.lists(inner, max_size=3))))
    if choice == "union":
        return draw(unions(classes, inner))
    if choice == "ref":
        return Type("ref", name=draw(st.sampled_from(sorted(classes))))
    return draw(scalars)


@st.composite
def unions(draw: Any, classes: dict[str, Class], inner: Any) -> Type:
    """One type for each form that JSON has, as msgspec wants it; tagged structs together."""
    tagged = [name for name, each in classes.items() if each.tag is not None]
    options = [
        st.just([Type("none")]),
        st.just([Type("bool")]),
        numbers("int").map(lambda each: [each]),
        # With a list or a dict beside a pattern, msgspec 0.22 frees memory twice.
        texts.map(lambda each: [msgspec.structs.replace(each, pattern=None)]),
        inner.map(lambda each: [Type("list", items=each)]),
    ]
    if len(tagged) > 1:
        options.append(st.just([Type("ref", name=name) for name in tagged]))
    chosen = draw(st.lists(st.sampled_from(range(len(options))), min_size=2, unique=True))
    found = itertools.chain(*(draw(options[each]) for each in chosen))
    return Type("union", types=tuple(sorted(found, key=lambda each: each.kind == "none")))


@st.composite
def defaults(draw: Any, kind: Type, classes: dict[str, Class]) -> dict[str, Any]:
    """What makes a field of this type optional, or nothing."""
    options: list[dict[str, Any]] = [{}, {}, {"required": False}]
    if kind.kind in ("list", "dict", "set") and not kind.min_length:
        options.append({"required": False, "factory": kind.kind})
    if kind.kind in ("int", "float") and kind.ge in (None, 0):
        options.append({"required": False, "default": 1 if kind.kind == "int" else 0.5})
    if kind.kind == "union" and Type("none") in kind.types:
        options.append({"required": False, "default": None})
    if kind == Type("str"):
        options.append({"required": False, "default": draw(st.text(max_size=90))})
    if kind == Type("bytes"):
        options.append({"required": False, "default": base64.b64encode(b"\x00\"'a").decode()})
    if kind.kind == "uuid":
        options.append({"required": False, "default": str(uuid.UUID(int=5))})
    if kind.kind == "decimal":
        options.append({"required": False, "default": "1.50"})
    if kind.kind == "date":
        options.append({"required": False, "default": "2020-02-29"})
    if kind.kind == "ref" and classes[kind.name].kind == "enum":
        options.append(
            {"required": False, "default": next(iter(classes[kind.name].members.values()))}
        )
    return dict(draw(st.sampled_from(options)))


@st.composite
def fields(draw: Any, classes: dict[str, Class], kind: str) -> tuple[Field, ...]:
    made = []
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        each = draw(kinds(classes))
        optional = draw(defaults(each, classes))
        unknown = optional == {"required": False}
        if kind == "typeddict":
            optional = {} if draw(st.booleans()) else {"required": False}
        elif kind in ("namedtuple", "array") and ("factory" in optional or unknown):
            optional = {}
        encode_name = ""
        if kind == "struct" and draw(st.booleans()):
            encode_name = f"{name}-{'x' * draw(st.sampled_from([1, 60]))}"
        made.append(Field(name, each, encode_name, **optional))
    if kind == "typeddict":
        return tuple(sorted(made, key=lambda each: each.name))
    return tuple(sorted(made, key=lambda each: not each.required))


@st.composite
def definitions(draw: Any, name: str, classes: dict[str, Class]) -> Class:
    kind = draw(
        st.sampled_from(
            ["struct", "struct", "struct", "array", "enum", "typeddict", "namedtuple", "dataclass"]
        )
    )
    doc = draw(DOCS)
    if kind == "enum":
        base = draw(st.sampled_from(["Enum", "IntEnum", "StrEnum"]))
        values = [5, -1] if base == "IntEnum" else ["red", 'b"']
        doc = (
            ""
            if "count" in (names := draw(st.sampled_from([["RED", "BLUE"], ["count", "X"]])))
            else doc
        )
        return Class("enum", _plain(doc), members=dict(zip(names, values, strict=True)), base=base)
    made = draw(fields(classes, kind))
    if kind in ("struct", "array"):
        names = ["frozen", "omit_defaults", "forbid_unknown_fields", "kw_only", "order"]
        options = dict.fromkeys(
            draw(st.lists(st.sampled_from(names), max_size=3, unique=True)), True
        )
        if not made:
            options.pop("kw_only", None)
        tag, tag_field = draw(st.sampled_from([(None, None), (name, "type"), (name, "kind of it")]))
        if kind == "array":
            options["array_like"] = True
            tag = tag_field = None
        return Class(
            "struct",
            _plain(doc),
            made,
            tag=tag,
            tag_field=tag_field,
            options=dict(sorted(options.items())),
        )
    return Class(kind, _plain(doc), made)


def _plain(doc: str) -> str:
    """Docstrings that come back as they were: the others are tried on commands."""
    return inspect.cleandoc(doc) if doc in ("One line.", "Two.\n\n    Lines.") else ""


@st.composite
def contracts(draw: Any) -> Contract:
    """A contract with up to three commands, whose params and results have the same type."""
    classes: dict[str, Class] = {}
    for number in range(draw(st.integers(0, 4))):
        name = f"C{number}"
        classes[name] = draw(definitions(name, classes))
    tag_fields = {each.tag_field for each in classes.values() if each.tag is not None}
    if len(tag_fields) > 1:  # msgspec wants the same in a union
        classes = {
            name: msgspec.structs.replace(each, tag_field="type") if each.tag else each
            for name, each in classes.items()
        }
    commands = []
    for number in range(draw(st.integers(1, 3))):
        kind = as_object(draw(kinds(classes)), classes)
        errors = (Error(1001, "Gone", "It is gone."), Error(1002, "C9"))[: draw(st.integers(0, 2))]
        name = draw(st.one_of(NAMES, st.just("echo")))
        commands.append(
            Command(
                number + 1,
                name,
                kind,
                kind,
                inspect.cleandoc(draw(DOCS)),
                errors,
                draw(st.booleans()),
                idempotent=draw(st.booleans()),
                deprecated=draw(st.sampled_from([None, 'use "x"'])),
            )
        )
    return Contract(FORMAT, tuple(commands), classes)


def as_object(kind: Type, classes: dict[str, Class]) -> Type:
    """Return a type that is a JSON object, as params are; others become the values of a dict."""
    if kind.kind == "ref":
        definition = classes[kind.name]
        if definition.kind != "enum" and not definition.is_array:
            return kind
    return kind if kind.kind == "dict" else Type("dict", keys=Type("str"), items=kind)


def written(contract: Contract) -> str:
    return write_stubs(contract, "EchoClient")


# Values


def values(kind: Type, contract: Contract, module: types.ModuleType) -> st.SearchStrategy[Any]:
    """Values of a type, with the classes of the module."""

    def of(each: Type | None) -> st.SearchStrategy[Any]:
        assert each is not None
        return values(each, contract, module)

    name = kind.kind
    low, high = kind.min_length or 0, 3 if kind.max_length is None else kind.max_length
    if name == "ref":
        return _instances(contract.types[kind.name], getattr(module, kind.name), contract, module)
    if name == "union":
        return st.one_of(list(map(of, kind.types)))
    if name == "tuple":
        return st.tuples(*map(of, kind.types))
    if name == "dict":
        return st.dictionaries(of(kind.keys), of(kind.items), min_size=low, max_size=high)
    if name in ("list", "vartuple"):
        lists = st.lists(of(kind.items), min_size=low, max_size=high)
        return lists if name == "list" else lists.map(tuple)
    if name in ("set", "frozenset"):
        sets = st.frozensets(of(kind.items), min_size=low, max_size=high)
        return sets if name == "frozenset" else sets.map(set)
    return _scalars(kind)


def _scalars(kind: Type) -> st.SearchStrategy[Any]:
    low, high = kind.min_length or 0, 3 if kind.max_length is None else kind.max_length
    name = kind.kind
    if name in ("int", "float"):
        least = kind.ge if kind.ge is not None else -4 if kind.gt is not None else None
        most = kind.le if kind.le is not None else 6 if kind.lt is not None else None
        if name == "float":
            return st.floats(least, most, allow_nan=False, allow_infinity=False)
        return st.integers(
            -(2**63) if least is None else int(least), 2**63 if most is None else int(most)
        )
    if name == "str":
        if kind.pattern is not None:
            return st.just("") if "x" in kind.pattern else st.text("abz\"'", max_size=5)
        return st.text(min_size=low, max_size=high)
    aware = st.datetimes(dt.datetime(1, 1, 2), timezones=st.just(dt.timezone.utc))
    known: dict[str, st.SearchStrategy[Any]] = {
        "any": st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=3),
            lambda each: (
                st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=2), each, max_size=2)
            ),
            max_leaves=4,
        ),
        "none": st.none(),
        "bool": st.booleans(),
        "bytes": st.binary(max_size=high),
        "bytearray": st.binary(max_size=high).map(bytearray),
        "datetime": aware if kind.tz else st.datetimes(),
        "date": st.dates(),
        "time": st.times(),
        "timedelta": st.timedeltas(dt.timedelta(days=-1000), dt.timedelta(days=1000)),
        "uuid": st.uuids(),
        "decimal": st.decimals(allow_nan=False, allow_infinity=False, places=3),
        "literal": st.sampled_from(kind.values or (None,)),
    }
    return known[name]


def _instances(
    definition: Class, cls: Any, contract: Contract, module: types.ModuleType
) -> st.SearchStrategy[Any]:
    if definition.kind == "enum":
        assert issubclass(cls, enum.Enum)
        return st.sampled_from(list(cls))
    required = {f.name: values(f.type, contract, module) for f in definition.fields if f.required}
    optional = {
        f.name: values(f.type, contract, module) for f in definition.fields if not f.required
    }
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: cls(**given))
