"""The demo: what it shows is true, and nothing of it is left when it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer
from gevent.socket import create_connection

from gtcp.cli.demo import tour
from gtcp.cli.demo.relay import Relay
from gtcp.transport.address import parse
from tests.cli.processes import free_address
from tests.helpers import PATIENCE, Line, eventually

COMMAND = [sys.executable, "-W", "error", "-m", "gtcp", "demo"]
STAY = [*COMMAND, "--stay"]


class Demo:
    """A running demo, from the last line of its tour."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.shown = ""
        while "nc -N" not in self.shown:
            line = process.stdout.readline()
            assert line, f"it ended: {self.shown}"
            self.shown += line
        found = re.search(r"server: (\S+), a separate process, pid (\d+)", self.shown)
        assert found is not None
        self.address, self.server = found[1], int(found[2])

    def end(self, sig: signal.Signals) -> int:
        self.process.send_signal(sig)
        return self.process.wait(PATIENCE)


@contextmanager
def demo() -> Iterator[Demo]:
    process = subprocess.Popen(STAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Demo(process)
    finally:
        process.kill()
        process.communicate()


def nobody_listens(address: str) -> bool:
    where = parse(address)
    try:
        socket.create_connection((where.host, where.port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture(scope="module")
def once() -> subprocess.CompletedProcess[str]:
    """The tour alone."""
    return subprocess.run(COMMAND, capture_output=True, text=True, timeout=PATIENCE, check=False)


Shown = subprocess.CompletedProcess[str]


@pytest.mark.cover_programs
def test_tour_ends_well_and_leaves_nothing(once: Shown) -> None:
    assert (once.returncode, once.stderr) == (0, "")
    address = re.search(r"server: (127\.0\.0\.1:\d+)", once.stdout)
    assert address is not None
    assert nobody_listens(address[1])
    assert "100 calls at once, to a handler that sleeps 0.1 s" in once.stdout
    took = re.search(r"all answered in ([\d.]+) s, over \d+ connections?", once.stdout)
    assert took is not None
    assert float(took[1]) >= 0.1
    assert "\x1b" not in once.stdout  # there is no terminal


def test_tour_shows_a_request_and_its_reply_for_every_call(once: Shown) -> None:
    requests = [json.loads(line) for line in re.findall(r"^  -> (.*)$", once.stdout, re.M)]
    replies = [json.loads(line) for line in re.findall(r"^  <- (.*)$", once.stdout, re.M)]
    assert [each["cmdid"] for each in requests] == [stop.cmdid for stop in tour.TOUR]
    assert [each["params"] for each in requests] == [stop.params for stop in tour.TOUR]
    assert [each["id"] for each in requests] == [each["id"] for each in replies]
    assert [each["code"] for each in replies] == [0, 0, 422, 1001, 408]


def test_tour_shows_what_comes_of_every_call(once: Shown) -> None:
    outcomes = re.findall(r"^  (returns|raises) (.*)$", once.stdout, re.M)
    assert outcomes[0] == ("returns", "{'content': 'Hello world!'}")
    assert outcomes[1] == ("returns", "{'content': 'HELLO WORLD!'}")
    assert outcomes[2][1].endswith("(executed: no)")
    assert outcomes[3] == ("raises", "RemoteError: 1001 can't divide by zero (executed: yes)")
    assert re.match(r"(CallTimeout|RemoteTimeout): ", outcomes[4][1])
    assert len(outcomes) == len(tour.TOUR)


def test_tour_names_its_ports_and_prints_no_command_for_them(once: Shown) -> None:
    """Each command that is printed works after the demo has ended."""
    server = re.search(r"server: 127\.0\.0\.1:(\d+)", once.stdout)
    relay = re.search(r"pass through 127\.0\.0\.1:(\d+)", once.stdout)
    assert server is not None
    assert relay is not None
    told = once.stdout.partition("The tour has ended")[2]
    assert set(re.findall(r"127\.0\.0\.1[: ](\d+)", told)) == {"8889"}
    ports = set(re.findall(r"127\.0\.0\.1:(\d+)", once.stdout.partition("100 calls")[0]))
    assert ports == {server[1], relay[1]}


@pytest.mark.parametrize("on_path", [True, False])
def test_printed_commands_work_where_the_demo_was_started(on_path: bool, tmp_path: Path) -> None:
    """With gtcp on PATH, and where it was started by its path only."""
    folder = os.path.dirname(sys.executable)
    paths = ["/usr/bin", "/bin"]
    env = {**os.environ, "PATH": os.pathsep.join([folder, *paths] if on_path else paths)}
    options: Any = {"cwd": tmp_path, "env": env, "shell": True, "text": True}
    start = "gtcp" if on_path else shlex.quote(f"{folder}/gtcp")
    shown = subprocess.run(
        f"{start} demo", stdout=subprocess.PIPE, timeout=PATIENCE, check=True, **options
    ).stdout
    address = free_address()
    host, port = address.split(":")
    told = shown.partition("The tour has ended")[2]
    told = told.replace("127.0.0.1:8889", address).replace("127.0.0.1 8889", f"{host} {port}")
    serve, call, commands = re.findall(r"^  (.*gtcp (?:serve|call|commands) .*)$", told, re.M)
    assert call.startswith("gtcp ") is on_path
    server = subprocess.Popen(f"exec {serve}", stderr=subprocess.PIPE, **options)
    try:
        assert server.stderr is not None
        assert server.stderr.readline().startswith(f"gtcp: listening on {address}")
        assert subprocess.check_output(call, **options) == '{"content": "hi"}\n'
        assert "hello" in subprocess.check_output(commands, **options)
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.cover_programs
def test_server_stays_until_a_signal_and_answers_the_line_shown(sig: signal.Signals) -> None:
    with demo() as running:
        found = re.search(r"echo '(.*)' \| nc -N (\S+) (\d+)$", running.shown, re.M)
        assert found is not None
        with Line(f"{found[2]}:{found[3]}") as line:
            line.send(found[1].encode() + b"\n")
            line.finish()
            assert line.rest() == [{"code": 0, "result": {"content": "hi"}}]
        assert running.end(sig) == 0
        assert nobody_listens(running.address)


@pytest.mark.cover_programs
def test_server_does_not_outlive_a_demo_that_is_killed() -> None:
    with demo() as running:
        running.end(signal.SIGKILL)
        eventually(lambda: nobody_listens(running.address))


@pytest.mark.cover_programs
def test_demo_ends_when_its_server_does() -> None:
    with demo() as running:
        os.kill(running.server, signal.SIGKILL)
        assert running.process.wait(PATIENCE) == 1
        assert running.process.stderr is not None
        assert running.process.stderr.read() == "error: the demo's server has exited\n"


def test_relay_keeps_the_lines_as_they_were_sent() -> None:
    """Bytes pass unchanged, in pieces too; what is no complete line is not shown."""
    server = StreamServer(("127.0.0.1", 0), _echo_twice)
    server.start()
    with Relay(parse(f"127.0.0.1:{server.server_port}")) as relay:
        where = parse(relay.address)
        with create_connection((where.host, where.port)) as sock, gevent.Timeout(PATIENCE):
            sock.sendall(b'{ "a":')
            sock.sendall(b" 1}\nhalf")
            sock.shutdown(socket.SHUT_WR)
            received = sock.makefile("rb").read()
    server.stop(0)
    assert received == b'{ "a": 1}\nhalf' * 2
    assert relay.seen == [(True, b'{ "a": 1}'), (False, b'{ "a": 1}'), (False, b'half{ "a": 1}')]


def _echo_twice(sock: socket.socket, _name: object) -> None:
    everything = sock.makefile("rb").read()
    sock.sendall(everything * 2)
    sock.close()


def test_relay_bears_a_server_that_vanishes(capfd: pytest.CaptureFixture[str]) -> None:
    """The client sees its connection end; no greenlet dies with a traceback."""
    vanishing = StreamServer(("127.0.0.1", 0), lambda sock, _name: sock.close())
    vanishing.start()
    where = parse(f"127.0.0.1:{vanishing.server_port}")
    with Relay(where) as relay:
        _expect_the_end(relay.address)
        vanishing.stop(0)
        _expect_the_end(relay.address)
    assert capfd.readouterr().err == ""


def _expect_the_end(address: str) -> None:
    where = parse(address)
    with create_connection((where.host, where.port)) as sock, gevent.Timeout(PATIENCE):
        try:
            sock.sendall(b"x" * 1_000_000)
            end = sock.recv(1)
        except ConnectionError:  # a reset is an end too
            end = b""
    assert end == b""
