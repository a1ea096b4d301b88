"""Forms of TARGET, and the messages for targets that do not exist."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gtcp
from gtcp.cli.target import Target, TargetError, WrongTarget, load, parse


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory of the test's own; what it imports is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def said(text: str) -> str:
    """The line for a target that can't be loaded."""
    with pytest.raises(TargetError) as raised:
        load(parse(text))
    return str(raised.value)


def source(name: str, text: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("app", Target("app", "server")),
        ("app:api", Target("app", "api")),
        ("pay.app:api", Target("pay.app", "api")),
        ("app.py", Target("app.py", "server")),
        ("a-b/c d.py:api", Target("a-b/c d.py", "api")),
        ("/x:y/app.py:api", Target("/x:y/app.py", "api")),
        ("app:make()", Target("app", "make", factory=True)),
    ],
)
def test_a_target_is_a_place_and_an_attribute(text: str, target: Target) -> None:
    assert parse(text) == target


@pytest.mark.parametrize(
    "text", ["", ":", "app:", ":server", "my app", "app:a.b", "app:a(1)", "app:()"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected module:attribute or path/to/file\.py"):
        parse(text)


@pytest.mark.parametrize("target", ["sample_one", "sample_one:server", "sample_one.py:server"])
def test_a_server_is_taken_as_it_is(target: str) -> None:
    source("sample_one.py", "import gtcp\nserver = gtcp.Server()\n")
    assert load(parse(target)) is sys.modules["sample_one"].server


def test_a_table_of_commands_gets_a_server() -> None:
    source(
        "sample_table.py",
        "import gtcp\ntable = gtcp.Commands()\n@table.handler(7)\ndef f(request): pass\n",
    )
    server = load(parse("sample_table:table"))
    assert isinstance(server, gtcp.Server)
    assert [command.cmdid for command in server.commands] == [7]


def test_a_file_finds_what_is_beside_it_and_can_be_imported_itself() -> None:
    source("deep/sample_part.py", "import sample_whole\n")
    source("deep/sample_whole.py", "import gtcp, sample_part\nserver = gtcp.Server()\n")
    assert load(parse("deep/sample_whole.py")) is sys.modules["sample_part"].sample_whole.server


KINDS = {
    "5": "an int",
    "None": "a NoneType",
    "gtcp": "a module",
}

CALLABLE = {"gtcp.Server": "the class Server", "lambda: gtcp.Server()": "a function"}


@pytest.mark.parametrize(
    ("target", "text", "line"),
    [
        ("no.such.thing", "", "can't import 'no.such.thing' from {}: No module named 'no'"),
        ("src/no.py:server", "", "no such file: src/no.py"),
        (
            *("json.py", ""),
            "json.py: a module 'json' is loaded already: give the file another name",
        ),
        (
            *("sample_one", "import gtcp\napi, table = gtcp.Server(), gtcp.Commands()\n"),
            "sample_one has no 'server'; it has api, table",
        ),
        (
            *("sample_one:api", ""),
            "sample_one has no 'api', nor any gtcp.Server or gtcp.Commands",
        ),
        *(
            (
                *("sample_one", f"import gtcp\nserver = {value}\n"),
                f"sample_one:server is {kind}: expected a gtcp.Server or gtcp.Commands",
            )
            for value, kind in KINDS.items()
        ),
        *(
            (
                *("sample_one", f"import gtcp\nserver = {value}\n"),
                f"sample_one:server is {kind}: expected a gtcp.Server or gtcp.Commands; "
                "--factory calls it",
            )
            for value, kind in CALLABLE.items()
        ),
        (
            *("sample_outer", "\n\n1 / 0\n"),
            "sample_one.py, line 3: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_target_that_leads_nowhere_is_one_line(
    target: str, text: str, line: str, elsewhere: Path
) -> None:
    source("sample_one.py", text)
    source("sample_outer.py", "import sample_one\n")
    source("json.py", "")
    assert said(target) == line.format(elsewhere)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def f(:\n", "line 1: SyntaxError: invalid syntax"),
        ("import os\nimport no_such_thing\n",
         "line 2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("from os import no_such_thing\n", "line 1: ImportError: cannot import name"),
        ("import gtcp\n\n@gtcp.Server().handler(0)\ndef f(r): pass\n",
         "line 3: ValueError: cmdid 0 is gtcp's own"),
        ("import gtcp\ngtcp.Settings(port=-1)\n", "line 2: SettingsError: port: expected"),
        ("import json\njson.loads('{')\n", "line 2: JSONDecodeError: "),
        ("import sys\nsys.exit()\n", "line 2: SystemExit"),
        ("import importlib\nimportlib.import_module('no_such_thing')\n",
         "line 2: ModuleNotFoundError: No module named"),
        ("eval('1 +')\n", "line 1: SyntaxError: invalid syntax"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["sample_broken", "sample_broken.py"])
def test_a_failing_import_names_the_file_and_line(target: str, text: str, line: str) -> None:
    source("sample_broken.py", text)
    assert said(target).startswith(f"sample_broken.py, {line}")


def test_the_exception_itself_is_the_cause() -> None:
    source("sample_cause.py", "def f(:\n")
    with pytest.raises(TargetError) as raised:
        load(parse("sample_cause"))
    assert isinstance(raised.value.__cause__, SyntaxError)


# Factories, and other directories


@pytest.mark.parametrize("text", ["sample_made:make()", "sample_made.py:make()"])
@pytest.mark.parametrize("made", ["gtcp.Server()", "gtcp.Commands()"])
def test_a_factory_is_called(text: str, made: str) -> None:
    source("sample_made.py", f"import gtcp\ndef make(): return {made}\n")
    assert isinstance(load(parse(text)), gtcp.Server)
    assert parse(text) == parse(text.removesuffix("()"), factory=True)


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("make = 5", WrongTarget, "sample_made:make is an int: --factory expects a function"),
        ("def make(): return 5", WrongTarget,
         "sample_made:make() returned an int: expected a gtcp.Server or gtcp.Commands"),
        ("def make(): 1 / 0", TargetError,
         "sample_made.py, line 1: ZeroDivisionError: division by zero"),
        ("def make(argument): pass", WrongTarget,
         "can't call sample_made:make(): make() missing 1 required positional argument"),
        ("", WrongTarget,
         "sample_made has no 'make', nor any gtcp.Server or gtcp.Commands"),
    ],
)  # fmt: skip
def test_a_factory_that_fails_is_one_line(text: str, kind: type[Exception], line: str) -> None:
    source("sample_made.py", f"{text}\n")
    with pytest.raises(TargetError) as raised:
        load(parse("sample_made:make", factory=True))
    assert type(raised.value) is kind
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize("target", ["sample_far", "sample_far.py"])
def test_a_target_is_looked_for_in_the_directory_given(target: str, elsewhere: Path) -> None:
    source("far/sample_far.py", "import gtcp, sample_beside\nserver = gtcp.Server()\n")
    source("far/sample_beside.py", "")
    for directory in ("far", str(elsewhere / "far")):
        assert load(parse(target, directory=directory)) is sys.modules["sample_far"].server
        del sys.modules["sample_far"]


def test_the_directory_is_named_where_there_is_no_such_module(elsewhere: Path) -> None:
    with pytest.raises(WrongTarget, match="can't import 'no_such'") as raised:
        load(parse("no_such", directory="far"))
    assert f" from {elsewhere}/far: " in str(raised.value)
