"""The HAProxy configuration of the documentation: its checks work, and a dead server is noticed."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.processes import APP, Served, served
from tests.doc_blocks import parse
from tests.helpers import PATIENCE, Line, eventually, free_port

pytestmark = pytest.mark.programs

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "haproxy-and-nginx.md"
PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"

PROXY = "send-proxy"


def configuration() -> str:
    (block,) = [each for each in parse(PAGE.read_text("utf-8")) if each.language == "cfg"]
    return block.text


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack:

        def start(**env: str) -> Served:
            (tmp_path / "app.py").write_text(APP)
            return stack.enter_context(served(tmp_path, "app", "--bind", "127.0.0.1:0", env=env))

        yield start


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Run HAProxy with a configuration; return the port that it listens on."""
    program = shutil.which("haproxy", path=PATH)
    if program is None:
        pytest.skip("haproxy is not installed")
    with ExitStack() as stack:

        def start(text: str) -> str:
            port = str(free_port())
            text = text.replace("inter 2s", "inter 50").replace("8891", port)
            stats = f"global\n    stats socket {tmp_path / 'stats'} mode 600\n"
            (tmp_path / "haproxy.cfg").write_text(f"{stats}{text}\n")
            process = subprocess.Popen([program, "-db", "-f", str(tmp_path / "haproxy.cfg")])
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.terminate)
            return f"127.0.0.1:{port}"

        yield start


def status(folder: Path, server: str) -> tuple[str, str]:
    """Return a server's state and the result of its last check, such as UP and L7OK."""
    with socket.socket(socket.AF_UNIX) as sock:
        if sock.connect_ex(str(folder / "stats")):
            return "", ""
        sock.sendall(b"show stat\n")
        rows = csv.DictReader(sock.makefile().read().splitlines())
        for row in rows:
            if row["svname"] == server:
                return row["status"], row["check_status"].removeprefix("* ")
    return "", ""


def test_the_check_calls_each_server(
    start: Callable[..., Served], haproxy: Callable[[str], str], tmp_path: Path
) -> None:
    servers = {name: start(GTCP_PROXY_FROM="127.0.0.1") for name in "ab"}
    text = configuration()
    text = text.replace("127.0.0.1:8889", servers["a"].address)
    where = haproxy(text.replace("127.0.0.1:8890", servers["b"].address))
    eventually(lambda: [status(tmp_path, name) for name in "ab"] == [("UP", "L7OK")] * 2)
    servers["a"].end()
    eventually(lambda: status(tmp_path, "a") == ("DOWN", "L4CON"))
    with Line(where) as line:
        assert line.ask({"cmdid": 1})["result"] == {}


def test_a_server_with_a_secret_is_checked_by_connecting(
    start: Callable[..., Served], haproxy: Callable[[str], str], tmp_path: Path
) -> None:
    server = start(GTCP_PROXY_FROM="127.0.0.1", GTCP_SECRET="shop.1:" + "s" * 32)
    text = configuration().replace("127.0.0.1:8889", server.address)
    lines = [each for each in text.split("\n") if "check send " not in each]
    lines = [each for each in lines if "check expect " not in each and "server b " not in each]
    assert len(lines) == text.count("\n") + 1 - 3
    haproxy("\n".join(lines))
    eventually(lambda: status(tmp_path, "a")[0] == "UP" and status(tmp_path, "a")[1] == "L4OK")
    assert "closing" not in server.end()  # the checks log nothing


def test_without_proxy_headers(
    start: Callable[..., Served], haproxy: Callable[[str], str], tmp_path: Path
) -> None:
    server = start()
    text = configuration().replace("127.0.0.1:8889", server.address)
    text = text.replace(" send-proxy-v2", "").replace(" send-proxy", "")
    haproxy(text.replace("    server b", "    # server b"))
    eventually(lambda: status(tmp_path, "a") == ("UP", "L7OK"))
