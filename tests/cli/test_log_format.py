"""``gtcp serve --log-format json``: each line is JSON, with the request it belongs to."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import only_line, run, served
from tests.cli.test_logs import WORKERS
from tests.helpers import eventually

APP = """
import logging
import threading

import gtcp

server = gtcp.Server()
log = logging.getLogger("shop")


@server.handler(1)
def hello(request):
    log.info("hello %s", request.params["name"])


@server.handler(2)
def fail(request):
    raise ValueError("no\\n tea")


@server.handler(3)
def outside(request):
    thread = threading.Thread(target=log.info, args=("elsewhere",))
    thread.start()
    thread.join()
"""


def application(folder: Path) -> Path:
    (folder / "app.py").write_text(APP)
    return folder


def entries(text: str) -> list[dict[str, Any]]:
    """Return the lines that are JSON."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@WORKERS
@pytest.mark.cover_programs
def test_each_line_is_json_with_its_request(workers: list[str], tmp_path: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--log-format", "json", "--access-log", *workers]
    with served(application(tmp_path), "app", *flags) as running:
        running.ask(1, name="Ada\n\x1b[2J\u2028")
        running.ask(3)
        text = running.end()
    others = [line for line in text.splitlines() if not line.startswith("{")]
    assert all(each.startswith("gtcp: ") for each in others)  # for the user of a terminal
    found = entries(text)
    [hello] = [each for each in found if each["logger"] == "shop" and "peer" in each]
    assert hello["message"] == "hello Ada\n\x1b[2J\u2028"
    assert (hello["level"], hello["cmdid"], hello["method"]) == ("INFO", 1, "hello")
    assert hello["peer"].startswith("127.0.0.1:")
    assert datetime.fromisoformat(hello["time"]).tzinfo is not None
    [elsewhere] = [each for each in found if each["message"] == "elsewhere"]
    assert "peer" not in elsewhere
    access = [each for each in found if each["logger"] == "gtcp.access"]
    assert [each["method"] for each in access] == ["hello", "outside"]
    assert access[0]["peer"] == hello["peer"]
    assert access[0]["code"] == 0
    assert 0 < access[0]["duration_ms"] < 60_000
    assert access[0]["received_bytes"] > access[0]["sent_bytes"] > 0


@pytest.mark.cover_programs
def test_a_failed_handler_is_one_line_with_its_traceback(tmp_path: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--log-format", "json"]
    with served(application(tmp_path), "app", *flags) as running:
        run("call", running.address, "2")
        text = running.end()
    [failed] = [each for each in entries(text) if "error" in each]
    assert "ValueError: no\n tea" in failed["error"]
    assert (failed["level"], failed["method"]) == ("ERROR", "fail")


@pytest.mark.cover_programs
def test_sigusr1_opens_the_file_of_a_single_process_again(tmp_path: Path) -> None:
    file = tmp_path / "shop.log"
    flags = ["--bind", "127.0.0.1:0", "--log-file", "shop.log", "--log-format", "json"]
    with served(application(tmp_path), "app", *flags) as running:
        running.ask(1, name="Ada")
        file.rename(tmp_path / "shop.log.1")
        running.process.send_signal(signal.SIGUSR1)
        eventually(file.exists)
        running.ask(1, name="Grace")
        running.end()
    assert entries((tmp_path / "shop.log.1").read_text())[0]["message"] == "hello Ada"
    assert "hello Grace" in file.read_text()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--log-format", "xml"], "error: --log-format: expected one of text, json, got 'xml'"),
        (
            ["--log-format", "json", "--log-config", "logs.toml"],
            "error: log_config: expected no log_format with it",
        ),
    ],
)
def test_mistakes(flags: list[str], line: str, tmp_path: Path) -> None:
    (tmp_path / "logs.toml").write_text("")
    ended = run("serve", "app", "--bind", "127.0.0.1:0", *flags, cwd=application(tmp_path))
    assert ended.returncode == 2
    assert only_line(ended.stderr) == line
