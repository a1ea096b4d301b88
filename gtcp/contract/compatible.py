"""Whether every value that one type sends is accepted by another one, on the wire.

The question is asked of JSON, not of Python: a ``set`` may be received as a ``list``, a UUID as a
string, and a struct with another name but the same fields as that struct. Where it depends on the
value, the answer is that it is not accepted: a field that may be left out, for example, is not
enough for one that is required.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gtcp.contract.model import ARRAYS, BINARY, MAPPINGS, Class, Field, Scalar, Type

#: Kinds that are strings on the wire.
STRINGS = BINARY | {"str", "uuid", "decimal", "datetime", "date", "time", "timedelta"}

#: What is accepted beside the kind itself; bytes are one kind on the wire.
_ALSO = {
    "float": {"int"},
    "decimal": {"int", "float"},
    **dict.fromkeys(BINARY, BINARY),
}

Classes = dict[str, Class]


class Problem(NamedTuple):
    """Something that is sent and not accepted.

    Attributes:
        path: where, such as ``params.lines[].count``.
        text: what, with the names of the two sides.
    """

    path: str
    text: str


class Side(NamedTuple):
    """One of the two sides: its name, such as "an old client", and its classes."""

    name: str
    classes: Classes

    def class_of(self, each: Type) -> Class | None:
        """Return the class of a ``ref``."""
        return self.classes[each.name] if each.kind == "ref" else None

    def values_of(self, each: Type) -> tuple[Scalar, ...] | None:
        """Return the values of a literal or an enum; None for other types."""
        found = self.class_of(each)
        if found is not None and found.kind == "enum":
            return tuple(found.members.values())
        return each.values if each.kind == "literal" else None


class Comparison:
    """Compares types of a sender with those of a receiver; each pair of classes once."""

    def __init__(self, sender: Side, receiver: Side) -> None:
        self.sender = sender
        self.receiver = receiver
        self._seen: set[tuple[str, str]] = set()

    def problems(self, sent: Type, wanted: Type, path: str) -> Iterator[Problem]:
        """Yield what the receiver would not accept."""
        if wanted.kind in ("any", "raw"):
            return
        if sent.kind == "union":
            for each in sent.types:
                yield from self.problems(each, wanted, path)
            return
        values, form = self.sender.values_of(sent), shape(self.sender, sent)
        also = sent.kind in _ALSO.get(wanted.kind, ())
        if values is not None:
            yield from self._of_values(values, wanted, path)
        elif wanted.kind == "union":
            yield from self._of_union(sent, wanted, path)
        elif self.receiver.values_of(wanted) is not None or (
            not also and form != shape(self.receiver, wanted)
        ):
            yield self._mismatch(sent, wanted, path)
        elif form == "array":
            yield from self._of_array(sent, wanted, path)
        elif form == "object":
            yield from self._of_object(sent, wanted, path)
        else:
            yield from self._of_scalar(sent, wanted, path)

    def _mismatch(self, sent: Type, wanted: Type, path: str) -> Problem:
        return Problem(
            path,
            f"{self.sender.name} sends {show(sent)}, {self.receiver.name} expects {show(wanted)}",
        )

    # Unions and values

    def _of_union(self, sent: Type, wanted: Type, path: str) -> Iterator[Problem]:
        before = set(self._seen)
        similar = []
        for each in wanted.types:
            self._seen = set(before)
            found = list(self.problems(sent, each, path))
            if not found and not self._lacks_tag(sent, each):
                return
            if self._is_similar(sent, each):
                similar.append(found)
        self._seen = before
        if len(similar) == 1 and similar[0]:  # "T | None": what is wrong inside of T
            yield from similar[0]
        else:
            yield self._mismatch(sent, wanted, path)

    def _lacks_tag(self, sent: Type, wanted: Type) -> bool:
        """Return whether a class of a union would not be recognised: there its tag is required."""
        ours, theirs = self.sender.class_of(sent), self.receiver.class_of(wanted)
        return bool(theirs and theirs.tag_field and not (ours and ours.tag_field))

    def _is_similar(self, sent: Type, wanted: Type) -> bool:
        if shape(self.sender, sent) != shape(self.receiver, wanted):
            return False
        ours, theirs = self.sender.class_of(sent), self.receiver.class_of(wanted)
        return ours is None or theirs is None or ours.tag == theirs.tag

    def _of_values(self, values: Sequence[Scalar], wanted: Type, path: str) -> Iterator[Problem]:
        refused = [each for each in values if not accepts(self.receiver, wanted, each)]
        if refused:
            listed = ", ".join(map(repr, refused))
            yield Problem(
                path,
                f"{self.sender.name} may send {listed}, {self.receiver.name} expects "
                f"{show(wanted)}",
            )

    # Scalars

    def _of_scalar(self, sent: Type, wanted: Type, path: str) -> Iterator[Problem]:
        same = sent.kind == wanted.kind or sent.kind in _ALSO.get(wanted.kind, ())
        as_text = wanted.kind == "str" and sent.kind in STRINGS and not _has_limits(wanted)
        if not (same or as_text) or (same and not _is_within(sent, wanted)):
            yield self._mismatch(sent, wanted, path)

    # Arrays

    def _of_array(self, sent: Type, wanted: Type, path: str) -> Iterator[Problem]:
        ours, theirs = _positions(self.sender, sent), _positions(self.receiver, wanted)
        if theirs is None:
            assert wanted.items is not None
            if ours is None:
                assert sent.items is not None
                yield from self.problems(sent.items, wanted.items, f"{path}[]")
            for number, position in enumerate(ours or ()):
                yield from self.problems(position.type, wanted.items, f"{path}[{number}]")
            if not _is_within(_with_lengths(sent, ours), wanted):
                yield self._mismatch(sent, wanted, path)
        elif ours is None:
            yield self._mismatch(sent, wanted, path)
        elif self._enter(sent, wanted):
            yield from self._of_positions(ours, theirs, wanted, path)

    def _of_positions(
        self, ours: list[Field], theirs: list[Field], wanted: Type, path: str
    ) -> Iterator[Problem]:
        for number, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
            yield from self.problems(mine.type, its.type, f"{path}[{number}]")
        certain = sum(each.required for each in ours)
        needed = sum(each.required for each in theirs)
        definition = self.receiver.class_of(wanted)
        exact = (
            definition is None
            or definition.kind == "namedtuple"
            or definition.has("forbid_unknown_fields")
        )
        if certain < needed or (exact and len(ours) > len(theirs)):
            yield Problem(
                path,
                f"{self.sender.name} sends {len(ours)} items, {self.receiver.name} expects "
                f"{len(theirs)}",
            )

    # Objects

    def _of_object(self, sent: Type, wanted: Type, path: str) -> Iterator[Problem]:
        ours, theirs = self.sender.class_of(sent), self.receiver.class_of(wanted)
        if theirs is None:
            yield from self._of_mapping(sent, ours, wanted, path)
        elif ours is None:
            yield self._mismatch(sent, wanted, path)
        elif self._enter(sent, wanted):
            yield from self._of_fields(ours, theirs, path)

    def _of_mapping(
        self, sent: Type, ours: Class | None, wanted: Type, path: str
    ) -> Iterator[Problem]:
        assert wanted.keys is not None
        assert wanted.items is not None
        if ours is None:
            assert sent.keys is not None
            assert sent.items is not None
            if wanted.keys.kind != "str" or _has_limits(wanted.keys):  # every key is a string
                yield from self.problems(sent.keys, wanted.keys, f"{path}{{key}}")
            yield from self.problems(sent.items, wanted.items, f"{path}{{}}")
            if not _is_within(sent, wanted):
                yield self._mismatch(sent, wanted, path)
            return
        fields = [*ours.fields, *_tag(ours)]
        for field in fields:
            key = Type("literal", values=(field.wire_name,))
            yield from self.problems(key, wanted.keys, f"{path}{{key}}")
            yield from self.problems(field.type, wanted.items, f"{path}.{field.wire_name}")
        if not _is_within(_with_lengths(sent, fields), wanted):
            yield self._mismatch(sent, wanted, path)

    def _of_fields(self, ours: Class, theirs: Class, path: str) -> Iterator[Problem]:
        sent = {field.wire_name: field for field in ours.fields}
        wanted = {field.wire_name: field for field in theirs.fields}
        for name, field in wanted.items():
            where = f"{path}.{name}"
            mine = sent.get(name)
            if mine is not None:
                yield from self.problems(mine.type, field.type, where)
            if field.required and (mine is None or not mine.required):
                how = "does not send it" if mine is None else "may leave it out"
                yield Problem(where, f"{self.sender.name} {how}, {self.receiver.name} requires it")
        tagged = theirs.tag_field and ours.tag_field
        if tagged and (ours.tag_field, ours.tag) != (theirs.tag_field, theirs.tag):
            yield Problem(
                f"{path}.{theirs.tag_field}",
                f"{self.sender.name} sends {ours.tag!r} as {ours.tag_field!r}, "
                f"{self.receiver.name} expects {theirs.tag!r}",
            )
        if theirs.has("forbid_unknown_fields"):
            known = {*wanted, theirs.tag_field}
            for name in [*sent, *(each.wire_name for each in _tag(ours))]:
                if name not in known:
                    yield Problem(
                        f"{path}.{name}",
                        f"{self.sender.name} sends it, {self.receiver.name} refuses unknown fields",
                    )

    def _enter(self, sent: Type, wanted: Type) -> bool:
        """Return whether two classes were not compared before; True for other types."""
        if sent.kind != "ref" or wanted.kind != "ref":
            return True
        pair = sent.name, wanted.name
        if pair in self._seen:
            return False
        self._seen.add(pair)
        return True


def shape(side: Side, each: Type) -> str:
    """Return what a type is in JSON: "object", "array", "string", or its kind."""
    definition = side.class_of(each)
    if definition is not None:
        return "enum" if definition.kind == "enum" else _shape_of_class(definition)
    if each.kind in ARRAYS or each.kind == "tuple":
        return "array"
    if each.kind in MAPPINGS:
        return "object"
    return "string" if each.kind in STRINGS else each.kind


def _shape_of_class(definition: Class) -> str:
    return "array" if definition.is_array else "object"


def _tag(definition: Class) -> list[Field]:
    """Return the field that says which struct it is, if there is one."""
    if definition.tag_field is None:
        return []
    return [Field(definition.tag_field, Type("literal", values=(definition.tag,)))]


def _positions(side: Side, each: Type) -> list[Field] | None:
    """Return the items of a tuple or of a class that is an array; None for a list."""
    definition = side.class_of(each)
    if definition is not None:
        return [*_tag(definition), *definition.fields]
    return [Field("", part) for part in each.types] if each.kind == "tuple" else None


def _with_lengths(sent: Type, fields: list[Field] | None) -> Type:
    if fields is None:
        return sent
    return Type("list", min_length=sum(each.required for each in fields), max_length=len(fields))


# Limits


def accepts(side: Side, wanted: Type, value: Scalar) -> bool:
    """Return whether one value of a literal or an enum is accepted."""
    if wanted.kind in ("any", "raw"):
        return True
    if wanted.kind == "union":
        return any(accepts(side, each, value) for each in wanted.types)
    values = side.values_of(wanted)
    if values is not None:
        return any(each == value and type(each) is type(value) for each in values)
    if isinstance(value, bool) or value is None:
        return wanted.kind == ("none" if value is None else "bool")
    if isinstance(value, str):
        only = Type("str", min_length=len(value), max_length=len(value))
        return wanted.kind == "str" and _is_within(only, wanted)
    exactly = Type("int", ge=value, le=value, multiple_of=value or wanted.multiple_of)
    return wanted.kind in ("int", "float", "decimal") and _is_within(exactly, wanted)


def _has_limits(each: Type) -> bool:
    return (each.min_length, each.max_length, each.pattern) != (None, None, None)


def _is_within(sent: Type, wanted: Type) -> bool:
    """Return whether the limits of the sent type imply all limits of the wanted type."""
    mine, its = _bounds(sent), _bounds(wanted)
    return (
        (its.low is None or (mine.low is not None and mine.low >= its.low))
        and (its.high is None or (mine.high is not None and mine.high <= its.high))
        and _is_multiple(sent.multiple_of, wanted.multiple_of)
        and (wanted.min_length or 0) <= (sent.min_length or 0)
        and (wanted.max_length is None or _at_most(sent.max_length, wanted.max_length))
        and wanted.pattern in (None, sent.pattern)
        and wanted.tz in (None, sent.tz)
    )


def _at_most(length: int | None, limit: int) -> bool:
    return length is not None and length <= limit


def _is_multiple(sent: float | None, wanted: float | None) -> bool:
    return wanted is None or (sent is not None and sent % wanted == 0)


class _Bounds(NamedTuple):
    """The least and the greatest value; a bound that is excluded is a little inside of it."""

    low: tuple[float, int] | None
    high: tuple[float, int] | None


def _bounds(each: Type) -> _Bounds:
    step = 1 if each.kind == "int" else 0  # of whole numbers, "> 4" is ">= 5"
    low = high = None
    if each.ge is not None:
        low = (each.ge, 0)
    elif each.gt is not None:
        low = (each.gt + step, 1 - step)
    if each.le is not None:
        high = (each.le, 0)
    elif each.lt is not None:
        high = (each.lt - step, step - 1)
    return _Bounds(low, high)


# Text


def show(each: Type) -> str:
    """Return a type as a short text, such as ``list[int >= 0]``."""
    if each.kind == "ref":
        return each.name
    if each.kind == "union":
        return " | ".join(map(show, each.types))
    if each.kind == "literal":
        return " or ".join(map(repr, each.values))
    text = {"none": "null", "vartuple": "list", "any": "any value"}.get(each.kind, each.kind)
    if each.kind == "tuple":
        text += f"[{', '.join(map(show, each.types))}]"
    elif each.keys is not None and each.items is not None:
        text += f"[{show(each.keys)}, {show(each.items)}]"
    elif each.items is not None:
        text += f"[{show(each.items)}]"
    limits = [
        (">=", each.ge),
        (">", each.gt),
        ("<=", each.le),
        ("<", each.lt),
        ("multiple of", each.multiple_of),
        ("length >=", each.min_length),
        ("length <=", each.max_length),
        ("like", each.pattern),
    ]
    text += "".join(f" {name} {limit}" for name, limit in limits if limit is not None)
    if each.tz is not None:
        text += " with a time zone" if each.tz else " without a time zone"
    return text
