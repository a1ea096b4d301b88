"""JSON Schemas as people read them."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtcp.cli.shorthand import shorthand


class Point(msgspec.Struct):
    x: int
    y: float = 0.5
    label: str | None = None


class Pair(msgspec.Struct, array_like=True):
    left: int
    right: str


class Node(msgspec.Struct):
    value: int
    children: "list[Node]"


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("annotation", "short"),
    [
        (int, "int"),
        (float, "float"),
        (str, "str"),
        (bool, "bool"),
        (None, "None"),
        (bytes, "bytes"),
        (Any, "Any"),
        (dict, "dict"),
        (dict[str, Any], "dict"),
        (dict[str, int], "dict[str, int]"),
        (list, "list"),
        (list[list[int]], "list[list[int]]"),
        (tuple[int, str], "[int, str]"),
        (tuple[int, ...], "list[int]"),
        (Union[int, None], "int | None"),  # noqa: UP007
        (Literal["a", 3], '3 | "a"'),
        (Color, '"blue" | "red"'),
        (Annotated[datetime.datetime, msgspec.Meta(tz=True)], "datetime"),
        (datetime.timedelta, "timedelta"),
        (uuid.UUID, "UUID"),
        (decimal.Decimal, "Decimal"),
        (Annotated[int, msgspec.Meta(ge=0)], "int"),
        (Point, "{x: int, y: float = 0.5, label: str | None = None}"),
        (list[Point], "list[{x: int, y: float = 0.5, label: str | None = None}]"),
        (Pair, "[int, str]"),
        (Node, "{value: int, children: list[Node]}"),
        (Union[Cat, Dog], '{type: "Cat", lives: int} | {type: "Dog", name: str}'),  # noqa: UP007
    ],
)
def test_a_type_reads_as_it_is_annotated(annotation: Any, short: str) -> None:
    assert shorthand(msgspec.json.schema(annotation)) == short


def test_what_nests_too_deep_is_left_out() -> None:
    schema: Any = {"type": "integer"}
    for _ in range(2000):
        schema = {"type": "array", "items": schema}
    assert shorthand(schema) == "list[" * 7 + "..." + "]" * 7


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "items", "properties", "anyOf", "enum", "$ref", "$defs", "x"]),
            inner | st.sampled_from(["object", "array", "#/$defs/x", "integer"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_a_peer_calls_a_schema_is_text(schema: Any) -> None:
    assert isinstance(shorthand(schema), str)
