"""What changed between two contracts, and whose calls break: each rule."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from msgspec import Meta, Struct, defstruct

import gtcp
from gtcp.contract.describe import describe
from gtcp.contract.diff import diff
from gtcp.contract.model import Contract

OLD, NEW = "old-client", "new-client"


def contract(params: Any = dict, result: Any = None, *, cmdid: int = 1, **options: Any) -> Contract:
    """The contract of a server with one command."""
    commands = gtcp.Commands()
    stream = options.pop("stream", False)

    def call(request: Any) -> Any: ...

    def streaming(request: Any) -> Any:
        yield

    echo = streaming if stream else call
    echo.__name__ = options.pop("name", "echo")
    echo.__annotations__ = {
        "request": gtcp.Request[params],
        "return": Iterator[result] if stream else result,
    }
    commands.handler(cmdid, **options)(echo)
    return describe(commands)


def found(old: Contract, new: Contract) -> set[tuple[str, str | None]]:
    return {(each.path, each.breaks) for each in diff(old, new)}


def struct(*fields: Any, **options: Any) -> Any:
    return defstruct("Order", list(fields), **options)


class Gone(gtcp.CommandError, code=1001):
    pass


class Lost(gtcp.CommandError, code=1001):
    pass


# Commands


def test_nothing_has_changed() -> None:
    same = contract(struct(("a", int)), struct(("b", str)))
    assert diff(same, same) == []


def test_a_command_is_added_or_removed() -> None:
    one, none = contract(), Contract(1, ())
    assert found(none, one) == {("", None)}
    assert found(one, none) == {("", OLD)}
    assert [each.text for each in diff(one, none)] == ["the command was removed"]


def test_a_command_moves() -> None:
    [gone, added] = diff(contract(cmdid=1), contract(cmdid=2))
    assert (gone.cmdid, gone.text, gone.breaks) == (1, "the command was moved to 2", OLD)
    assert (added.cmdid, added.text, added.breaks) == (2, "the command was added", None)


def test_a_cmdid_is_reused_with_other_types() -> None:
    before = contract(struct(("sku", str)), int, name="stock")
    after = contract(struct(("customer", int)), str, name="bill")
    assert found(before, after) == {
        ("", OLD),
        ("", NEW),
        ("params.customer", OLD),
        ("params.sku", NEW),
        ("result", OLD),
        ("result", NEW),
    }


@pytest.mark.parametrize(
    ("old", "new", "breaks"),
    [
        ({}, {"stream": True, "result": int}, {OLD, NEW}),
        ({"stream": True, "result": int}, {"stream": True, "result": int}, set()),
        ({"idempotent": True}, {}, {OLD}),
        ({}, {"idempotent": True}, {NEW}),
        ({}, {"deprecated": "use b"}, {None}),
        ({"deprecated": "use b"}, {}, {None}),
        ({}, {"errors": [Gone]}, {None}),
        ({"errors": [Gone]}, {}, {None}),
        ({"errors": [Gone]}, {"errors": [Lost]}, {None}),
        ({"errors": [Gone]}, {"errors": [Gone]}, set()),
    ],
)
def test_what_a_command_declares(old: Any, new: Any, breaks: set[str | None]) -> None:
    changes = diff(contract(**{"result": int, **old}), contract(**{"result": int, **new}))
    assert {each.breaks for each in changes} == breaks


# Fields


@pytest.mark.parametrize(
    ("old", "new", "of_params", "of_result"),
    [
        # A required field is added.
        ([], [("a", int)], {OLD}, {NEW}),
        # An optional one is.
        ([], [("a", int, 0)], {None}, {None}),
        # A required one becomes optional: other languages, and omit_defaults, leave it out.
        ([("a", int)], [("a", int, 0)], {NEW}, {OLD}),
        ([("a", int, 0)], [("a", int)], {OLD}, {NEW}),
        # Removed.
        ([("a", int)], [], {NEW}, {OLD}),
        ([("a", int, 0)], [], {None}, {None}),
    ],
)
def test_fields(old: Any, new: Any, of_params: set[Any], of_result: set[Any]) -> None:
    before, after = struct(*old), struct(*new)
    assert found(contract(before), contract(after)) == {("params.a", each) for each in of_params}
    assert found(contract(dict, before), contract(dict, after)) == {
        ("result.a", each) for each in of_result
    }


def test_a_field_has_another_name_on_the_wire() -> None:
    before = struct(("a_b", int))
    after = struct(("a_b", int), rename="camel")
    assert found(contract(before), contract(after)) == {("params.aB", OLD), ("params.a_b", NEW)}


def test_unknown_fields_are_refused() -> None:
    lax, strict = struct(("a", int, 0)), struct(("a", int, 0), forbid_unknown_fields=True)
    wide = struct(("a", int, 0), ("b", int, 0))
    assert found(contract(lax), contract(strict)) == {("params", None)}
    assert found(contract(strict), contract(wide)) == {("params.b", NEW), ("params", None)}
    assert found(contract(wide), contract(strict)) == {("params.b", OLD), ("params", None)}
    tagged = struct(("a", int, 0), tag="order")
    assert found(contract(tagged), contract(strict)) == {("params.type", OLD), ("params", None)}


def test_tags() -> None:
    before, after = struct(("a", int), tag="one"), struct(("a", int), tag="two")
    assert found(contract(before), contract(after)) == {
        ("params.type", OLD),
        ("params.type", NEW),
        ("params", None),
    }


class Node(Struct):
    value: int
    children: list[Node] = []


class Later(Struct):
    value: float
    children: list[Later] = []


def test_classes_that_refer_to_themselves() -> None:
    assert found(contract(Node), contract(Later)) == {("params.value", NEW)}


# Types


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Red(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Point3(NamedTuple):
    x: int
    y: int
    z: int


class Total(TypedDict):
    a: int


class Partial(TypedDict, total=False):
    a: int


class Cat(Struct, tag=True):
    lives: int


class Dog(Struct, tag=True):
    name: str


class Lists(Struct, array_like=True):
    x: int
    y: int = 0


class Longer(Struct, array_like=True):
    x: int
    y: int = 0
    z: int = 0


class Exact(Struct, array_like=True, forbid_unknown_fields=True):
    x: int
    y: int = 0


def text(**limits: Any) -> Any:
    return Annotated[str, Meta(**limits)]


def whole(**limits: Any) -> Any:
    return Annotated[int, Meta(**limits)]


def real(**limits: Any) -> Any:
    return Annotated[float, Meta(**limits)]


#: Pairs of types: whether a value of the first one is accepted as the second one, and the reverse.
PAIRS: list[tuple[Any, Any, bool, bool]] = [
    (int, int, True, True),
    (int, float, True, False),
    (int, str, False, False),
    (int, bool, False, False),
    (int, Any, True, False),
    (int, msgspec.Raw, True, False),
    (int, int | None, True, False),
    (int | None, float | None, True, False),
    (int, int | str, True, False),
    (int | str, str | int, True, True),
    (bool | None, bool, False, True),
    (whole(ge=5), int, True, False),
    (whole(gt=4), whole(ge=5), True, True),
    (whole(lt=10), whole(le=9), True, True),
    (real(gt=4), real(ge=4), True, False),
    (real(lt=4), real(le=4), True, False),
    (whole(multiple_of=4), whole(multiple_of=2), True, False),
    (int, decimal.Decimal, True, False),
    (decimal.Decimal, str, True, False),
    (uuid.UUID, str, True, False),
    (uuid.UUID, text(max_length=36), False, False),
    (bytes, str, True, False),
    (bytes, bytearray, True, True),
    (Annotated[bytes, Meta(max_length=3)], bytearray, True, False),
    (text(max_length=3), str, True, False),
    (text(min_length=3), text(min_length=2), True, False),
    (text(pattern="a"), str, True, False),
    (text(pattern="a"), text(pattern="b"), False, False),
    (dt.datetime, dt.date, False, False),
    (Annotated[dt.datetime, Meta(tz=True)], dt.datetime, True, False),
    (Annotated[dt.datetime, Meta(tz=True)], Annotated[dt.datetime, Meta(tz=False)], False, False),
    (dt.timedelta, str, True, False),
    (Red, Colour, True, False),
    (Red, str, True, False),
    (Red, text(max_length=3), True, False),
    (Red, text(max_length=2), False, False),
    (Red, text(pattern="red"), False, False),
    (Red, Literal["red", "green"], True, False),
    (Red, int, False, False),
    (Red, Colour | None, True, False),
    (Literal[1, 2], int, True, False),
    (Literal[1, 2], whole(ge=0, multiple_of=1), True, False),
    (Literal[1, 2], whole(ge=2), False, False),
    (Literal[0], whole(multiple_of=3), True, False),
    (Literal[1, None], int | None, True, False),
    (list[int], tuple[int, ...], True, True),
    (list[int], set[int], True, True),
    (list[int], list[float], True, False),
    (list[int], Annotated[list[int], Meta(max_length=3)], False, True),
    (Annotated[list[int], Meta(min_length=1)], list[int], True, False),
    (tuple[int, str], list[int | str], True, False),
    (tuple[int, int], tuple[int, int, int], False, False),
    (tuple[int, int], Annotated[list[int], Meta(max_length=1)], False, False),
    (tuple[int, int], Point, True, True),
    (Point, Point3, False, False),
    (Point, Lists, True, False),
    (Lists, Longer, True, True),
    (Exact, Longer, True, False),
    (list[int], Point, False, True),
    (dict[str, int], dict[str, float], True, False),
    (dict[int, int], dict[str, int], True, False),
    (dict[text(max_length=3), int], dict[str, int], True, False),
    (dict[str, int], Annotated[dict[str, int], Meta(min_length=1)], False, True),
    (Total, dict[str, int], True, False),
    (Total, dict[str, str], False, False),
    (Total, dict[int, int], False, False),
    (Total, Annotated[dict[str, int], Meta(min_length=1)], True, False),
    (Total, Annotated[dict[str, int], Meta(min_length=2)], False, False),
    (Cat, dict[str, int | str], True, False),
    (Total, Partial, True, False),
    (Total, list[int], False, False),
    (Cat, Cat | Dog, True, False),
    (Cat | Dog, Dog | Cat, True, True),
    (Total, Cat | Dog, False, False),
]


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_types(number: int) -> None:
    one, other, forwards, backwards = PAIRS[number]
    before, after = contract(struct(("a", one))), contract(struct(("a", other)))
    breaks = {each.breaks for each in diff(before, after)} - {None}
    assert breaks == {way for way, fine in ((OLD, forwards), (NEW, backwards)) if not fine}
    # A result goes the other way.
    before, after = contract(dict, one), contract(dict, other)
    breaks = {each.breaks for each in diff(before, after)} - {None}
    assert breaks == {way for way, fine in ((NEW, forwards), (OLD, backwards)) if not fine}


def texts(old: Contract, new: Contract) -> list[str]:
    return [f"{each.path}: {each.text}" for each in diff(old, new)]


def test_the_place_is_named() -> None:
    line = struct(("sku", str))
    other = struct(("sku", int))
    before = contract(struct(("lines", list[line]), ("by_name", dict[str, line | None])))
    after = contract(struct(("lines", list[other]), ("by_name", dict[str, other | None])))
    assert texts(before, after) == [
        "params.lines[].sku: an old client sends str, a new server expects int",
        "params.lines[].sku: a new client sends int, an old server expects str",
    ]
    before = contract(struct(("pair", tuple[int, str])))
    after = contract(struct(("pair", tuple[int, int])))
    assert texts(before, after)[0] == (
        "params.pair[1]: an old client sends str, a new server expects int"
    )


def test_a_value_of_an_enum_is_added_to_results() -> None:
    assert texts(contract(dict, Red), contract(dict, Colour)) == [
        "result: a new server may send 'blue', an old client expects Red",
    ]
    wider = struct(("a", Colour))
    assert texts(contract(struct(("a", Red))), contract(wider))[0] == (
        "params.a: a new client may send 'blue', an old server expects Red"
    )


def test_changes_that_break_nothing_are_notes() -> None:
    before = struct(("a", list[whole(ge=1)]), ("b", Literal[1] | None, None))
    after = struct(("a", list[whole(ge=1)]), ("b", Literal[1] | None, None), ("c", int, 0))
    assert texts(contract(before), contract(after)) == ["params.c: an optional field was added"]
    assert texts(contract(after), contract(before)) == ["params.c: the field was removed"]
