"""Generated families of types: a stub has the same types, and what it sends arrives equal."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import time
import warnings
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar, get_args
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

import gtcp
from gtcp.contract.describe import describe
from gtcp.contract.model import Contract, Type, parts, read, write
from tests.contract.families import contracts, load, values, written
from tests.helpers import serving


def reachable(contract: Contract) -> dict[str, Any]:
    """The classes that commands use, in the order in which they are described."""
    found: dict[str, Any] = {}

    def visit(kind: Type) -> None:
        if kind.kind == "ref" and kind.name not in found:
            found[kind.name] = definition = contract.types[kind.name]
            for field in definition.fields:
                visit(field.type)
        for part in parts(kind):
            visit(part)

    for command in contract.commands:
        visit(command.params)
        visit(command.result)
    return found


def served(contract: Contract, module: Any) -> tuple[gtcp.Commands, list[Any]]:
    """Handlers of the module's types, which answer with their params; and what they saw."""
    commands, seen = gtcp.Commands(), []
    for command, method in zip(contract.commands, methods(module), strict=True):

        def call(request: Any) -> Any:
            seen.append(request.params)
            return request.params

        def stream(request: Any) -> Any:
            seen.append(request.params)
            yield request.params

        kind = method.__annotations__["return"]
        returned = eval(kind, {**vars(module), "module": module}) if kind != "None" else None
        echo, wanted = call, returned
        if command.streaming:
            echo, wanted = stream, get_args(returned)[0]
        echo.__name__, echo.__doc__ = command.name, command.doc
        echo.__annotations__ = {"request": gtcp.Request[wanted], "return": returned}
        commands.handler(
            command.cmdid,
            idempotent=command.idempotent,
            deprecated=command.deprecated,
            errors=[getattr(module, each.name) for each in command.errors],
        )(echo)
    return commands, seen


def methods(module: Any) -> list[Any]:
    found = vars(module.EchoClient).items()
    return [each for name, each in found if callable(each) and not name.startswith("__")]


@settings(max_examples=60)
@given(st.data())
def test_a_stub_has_the_types_of_its_server_and_what_it_sends_arrives_equal(data: Any) -> None:
    contract = data.draw(contracts())
    text = written(contract)
    module = load(text)
    commands, seen = served(contract, module)

    described = describe(commands)
    assert list(described.commands) == list(contract.commands)
    assert described.types == reachable(contract)
    again = read(write(described).encode())
    assert again == described
    assert written(again) == written(described)

    with serving(commands) as running, gtcp.Client(running.address) as client:
        stub = module.EchoClient(client)
        for command, method in zip(contract.commands, methods(module), strict=True):
            value = data.draw(values(command.params, contract, module))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                result = method(stub, value)
            if command.streaming:
                (result,) = result
            assert seen.pop() == value
            assert result == value


T = TypeVar("T")


class Colour(enum.IntEnum):
    """A colour."""

    RED = 1
    BLUE = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Marks(enum.IntFlag):
    NEW = 1
    SOLD = 2


class Word(str, enum.Enum):
    YES = "yes"
    real = "an attribute of numbers, not of strings"
    title = "an attribute of strings"


@dataclasses.dataclass(order=True, frozen=True)
class Place:
    """Where it stands."""

    row: int
    shelf: int = 1


@dataclasses.dataclass(kw_only=True)
class Note:
    text: str = ""
    tags: list[str] = dataclasses.field(default_factory=list)


class Point(NamedTuple):
    x: float
    y: float = 0.5


class Partial(TypedDict, total=False):
    count: int


class Page(msgspec.Struct, Generic[T]):
    """One page."""

    items: list[T]
    number: int = 0


class Cover(msgspec.Struct):
    hard: bool = False


