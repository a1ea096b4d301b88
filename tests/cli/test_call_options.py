"""gtcp call: a command by its name, and strings that travel with the request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import fails, free_address, run, served

APP = """\
import gtcp
server = gtcp.Server()

@server.handler(10)
def hello(request):
    return {"params": request.params, "meta": request.meta}

@server.handler(11)
def goodbye(request):
    return "bye"

class Twice(gtcp.BaseHandler):
    def process(self, request):
        return "twice"

server.handler(20)(Twice)
server.handler(21)(Twice)
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("named")
    (folder / "app.py").write_text(APP)
    with served(folder, "app", "--bind", "127.0.0.1:0") as running:
        yield running.address


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_a_command_is_called_by_its_name(raw: list[str], where: str) -> None:
    ended = run("call", where, "hello", '{"a": 1}', *raw)
    assert (ended.returncode, ended.stderr) == (0, "")
    by_number = run("call", where, "10", '{"a": 1}', *raw)
    assert ended.stdout == by_number.stdout
    assert '"a"' in ended.stdout


@pytest.mark.cover_programs
def test_bench_takes_a_name(where: str) -> None:
    ended = run("bench", where, "goodbye", "-d", "0.1")
    assert ended.returncode == 0
    assert "cmdid 11" in ended.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("helo", "no command is named 'helo'; did you mean hello (10)?"),
        (
            "zzz",
            "no command is named 'zzz'; it has hello (10), goodbye (11), Twice (20), Twice (21)",
        ),
        ("Twice", "2 commands are named 'Twice': 20, 21"),
    ],
)
@pytest.mark.parametrize("raw", [[], ["--raw"]])
@pytest.mark.cover_programs
def test_a_name_that_is_unknown_or_ambiguous_is_one_line(
    name: str, says: str, raw: list[str], where: str
) -> None:
    assert fails(2, "call", where, name, *raw) == f"error: {where}: {says}"


def test_a_name_needs_a_server(refused: Any) -> None:
    where = free_address()
    line = refused(1, "call", where, "hello")
    assert line == f"error: can't connect to {where}: Connection refused (executed: no)"


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_meta_travels_with_the_request(raw: list[str], where: str) -> None:
    flags = ["--meta", "tenant=shop", "--meta", "note=a=b", "--meta", "empty="]
    ended = run("call", where, "10", "{}", *flags, *raw)
    assert ended.returncode == 0
    said = ended.stdout.replace(" ", "")
    assert '"meta":{"tenant":"shop","note":"a=b","empty":""}' in said
