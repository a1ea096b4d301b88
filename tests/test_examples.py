"""The examples, as their users run them: real processes, real files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import gtcp
from tests.helpers import Line, eventually

EXAMPLES = Path(__file__).parent.parent / "examples"
CODESTATS = EXAMPLES / "codestats"
STDLIB = Path(sysconfig.get_path("stdlib"))

#: Seconds after which a process must be hanging.
PATIENCE = 120

COUNT = 10000


class Started:
    """A server process that listens.

    Attributes:
        process: the process.
        address: where it listens.
        log: the file with what it writes.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.address = eventually(self._listening, PATIENCE)

    def stop(self) -> int:
        """Send SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def _listening(self) -> str | None:
        said = self.log.read_text()
        assert self.process.poll() is None, said
        match = re.search(r"listening on ([^\s,]+)", said)
        return match and match[1]


@contextmanager
def started(*command: object, folder: Path, **env: str) -> Iterator[Started]:
    """A server process, run in ``folder``; its log is there, too."""
    log = folder / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=file,
            stderr=file,
            cwd=folder,
            env=environment(**env),
        )
    try:
        yield Started(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


def environment(**env: str) -> dict[str, str]:
    """Ours without any settings, and with these."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GTCP_")}
    return ours | env


def serve(
    file: Path, folder: Path, *, workers: int = 1, **env: str
) -> AbstractContextManager[Started]:
    """``gtcp serve`` with this file, on a free port; it can import what codestats is made of."""
    options = ["--workers", workers, "--bind", "127.0.0.1:0"]
    env["PYTHONPATH"] = str(CODESTATS)
    return started("-m", "gtcp", "serve", file, *options, folder=folder, **env)


def codestats(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    return subprocess.run(
        [sys.executable, str(CODESTATS / "codestats.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(PYTHONWARNINGS="always"),
    )


def table(output: str) -> dict[str, int]:
    """The rows that the script has printed."""
    rows = re.findall(r"^ *(.*\S) {2,}([\d,]+)$", output, re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in rows}


# codestats

BROKEN = {
    "broken.py": b"def f(:\n",
    "deep.py": b"-" * 100_000 + b"1\n",
    "cookie.py": b"# coding: no-such-encoding\n",
    "late.py": b"x = 1\n" * 1000 + b"s = '\xff'\n",
    "null.py": b"x = 1\0\n",
    "surrogate.py": b"# coding: utf-7\ns = '+2AA-'\n",
    "too_large.py": b"#" * (5 << 20) + b"\n",
}

WHOLE = {
    "empty.py": b"",
    "escapes.py": b"import re\nre.compile('\\d')\n",
    "huge.py": b"s = '''" + b"x\n" * 700_000 + b"'''\n",  # a line longer than the default limit
    "latin.py": "# -*- coding: latin-1 -*-\ns = 'é'\n".encode("latin-1"),
    "windows.py": b"x = 1\r\ny = 2\r\n",
}

FAULTS = {
    "1001 syntax error": 1,
    "1002 null bytes": 1,
    "1003 nested too deep": 1,
    "1004 not decodable": 3,
    "1005 too large to send": 1,
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A directory with files of every kind, and a part of the standard library."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, content in (BROKEN | WHOLE).items():
        (folder / name).write_bytes(content)
    for package in ("email", "json"):
        shutil.copytree(STDLIB / package, folder / package)
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "not_ours.py").write_bytes(b"")
    (folder / "directory.py").mkdir()
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gtcp.Client]:
    with (
        serve(CODESTATS / "server.py", tmp_path_factory.mktemp("server")) as server,
        gtcp.Client(server.address) as client,
    ):
        yield client


def test_counts_of_a_source(client: gtcp.Client) -> None:
    text = "class A:\n    def f(self): ...\n\nasync def g(): pass  # nothing\nh = lambda: 0"
    assert client.call(COUNT, {"name": "a.py", "text": text}) == {
        "lines": 5,
        "functions": 2,
        "classes": 1,
        "tokens": {
            "NAME": 11,
            "OP": 10,
            "NEWLINE": 4,
            "INDENT": 1,
            "NL": 1,
            "DEDENT": 1,
            "COMMENT": 1,
            "NUMBER": 1,
            "ENDMARKER": 1,
        },
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [("def f(:", 1001), ("if 1:\n  x\n y", 1001), ("x\0", 1002), ("-" * 100_000 + "1", 1003)],
)
def test_source_that_does_not_parse_is_an_application_error(
    client: gtcp.Client, text: str, code: int
) -> None:
    with pytest.raises(gtcp.RemoteError) as caught:
        client.call(COUNT, {"name": "a.py", "text": text})
    assert caught.value.code == code
    assert client.call(COUNT, {"name": "a.py", "text": "x"})["lines"] == 1
    assert client.stats()["opened"] == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_codestats_counts_what_is_there(tmp_path: Path, sources: Path, workers: int) -> None:
    target = CODESTATS / "server.py"
    with serve(target, tmp_path, workers=workers, PYTHONWARNINGS="always") as server:
        done = codestats(server.address, sources, "--verify", "--window", "8")
        assert server.stop() == 0
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    files = [path for path in sources.rglob("*.py") if path.is_file()]
    ours = len(files) - 1  # all but the one in site-packages
    assert rows["files"] == ours
    assert rows["counted"] == rows["ENDMARKER"] == ours - len(BROKEN)
    assert {name: number for name, number in rows.items() if name in FAULTS} == FAULTS
    assert rows["lines"] > 700_000
    assert "0 differences" in done.stdout
    assert "files/s" in done.stdout
    assert "escape sequence" not in done.stderr + server.log.read_text()


DIFFERENT = """
import gtcp
from counting import Source, Stats, count

server = gtcp.Server()

@server.handler(10000)
def different(request: gtcp.Request[Source]) -> Stats:
    stats = count(request.params)
    if request.params.name.endswith("decoder.py"):
        {change}
    return stats
"""


@pytest.fixture
def json_sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STDLIB / "json", tmp_path / "json"))


