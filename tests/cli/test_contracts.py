"""`gtcp schema` and `gtcp stubs`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import only_line, run, served

APP = """
import gtcp, msgspec

server = gtcp.Server()


class Gone(gtcp.CommandError, code=1001):
    pass


class Name(msgspec.Struct):
    name: str


@server.handler(1, errors=[Gone])
def greet(request: gtcp.Request[Name]) -> str:
    "Greet somebody."
    return request.params.name
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sources(folder: Path) -> Iterator[list[str]]:
    """All ways to name the same contract."""
    for command in (
        ["init", "-q"],
        ["add", "app.py"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "app"],
    ):
        subprocess.run(["git", *command], check=True)
    (folder / "saved.json").write_text(run("schema", "app:server").stdout)
    with served(folder, "app", "--bind", "127.0.0.1:0") as running:
        yield ["app:server", "saved.json", "git:HEAD:app:server", running.address]


@pytest.mark.cover_programs
def test_the_contract_is_the_same_from_everywhere(sources: list[str], folder: Path) -> None:
    expected = json.loads((folder / "saved.json").read_text())
    [command] = expected["commands"]
    assert (command["cmdid"], command["name"], command["doc"]) == (1, "greet", "Greet somebody.")
    assert [each["name"] for each in command["errors"]] == ["Gone"]
    for source in sources:
        ended = run("schema", source)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == expected


@pytest.mark.cover_programs
def test_stubs_are_written_and_checked(folder: Path) -> None:
    assert run("stubs", "app:server", "-o", "app_client.py").returncode == 0
    text = (folder / "app_client.py").read_text()
    assert "class AppClient" in text
    assert "def greet(" in text
    assert "class Gone(" in text
    assert run("stubs", "app:server", "-o", "app_client.py", "--check").returncode == 0
    assert run("stubs", "app:server", "--class-name", "AppClient").stdout == text
    (folder / "app.py").write_text(APP.replace("greet", "welcome"))
    ended = run("stubs", "app:server", "-o", "app_client.py", "--check")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "out of date" in ended.stderr
    assert (folder / "app_client.py").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["schema", "nothing.json"], "nothing.json: No such file"),
        (["schema", "broken.json"], "broken.json: "),
        (["schema", "newer.json"], "newer"),
        (["schema", "nosuch:server"], "nosuch"),
        (["schema", "git:nosuch:app:server"], "git"),
        (["schema", "127.0.0.1:1"], "can't connect"),
        (["diff", "app:server", "nothing.json"], "nothing.json: No such file"),
        (["diff", "app:server", "app:server", "--direction", "up"], "--direction"),
        (["stubs", "app:server", "--check"], "-o FILE"),
        (["stubs", "app:server", "--class-name", "class"], "--class-name"),
        (["stubs", "app:server", "-o", "/nosuch/file.py"], "/nosuch/file.py"),
    ],
)
@pytest.mark.cover_programs
def test_mistakes_are_one_line(folder: Path, arguments: list[str], part: str) -> None:
    (folder / "broken.json").write_text("{")
    (folder / "newer.json").write_text(json.dumps({"gtcp_contract": 99, "commands": []}))
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert part in only_line(ended.stderr)


@pytest.mark.cover_programs
def test_a_diff_names_the_breaks(folder: Path) -> None:
    (folder / "old.json").write_text(run("schema", "app:server").stdout)
    ended = run("diff", "old.json", "app:server")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    (folder / "app.py").write_text(APP.replace("    name: str", "    name: str\n    age: int"))
    ended = run("diff", "old.json", "app:server")
    assert ended.returncode == 1
    title, line = ended.stdout.splitlines()
    assert title == "1 greet"
    assert line.startswith("  breaks old clients: params.age: an old client does not send it, ")
    assert only_line(ended.stderr) == "error: 1 break"
    assert run("diff", "old.json", "app:server", "--direction", "new-client").returncode == 0
    (change,) = json.loads(run("diff", "old.json", "app:server", "--json").stdout)
    assert change["breaks"] == "old-client"
    assert (change["cmdid"], change["command"], change["path"]) == (1, "greet", "params.age")


@pytest.mark.cover_programs
def test_a_diff_with_notes_only_succeeds(folder: Path) -> None:
    (folder / "old.json").write_text(run("schema", "app:server").stdout)
    (folder / "app.py").write_text(APP.replace("(1, errors=[Gone])", '(1, deprecated="stop")'))
    ended = run("diff", "old.json", "app:server")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "1 greet",
        "  note: it is deprecated: stop",
        "  note: errors: Gone (1001) is not declared any more",
    ]


@pytest.mark.cover_programs
def test_a_diff_of_many_breaks_counts_them(folder: Path) -> None:
    (folder / "old.json").write_text(run("schema", "app:server").stdout)
    (folder / "app.py").write_text(APP.replace("name: str", "name: int"))
    ended = run("diff", "old.json", "app:server")
    assert (ended.returncode, only_line(ended.stderr)) == (1, "error: 2 breaks")
