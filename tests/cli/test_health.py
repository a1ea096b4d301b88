"""`gtcp health`: the exit statuses of grpc_health_probe."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gtcp
from gtcp.cli.health.probe import NO_ANSWER, NOT_CONNECTED, NOT_SERVING, WRONG_ARGUMENTS
from tests.cli.processes import run
from tests.helpers import Serving, free_port, serving


@pytest.fixture
def running() -> Iterator[Serving]:
    with serving(gtcp.Server(gtcp.Settings(port=0))) as server:
        yield server


# The second way goes through click and the client.
WAYS = pytest.mark.parametrize("options", [[], ["--timeout", "2"]], ids=["fast", "click"])


@WAYS
def test_a_server_that_serves(running: Serving, typed: Callable[..., Any], options: Any) -> None:
    assert typed("health", running.address, *options) == (0, "SERVING\n", "")


@WAYS
def test_a_server_that_does_not(running: Serving, typed: Callable[..., Any], options: Any) -> None:
    running.run(running.server.health.set, False)
    assert typed("health", running.address, *options) == (NOT_SERVING, "NOT_SERVING\n", "")


def test_a_command(running: Serving, typed: Callable[..., Any]) -> None:
    running.run(running.server.health.set, False, "pay")
    assert typed("health", running.address, "--command", "pay")[:2] == (4, "NOT_SERVING\n")
    assert typed("health", running.address, "--command", "order")[:2] == (0, "SERVING\n")


@WAYS
def test_nothing_listens(refused: Callable[..., str], options: Any) -> None:
    line = refused(NOT_CONNECTED, "health", f"127.0.0.1:{free_port()}", *options)
    assert "refused" in line


def test_the_error_names_several_hosts_once(refused: Callable[..., str]) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    assert refused(NOT_CONNECTED, "health", hosts).count(hosts) == 1


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not gtcp's"),
        (b"[]\n", "refuses"),
        (b'{"code":422,"message":"unknown\x7f op"}\n', r"refuses: unknown\x7f op"),
        (b'{"code":0,"result":"pong"}\n', "from 0.3 on"),
    ],
)
def test_something_else_listens(refused: Callable[..., str], answer: bytes, part: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            sock, _ = listener.accept()
            sock.recv(1000)
            sock.sendall(answer)
            sock.close()

        thread = threading.Thread(target=reply)
        thread.start()
        line = refused(NO_ANSWER, "health", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert part in line


@WAYS
def test_a_server_that_says_nothing(
    refused: Callable[..., str], options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gtcp.cli.health.probe.TIMEOUT", 0.1)
    options = ["--timeout", "0.1"] if options else []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused(NO_ANSWER, "health", f"127.0.0.1:{listener.getsockname()[1]}", *options)


@pytest.mark.parametrize(
    "arguments",
    [[], ["::::"], ["--nothing", "a"], ["a:1", "--timeout", "x"], ["a:1", "--ca", "/nothing"]],
)
def test_wrong_arguments(refused: Callable[..., str], arguments: list[str]) -> None:
    refused(WRONG_ARGUMENTS, "health", *arguments)


def test_a_unix_socket(typed: Callable[..., Any], tmp_path: Any) -> None:
    server = gtcp.Server(gtcp.Settings(bind=(f"unix:{tmp_path}/sock",)))
    with serving(server):
        assert typed("health", f"unix:{tmp_path}/sock") == (0, "SERVING\n", "")


def test_a_secret(running: Serving, typed: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("GTCP_SECRET", "key:0123456789abcdef0123456789abcdef")
    server = gtcp.Server(gtcp.Settings(port=0))
    with serving(server) as other:
        assert typed("health", other.address) == (0, "SERVING\n", "")


def test_the_file_of_a_secret_in_the_environment_is_used(
    tmp_path: Any, typed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "shop.1:" + "s" * 32
    (tmp_path / "secret").write_text(text)
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("GTCP_SECRET_FILE", str(tmp_path / "secret"))
    with serving(gtcp.Server(gtcp.Settings(port=0), secret=text)) as server:
        assert typed("health", server.address) == (0, "SERVING\n", "")


def test_the_fast_way_loads_little(running: Serving) -> None:
    program = (
        "import sys\nfrom gtcp.cli import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program, "health", running.address],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "SERVING\n"
    assert not {"click", "gtcp.client.client", "ssl", "logging"} & set(ended.stderr.split())


@pytest.mark.cover_programs
def test_as_a_process(running: Serving) -> None:
    assert run("health", running.address).returncode == 0
    assert "SERVING" in run("health", "--help").stdout


@pytest.mark.parametrize("address", ["no-such-host.invalid:1", "127.0.0.1:1,127.0.0.1:2"])
@pytest.mark.cover_programs
def test_addresses_that_only_the_client_can_tell_about_are_one_line(address: str) -> None:
    ended = run("health", address)
    assert (ended.returncode, ended.stdout) == (NOT_CONNECTED, "")
    assert ended.stderr.startswith(f"error: {address}: ")
    assert ended.stderr.count("\n") == 1


def test_several_hosts(running: Serving, typed: Callable[..., Any]) -> None:
    address = f"{running.address},{running.address}"
    assert typed("health", address) == (0, "SERVING\n", "")