class Book(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    place: Place = dataclasses.field(default_factory=lambda: Place(1))
    cover: Cover = msgspec.field(default_factory=Cover)
    note: Note = msgspec.field(default_factory=Note)
    colour: Colour = Colour.RED
    rights: Rights | None = None
    marks: Marks = Marks.NEW
    word: Word = Word.title
    price: Decimal = Decimal("1.50")
    key: UUID = UUID(int=5)
    raw: bytes = b'"a"\'b'
    point: Point = Point(1.0)
    page: Page[int] | None = None
    part: Partial = msgspec.field(default_factory=dict)
    title: str = "one that is too long for the line of its field and is put in parentheses"
    length: int | str = 5
    counts: dict[str, int] = msgspec.field(default_factory=dict)


class Given(msgspec.Struct):
    book: Book


class Wanted(msgspec.Struct):
    book: Book | None = None


def test_classes_as_people_write_them() -> None:
    commands = gtcp.Commands()

    @commands.handler(1)
    def put(request: gtcp.Request[Given]) -> Given:
        raise NotImplementedError

    @commands.handler(2)
    def find(request: gtcp.Request[Wanted]) -> Wanted:
        raise NotImplementedError

    contract = describe(commands)
    kinds = {name: (each.kind, each.base) for name, each in contract.types.items()}
    assert kinds["Colour"] == ("enum", "IntEnum")
    assert kinds["Rights"] == ("enum", "Flag")
    assert kinds["Marks"] == ("enum", "IntFlag")
    assert kinds["Word"] == ("enum", "StrEnum")
    assert contract.types["Place"].options == {"order": True, "frozen": True}
    assert contract.types["Note"].options == {"kw_only": True}
    assert contract.types["Colour"].doc == "A colour."
    assert kinds["PageInt"][0] == "struct"

    module = load(written(contract))
    again, seen = served(contract, module)
    assert describe(again).types == contract.types
    with serving(again) as running, gtcp.Client(running.address) as client:
        stub = module.EchoClient(client)
        book = module.Book(note=module.Note(text="new"), page=module.PageInt([1]))
        assert stub.put(book=book).book == seen.pop().book == book
        assert stub.find().book is None
        assert stub.find(book=None).book is None
        assert stub.find(module.Wanted(book)).book == book


class Keys(TypedDict("Required", {"a-b": int}), total=False):  # type: ignore[misc]
    title: str


_TEXT = "fifty characters of a note that takes several lines"
_LONG = msgspec.Meta(min_length=1, max_length=100_000, description="words of a book")
Texts = dict[str, dict[str, Annotated[str, _LONG]]]


class Address(TypedDict):
    city: str


class Sender(Address, total=False):
    street: str


#: Fields that hide, in their class, the names that it uses; and types that take several lines.
Shadow = msgspec.defstruct(
    "Shadow",
    [
        ("int", int),
        ("count", int),
        ("Any", Any),
        ("Cover", Cover),
        ("back", Cover),
        ("Decimal", Decimal),
        ("nothing", tuple[()]),
        ("at", datetime.datetime),
        ("keys", Keys),
        ("sender", Sender),
        ("words", tuple[str, str], (_TEXT, _TEXT)),
        ("many_words_that_may_be_left_out_and_then_are_these", tuple[str, ...], (_TEXT,)),
        ("since", float, msgspec.field(default_factory=time.time)),
        ("an_identifier_that_takes_its_place", Texts),
        ("or_one_of_many", list[Literal["first of many", "second of many", "third of many"]] | int),
    ],
    kw_only=True,
)

Since = msgspec.defstruct("Since", [("since", float, msgspec.field(default_factory=time.time))])


def test_names_that_are_hidden_and_what_does_not_fit_into_a_line() -> None:
    commands = gtcp.Commands()

    kinds = [Shadow, Shadow, Since, Texts]
    names = ["find-it", "find_it", "since", "matches"]
    for number, (kind, name) in enumerate(zip(kinds, names, strict=True)):

        def echo(request: Any) -> Any:
            raise NotImplementedError

        echo.__name__ = name
        echo.__annotations__ = {"request": gtcp.Request[kind], "return": kind}
        commands.handler(number + 1)(echo)

    contract = describe(commands)
    module = load(written(contract))
    again, seen = served(contract, module)
    assert describe(again).types == contract.types
    with serving(again) as running, gtcp.Client(running.address) as client:
        stub = module.EchoClient(client)
        assert stub.since(since=5.0) == seen.pop() == module.Since(5.0)
        assert stub.find_it_1.__doc__ == stub.find_it_2.__doc__
