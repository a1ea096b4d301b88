"""Servers started as systemd starts them: sockets are passed, and the supervisor is notified."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gtcp
from tests.cli.processes import APP, COMMAND, environment, fails, served
from tests.helpers import Line, eventually, free_port
from tests.server.process.supervisor import Notified, passing, unix_listener
from tests.server.workers.gunicorn_process import GUNICORN

SLOW = """

@server.on_start
def start_slowly():
    time.sleep(0.3)
    open(f"started-{os.getpid()}", "w").close()

@server.handler(6)
def compute(request):
    until = time.monotonic() + request.params["seconds"]
    while time.monotonic() < until:
        pass
"""

MODES = pytest.mark.parametrize(
    "flags", [pytest.param((), id="one"), pytest.param(("--workers", "2"), id="workers")]
)

Flags = tuple[str, ...]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP + SLOW)
    return tmp_path


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    with Notified(str(tmp_path / "notify")) as notified:
        yield notified


class TestPassedSockets:
    @MODES
    def test_they_take_the_place_of_addresses(self, app: Path, flags: Flags) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            where = f"127.0.0.1:{sock.getsockname()[1]}"
            with served(app, "app", "--bind", "127.0.0.1:1", *flags, **passing(sock)) as server:
                assert server.addresses == [where]
                assert server.ask(1, a=1) == {"a": 1}
                server.end()

    @MODES
    def test_they_can_be_named(self, app: Path, flags: Flags) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            bind = ("--bind", f"fd://{sock.fileno()}", "--bind", "127.0.0.1:0")
            with served(app, "app", *bind, *flags, pass_fds=(sock.fileno(),)) as server:
                assert server.addresses[0] == f"127.0.0.1:{sock.getsockname()[1]}"
                for each in server.addresses:
                    with Line(each) as line:
                        assert line.ask({"cmdid": 0})["result"] == "pong"
                server.end()

    @MODES
    def test_the_file_and_its_permissions_stay(self, app: Path, flags: Flags) -> None:
        path = app / "passed.sock"
        with unix_listener(path) as sock:
            with served(app, "app", *flags, **passing(sock)) as server:
                assert server.addresses == [f"unix:{path}"]
                assert server.ask(1, a=1) == {"a": 1}
                assert stat.S_IMODE(path.stat().st_mode) == 0o666
                server.end()
            assert stat.S_IMODE(path.stat().st_mode) == 0o666

    @MODES
    @pytest.mark.parametrize("family", ["unix", "tcp"])
    def test_later_connections_wait_for_the_next_process(
        self, app: Path, flags: Flags, family: str
    ) -> None:
        unix = family == "unix"
        path = app / "passed.sock"
        with unix_listener(path) if unix else socket.create_server(("127.0.0.1", 0)) as sock:
            for _ in range(2):
                with served(app, "app", *flags, **passing(sock)) as server:
                    assert server.ask(1, a=1) == {"a": 1}
                    server.end()
                with Line(server.address):  # it is not refused
                    sock.settimeout(20)
                    sock.accept()[0].close()

    @MODES
    def test_those_of_another_process_are_not_taken(self, app: Path, flags: Flags) -> None:
        bind = ("app", "--bind", f"unix:{app}/live.sock")
        with served(app, *bind, *flags) as server:
            ended = subprocess.run(
                [*COMMAND, "serve", *bind, *flags],
                cwd=app,
                env=environment(LISTEN_FDS="1", LISTEN_PID="1"),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ended.returncode == 1
            assert "Address already in use" in ended.stderr
            assert server.ask(1, a=1) == {"a": 1}
            server.end()
        assert not (app / "live.sock").exists()

    def test_they_are_kept_when_the_application_asks_for_workers(self, app: Path) -> None:
        text = APP.replace("gtcp.Server()", "gtcp.Server(gtcp.Settings(workers=2))")
        (app / "app.py").write_text(text)
        sock = socket.create_server(("127.0.0.1", 0))
        with sock, served(app, "app", **passing(sock)) as server:
            assert server.addresses == [f"127.0.0.1:{sock.getsockname()[1]}"]
            assert server.ask(3) == server.process.pid
            server.end()

    @pytest.mark.cover_programs
    def test_a_second_master_takes_them_over(self, app: Path) -> None:
        path = app / "passed.sock"
        with unix_listener(path) as sock:
            with served(app, "app", "--workers", "2", **passing(sock)) as server:
                first = server.process.pid
                assert server.ask(3) == first
                server.process.send_signal(signal.SIGUSR2)
                second = eventually(lambda: {server.ask(3)} - {first}).pop()
                try:
                    server.process.terminate()
                    assert server.process.wait(20) == 0
                    assert server.ask(3) == second
                finally:
                    os.kill(second, signal.SIGTERM)
                eventually(lambda: not Path(f"/proc/{second}").exists())
            assert stat.S_IMODE(path.stat().st_mode) == 0o666

    @MODES
    @pytest.mark.cover_programs
    def test_a_descriptor_that_is_none_is_refused(self, app: Path, flags: Flags) -> None:
        said = fails(1, "serve", "app", "--bind", "fd://99", *flags, cwd=app)
        assert "can't listen on fd://99: Bad file descriptor" in said

    @MODES
    @pytest.mark.cover_programs
    def test_a_datagram_socket_is_refused(self, app: Path, flags: Flags) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            number = sock.fileno()
            bind = ("--bind", f"fd://{number}")
            said = fails(1, "serve", "app", *bind, *flags, cwd=app, pass_fds=(number,))
        assert f"can't listen on fd://{number}: it is not a stream socket" in said

    def test_what_is_no_number_is_refused(self, app: Path) -> None:
        assert "'fd://x' is not an address" in fails(2, "serve", "app", "--bind", "fd://x", cwd=app)


@pytest.mark.cover_programs
class TestNotifications:
    @MODES
    def test_of_a_whole_life(self, app: Path, flags: Flags, notified: Notified) -> None:
        bind = ("--bind", "127.0.0.1:0")
        with served(app, "app", *bind, *flags, env=notified.environment) as server:
            assert notified.next() == "READY=1"
            assert len(list(app.glob("started-*"))) == (2 if flags else 1)  # all of them serve
            before = time.monotonic_ns() // 1000
            server.process.send_signal(signal.SIGHUP)
            told = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", notified.next())
            assert told is not None
            assert before <= int(told[1]) <= time.monotonic_ns() // 1000
            assert notified.next() == "READY=1"
            assert len(list(app.glob("started-*"))) == (4 if flags else 1)
            with gtcp.Client(server.address) as client:  # an old worker may still tell it to go on
                assert client.call(1, {"a": 1}) == {"a": 1}
            said = server.end()
            assert notified.next() == "STOPPING=1"
            assert not notified.waiting()
        assert ("nothing to reload" in said) == (not flags)

    def test_of_a_reload_that_failed(self, app: Path, notified: Notified) -> None:
        with served(
            app, "app", "--bind", "127.0.0.1:0", "--workers", "2", env=notified.environment
        ) as server:
            assert notified.next() == "READY=1"
            (app / "app.py").write_text("no python")
            server.process.send_signal(signal.SIGHUP)
            assert notified.next().startswith("RELOADING=1")
            assert notified.next() == "READY=1"
            server.end()

    def test_to_an_abstract_socket(self, app: Path) -> None:
        with Notified(f"@gtcp-test-{os.getpid()}") as notified:
            bind = ("--bind", "127.0.0.1:0")
            with served(app, "app", *bind, env=notified.environment) as server:
                assert notified.next() == "READY=1"
                server.end()

    @MODES
    def test_that_nobody_takes_do_no_harm(self, app: Path, flags: Flags) -> None:
        env = {"NOTIFY_SOCKET": str(app / "nobody")}
        with served(app, "app", "--bind", "127.0.0.1:0", *flags, env=env) as server:
            assert server.ask(1, a=1) == {"a": 1}
            if not flags:
                assert "can't notify the supervisor" in server.end()
            else:
                server.end()

    @MODES
    def test_of_life(self, app: Path, flags: Flags, notified: Notified) -> None:
        env = {**notified.environment, "WATCHDOG_USEC": "300000"}
        with served(app, "app", "--bind", "127.0.0.1:0", *flags, env=env) as server:
            told: set[str] = set()
            while told != {"READY=1", "WATCHDOG=1"}:
                told.add(notified.next())
                assert told <= {"READY=1", "WATCHDOG=1"}
            server.end()

    @MODES
    def test_of_life_that_another_process_owes(
        self, app: Path, flags: Flags, notified: Notified
    ) -> None:
        env = {**notified.environment, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        with served(app, "app", "--bind", "127.0.0.1:0", *flags, env=env) as server:
            assert notified.next() == "READY=1"
            server.end()
            assert notified.waiting() == ["STOPPING=1"]

    def test_of_life_stop_while_the_event_loop_is_blocked(
        self, app: Path, notified: Notified
    ) -> None:
        env = {**notified.environment, "WATCHDOG_USEC": "100000"}
        with served(app, "app", "--bind", "127.0.0.1:0", env=env) as server:
            with Line(server.address) as line:
                for _ in range(5):
                    notified.next()
                notified.waiting()
                line.ask({"cmdid": 6, "params": {"seconds": 1}})
                assert len(notified.waiting()) <= 3
            server.end()


@pytest.mark.programs
@pytest.mark.cover_programs
class TestGunicorn:
    def test_is_ready_when_its_workers_are(self, app: Path, notified: Notified) -> None:
        path = app / "passed.sock"
        with unix_listener(path) as sock:
            options = passing(sock)
            process = subprocess.Popen(
                [*options["before"], sys.executable, *GUNICORN, "-w", "2", "app:server"],
                cwd=app,
                env=environment(**notified.environment),
                stderr=subprocess.DEVNULL,
                pass_fds=options["pass_fds"],
            )
            try:
                assert notified.next() == "READY=1"
                assert len(list(app.glob("started-*"))) == 2
                with Line(f"unix:{path}") as line:
                    assert line.ask({"cmdid": 3})["result"] == process.pid
                process.send_signal(signal.SIGHUP)
                assert notified.next().startswith("RELOADING=1")
                assert notified.next() == "READY=1"
                process.terminate()
                assert notified.next() == "STOPPING=1"
                assert process.wait(20) == 0
            finally:
                process.kill()
                process.wait()
            assert stat.S_IMODE(path.stat().st_mode) == 0o666


@pytest.mark.programs
@MODES
def test_under_systemd_socket_activate(app: Path, flags: Flags) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        ["systemd-socket-activate", "-l", address, *COMMAND, "serve", "app", *flags],
        cwd=app,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        line = eventually(lambda: _connected(address))  # starts the service
        with line:
            assert line.ask({"cmdid": 1, "params": {"a": 1}})["result"] == {"a": 1}
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def _connected(address: str) -> Line | None:
    try:
        return Line(address)
    except ConnectionRefusedError:
        return None
