"""Files of unix sockets that are left over, in use, or another server's."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from gtcp.server.listener import listen
from gtcp.transport.address import parse
from tests.cli.processes import APP, COMMAND, environment, fails, served
from tests.helpers import Line, eventually

MODES = pytest.mark.parametrize(
    "flags", [pytest.param((), id="one"), pytest.param(("--workers", "2"), id="workers")]
)


def leave_file(path: Path) -> None:
    """A socket file that nobody listens on."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_one_of_several_that_start_at_the_same_moment_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    starters = 4
    for _ in range(50):
        leave_file(path)
        barrier = threading.Barrier(starters)
        outcomes: list[socket.socket | OSError] = []

        def start(barrier: threading.Barrier = barrier, outcomes: list = outcomes) -> None:
            barrier.wait()
            try:
                outcomes.append(listen(parse(f"unix:{path}"), 5))
            except OSError as exc:
                outcomes.append(exc)

        threads = [threading.Thread(target=start) for _ in range(starters)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        listening = [each for each in outcomes if isinstance(each, socket.socket)]
        refused = [each.errno for each in outcomes if isinstance(each, OSError)]
        try:
            assert len(listening) == 1
            assert refused == [errno.EADDRINUSE] * (starters - 1)
            Line(f"unix:{path}").close()  # its file is there
        finally:
            for each in listening:
                each.close()


@MODES
def test_one_of_several_processes_serves(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(APP)
    path = tmp_path / "s"
    leave_file(path)
    logs = [tmp_path / f"log{number}" for number in range(3)]
    processes = []
    for each in logs:
        with each.open("w") as log:
            command = [*COMMAND, "serve", "app", "--bind", f"unix:{path}", *flags]
            processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=log))
    try:
        eventually(lambda: sum(each.poll() is not None for each in processes) == 2)
        eventually(lambda: sum("listening on" in each.read_text() for each in logs) == 1)
        said = "".join(each.read_text() for each in logs)
        assert said.count("Address already in use") == 2
        with Line(f"unix:{path}") as line:
            assert line.ask({"cmdid": 0})["result"] == "pong"
        (serving,) = [each for each in processes if each.poll() is None]
        serving.terminate()
        assert serving.wait(20) == 0
        assert not path.exists()
    finally:
        for each in processes:
            each.kill()
            each.wait()


@MODES
@pytest.mark.cover_programs
def test_owner_group_and_permissions(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(APP)
    path = tmp_path / "s"
    env = {"GTCP_UNIX_MODE": "660", "GTCP_UNIX_GROUP": str(os.getgid())}
    if os.getuid() == 0:
        env["GTCP_UNIX_OWNER"], env["GTCP_UNIX_GROUP"] = "65534", "65533"
    with served(tmp_path, "app", "--bind", f"unix:{path}", *flags, env=env) as server:
        found = path.stat()
        assert found.st_mode & 0o777 == 0o660
        if os.getuid() == 0:
            assert (found.st_uid, found.st_gid) == (65534, 65533)
        server.end()
    assert not path.exists()


class TestAbstract:
    """unix:@name, which has no file."""

    @MODES
    @pytest.mark.cover_programs
    def test_is_served_called_and_exclusive(self, tmp_path: Path, flags: tuple[str, ...]) -> None:
        (tmp_path / "app.py").write_text(APP)
        address = f"unix:@gtcp-{os.getpid()}-{len(flags)}"
        with served(tmp_path, "app", "--bind", address, *flags) as server:
            assert server.addresses == [address]
            assert server.ask(1, a=1) == {"a": 1}
            called = subprocess.run(
                [*COMMAND, "call", address, "1", '{"b": 2}'],
                env=environment(),
                capture_output=True,
                text=True,
                check=True,
            )
            assert called.stdout == '{"b": 2}\n'
            said = fails(1, "serve", "app", "--bind", address, *flags, cwd=tmp_path)
            assert f"can't listen on {address}: Address already in use" in said
            server.end()
        assert os.listdir(tmp_path).count(address.removeprefix("unix:")) == 0

    def test_leaves_a_file_of_that_name_alone(self, tmp_path: Path) -> None:
        (tmp_path / "app.py").write_text(APP)
        name = f"@gtcp-{os.getpid()}-file"
        (tmp_path / name).write_text("data")
        with served(tmp_path, "app", "--bind", f"unix:{name}") as server:
            server.end()
        assert (tmp_path / name).read_text() == "data"


class TestIPv6:
    """[::] means IPv6 only: beside it there is room for 0.0.0.0."""

    @MODES
    def test_the_wildcard_leaves_ipv4_alone(self, tmp_path: Path, flags: tuple[str, ...]) -> None:
        (tmp_path / "app.py").write_text(APP)
        with served(tmp_path, "app", "--bind", "[::]:0", "--insecure", *flags) as server:
            port = server.address.rpartition(":")[2]
            with Line(f"[::1]:{port}") as line:
                assert line.ask({"cmdid": 0})["result"] == "pong"
            with pytest.raises(ConnectionRefusedError):
                Line(f"127.0.0.1:{port}")
            both = ("--bind", f"0.0.0.0:{port}", "--bind", "[::]:0")
            with served(tmp_path, "app", *both, "--insecure", *flags) as other:
                assert len(other.addresses) == 2
                other.end()
            server.end()

    @MODES
    def test_both_on_one_port(self, tmp_path: Path, flags: tuple[str, ...]) -> None:
        (tmp_path / "app.py").write_text(APP)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        bind = ("--bind", f"[::]:{port}", "--bind", f"0.0.0.0:{port}")
        with served(tmp_path, "app", *bind, "--insecure", *flags) as server:
            for host in ("[::1]", "127.0.0.1"):
                with Line(f"{host}:{port}") as line:
                    assert line.ask({"cmdid": 0})["result"] == "pong"
            server.end()