@pytest.mark.parametrize("change", ["stats.lines += 1", "raise gtcp.CommandError(1001, 'not so')"])
def test_difference_is_named_and_exits_1(tmp_path: Path, json_sources: Path, change: str) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(DIFFERENT.format(change=change))
    with serve(wrong, tmp_path) as server:
        done = codestats(server.address, json_sources, "--verify")
        assert done.returncode == 1
        assert "1 differences" in done.stdout
        assert "decoder.py: " in done.stderr
        assert "encoder.py: " not in done.stderr
        assert codestats(server.address, json_sources).returncode == 0


def test_error_that_is_not_the_files_exits_1(tmp_path: Path, json_sources: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(DIFFERENT.format(change="raise RuntimeError"))
    with serve(wrong, tmp_path) as server:
        done = codestats(server.address, json_sources)
    assert done.returncode == 1
    assert table(done.stdout)["500 failed"] == 1
    assert "decoder.py: 500 " in done.stderr


def test_no_server_is_one_clear_line(json_sources: Path) -> None:
    with socket.socket() as nobody:  # bound, not listening
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        done = codestats(address, json_sources)
    assert done.returncode == 1
    assert f"Error: can't connect to {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_impossible_address_is_a_usage_error(json_sources: Path) -> None:
    done = codestats("127.0.0.1:port", json_sources)
    assert done.returncode == 2
    assert "'127.0.0.1:port' is not an address" in done.stderr


# hello


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A copy of the example that listens on a free port: its log file stands beside it."""
    copy = Path(shutil.copytree(EXAMPLES / "hello", tmp_path / "hello"))
    settings = copy / "settings.toml"
    settings.write_text(settings.read_text().replace("port = 8889", "port = 0"))
    return copy


def test_manage_serves_from_any_directory(tmp_path: Path, hello: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with started(hello / "manage.py", folder=elsewhere) as server:
        with Line(server.address) as line:
            request = {"cmdid": COUNT, "timestamp": 1437000000, "params": {"content": "hi"}}
            assert line.ask(request) == {"code": 0, "result": {"content": "hi"}}
        assert server.stop() == 0
    assert os.listdir(elsewhere) == ["log"]


def test_hello_keeps_its_record_in_a_log_of_its_own(tmp_path: Path, hello: Path) -> None:
    with started(hello / "manage.py", folder=tmp_path) as server:
        with gtcp.Client(server.address) as client:
            assert client.call(10001, {"name": "Ada"}) == "Hello Ada!"
        assert server.stop() == 0
    assert re.search(r"INFO 127\.0\.0\.1:\d+ greets Ada$", (hello / "hello.log").read_text())
    assert "greets" not in server.log.read_text()


def test_hello_answers_while_a_reminder_waits(tmp_path: Path, hello: Path) -> None:
    with started(hello / "manage.py", folder=tmp_path) as server, Line(server.address) as line:
        line.send(
            {"cmdid": 10002, "id": 1, "params": {"content": "tea", "seconds": 0.5}},
            {"cmdid": 10000, "id": 2, "params": {"content": "hi"}},
        )
        assert [reply["id"] for reply in line.replies(2)] == [2, 1]


def manage(hello: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, which comes when it can't serve."""
    return subprocess.run(
        [sys.executable, str(hello / "manage.py")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(**env),
    )


def test_wrong_setting_is_one_clear_line(hello: Path) -> None:
    done = manage(hello, GTCP_PORT="many")
    assert done.returncode == 2
    assert done.stderr.startswith("manage.py: GTCP_PORT: expected ")
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_one_clear_line(hello: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = manage(hello, GTCP_PORT=str(port))
    assert done.returncode == 1
    expected = f"manage.py: can't listen on 127.0.0.1:{port}: Address already in use\n"
    assert done.stderr == expected
