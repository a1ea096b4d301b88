"""A fork beside handlers that wait: each runs to its end once, and the parent does not notice."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Line, eventually, free_port
from tests.server.process.fork_app import (
    BEGUN,
    COMPUTE,
    EXECUTOR,
    FORK,
    GO,
    PID,
    PIPE,
    PROCESS,
    PROGRAM,
    REAP,
    RUN,
    SPAWNED,
    THREAD,
    WAIT,
)  # fmt: skip
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

BIND = ("--bind", "127.0.0.1:0")

COMMANDS = {
    "plain": ("fork_app.py",),
    "serve": ("-m", "gtcp", "serve", "fork_app:server", *BIND),
    "gunicorn": (*GUNICORN, *BIND, "fork_app:server"),
}

NAMES = [
    "holder",
    *(f"{kind}{number}" for kind in ("timer", "event", "lock") for number in range(7)),
]

SECONDS = 0.6


class App:
    """The application in a process of its own.

    Attributes:
        path: where it notes what has run, in which process.
    """

    def __init__(self, process: Supervised, path: Path, trust: ssl.SSLContext | None) -> None:
        self._process, self.path, self._trust = process, path, trust
        process.until(lambda: "listening on" in process.log)
        self.address = process.log.split("listening on ")[1].split(",")[0].strip()
        if self.address.startswith("http"):
            self.address = process.address()

    @property
    def log(self) -> str:
        return self._process.log

    def stop(self) -> None:
        """It drains, and nothing keeps it from ending."""
        self._process.send(signal.SIGTERM)
        assert self._process.end() == 0
        assert "not ended" not in self.log

    def line(self) -> Line:
        line = Line(self.address)
        if self._trust is not None:
            line.sock = self._trust.wrap_socket(line.sock, server_hostname="localhost")
        return line

    def notes(self) -> list[str]:
        return sorted(self.path.read_text().splitlines()) if self.path.exists() else []


Start = Callable[..., App]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("FORK_TEST_FILE", str(tmp_path / "notes"))
    monkeypatch.setenv("GTCP_PORT", "0")
    with ExitStack() as stack:

        def start(kind: str, *flags: str, trust: ssl.SSLContext | None = None) -> App:
            process = Supervised(
                tmp_path / "output", *COMMANDS[kind], *flags, cwd=Path(__file__).parent
            )
            stack.callback(process.kill)
            return App(process, tmp_path / "notes", trust)

        yield start


def fork_beside_waiting(app: App, cmdid: int, **params: Any) -> Any:
    """Fork while handlers wait; check that each was run once. Returns the reply of the fork."""
    port = params.pop("redis", None)
    common = {"path": str(app.path), "seconds": SECONDS / 2}
    with ExitStack() as stack:
        lines = {name: stack.enter_context(app.line()) for name in NAMES}
        first, idle = stack.enter_context(app.line()), stack.enter_context(app.line())
        parent = idle.ask({"cmdid": PID})["result"]
        for name, line in lines.items():
            line.send({"cmdid": WAIT, "params": {**common, "name": name, "redis": port}})
            count = NAMES.index(name) + 1
            eventually(lambda: idle.ask({"cmdid": BEGUN})["result"] == count)  # noqa: B023
        common["seconds"] = SECONDS
        result = first.ask({"cmdid": cmdid, "params": {**common, **params}})
        forked = result["result"]
        child = forked[0] if isinstance(forked, list) else forked
        # The child has woken up what waits in its own copy, and goes on; so does the parent.
        while _runs(child):
            for line in (first, idle):
                assert line.ask({"cmdid": PID}) == {"code": 0, "result": parent}
            with app.line() as new:
                assert new.ask({"cmdid": PID}) == {"code": 0, "result": parent}
        assert idle.ask({"cmdid": GO})["code"] == 0
        for line in lines.values():
            assert line.reply() == {"code": 0, "result": parent}
        ran = [each for each in app.notes() if not each.startswith("child")]
        assert ran == sorted(f"{name} {parent}" for name in NAMES)
        for line in (first, idle, *lines.values()):
            assert line.ask({"cmdid": PID}) == {"code": 0, "result": parent}
            if not isinstance(line.sock, ssl.SSLSocket):
                line.finish()
                assert line.rest() == []
    return forked


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def child_note(app: App) -> str:
    (note,) = (each for each in app.notes() if each.startswith("child"))
    return note


def reap(app: App, child: int) -> int:
    with app.line() as line:
        return line.ask({"cmdid": REAP, "params": {"pid": child}})["result"]


KINDS = [
    "plain",
    "serve",
    pytest.param("gunicorn", marks=pytest.mark.programs),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("exits", 9, ""),
        ("returns", 1, "the handler of cmdid 1 returned in it"),
        ("raises", 1, "the handler of cmdid 1 raised in it"),
        ("sys.exit", 7, ""),
        ("waits", 1, "has nothing left to run"),
    ],
)
def test_other_handlers_run_in_the_parent_only(
    start: Start, kind: str, how: str, status: int, said: str
) -> None:
    app = start(kind)
    child = fork_beside_waiting(app, FORK, how=how, address=app.address)
    assert reap(app, child) == status
    with app.line() as line:
        parent = line.ask({"cmdid": PID})["result"]
    assert child_note(app) == f"child {child} [{parent}, {parent}] run"
    about = [each for each in app.log.splitlines() if f"forked child {child}" in each]
    assert len(about) == bool(said)
    assert all(said in each for each in about)


@pytest.mark.parametrize("kind", KINDS)
def test_a_greenlet_of_the_application_that_forks(start: Start, kind: str) -> None:
    app = start(kind)
    child = fork_beside_waiting(app, SPAWNED, address=app.address)
    assert reap(app, child) == 1
    assert child_note(app).startswith(f"child {child} [")
    assert f"forked child {child} has nothing left to run" in app.log


@pytest.mark.cover_programs
def test_a_connection_that_ends_at_the_same_moment(start: Start, tmp_path: Path) -> None:
    app, path = start("serve"), tmp_path / "go"
    params = {"path": str(app.path), "seconds": SECONDS, "how": "exits"}
    with app.line() as computing, app.line() as waiting, app.line() as first:
        waiting.send({"cmdid": WAIT, "params": {**params, "name": "event"}})
        eventually(lambda: first.ask({"cmdid": BEGUN})["result"] == 1)
        other = app.line()
        assert other.ask({"cmdid": PID})["code"] == 0
        computing.send({"cmdid": COMPUTE, "params": {"path": str(path)}})
        eventually(path.with_suffix(".begun").exists)
        first.send({"cmdid": FORK, "params": params})
        other.close()
        path.touch()  # the event loop now finds both; libev begins with the last
        child = first.reply()["result"]
        eventually(lambda: not _runs(child))
        assert first.ask({"cmdid": GO})["code"] == 0
        parent = waiting.reply()["result"]
    assert app.notes()[1:] == [f"event {parent}"]
    assert "Exception ignored" not in app.log


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_of_multiprocessing(start: Start, kind: str) -> None:
    app = start(kind)
    if kind == "plain":
        pytest.skip("join() of an unpatched process blocks the server")
    child, status = fork_beside_waiting(app, PROCESS, address=app.address)
    assert status == 0
    assert child_note(app).startswith(f"child {child} [")


@pytest.mark.parametrize("kind", KINDS)
def test_a_native_thread_that_forks(start: Start, kind: str) -> None:
    app = start(kind)
    child = fork_beside_waiting(app, THREAD)
    assert reap(app, child) == 9
    assert child_note(app) == f"child {child} False"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preexec", [False, True])
def test_subprocesses_run(start: Start, kind: str, preexec: bool) -> None:
    app = start(kind)
    with app.line() as line:
        for _ in range(3):
            reply = line.ask({"cmdid": RUN, "params": {"preexec": preexec}})
            assert reply == {"code": 0, "result": ["run"]}


@pytest.mark.parametrize("kind", ["serve", pytest.param("gunicorn", marks=pytest.mark.programs)])
@pytest.mark.parametrize("cmdid", [EXECUTOR, PIPE, PROGRAM])
def test_other_handlers_run_while_one_waits_for_a_process(
    start: Start, kind: str, cmdid: int, tmp_path: Path
) -> None:
    app, path = start(kind), tmp_path / "go"
    with app.line() as first, app.line() as second, app.line() as other:
        for line in (first, second):
            line.send({"cmdid": cmdid, "params": {"path": str(path)}})
        parent = other.ask({"cmdid": PID})["result"]
        path.touch()
        for line in (first, second):
            assert line.reply()["result"] != parent
    app.stop()


@pytest.mark.parametrize("kind", ["serve", pytest.param("gunicorn", marks=pytest.mark.programs)])
def test_tls_connections_stay_usable(
    start: Start, kind: str, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTCP_TLS_CERT", authority.issue("localhost"))
    trust = ssl.create_default_context(cafile=authority.ca)
    app = start(kind, trust=trust)
    child = fork_beside_waiting(app, FORK, how="returns")
    assert reap(app, child) == 1


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A redis server; gives its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ("--port", str(port), "--save", "", "--dir", str(folder))
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _value(port, "x") is not None)
        yield port
    finally:
        process.kill()
        process.wait()


def _value(port: int, name: str) -> bytes | None:
    """Return redis' answer to GET."""
    try:
        with Line(f"127.0.0.1:{port}") as line:
            line.send(f"GET {name}\r\n".encode())
            header = line.line()
            return header if header.startswith(b"$-1") else line.line()
    except OSError:
        return None


@pytest.mark.programs
@pytest.mark.parametrize("kind", ["serve", "gunicorn"])
def test_counts_in_redis_are_not_doubled(start: Start, kind: str, tmp_path: Path) -> None:
    with redis(tmp_path) as port:
        app = start(kind)
        child = fork_beside_waiting(app, FORK, how="returns", redis=port)
        assert reap(app, child) == 1
        assert [_value(port, name) for name in NAMES] == [b"1\r\n"] * len(NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_ends_by_a_signal(start: Start, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own handlers of signals are not the child's: it has nothing to drain."""
    for name in [each for each in os.environ if each.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # the coverage tool has a handler of its own for SIGTERM
    app = start(kind)
    with app.line() as line:
        params = {"path": str(app.path), "seconds": 60, "how": "exits"}
        child = line.ask({"cmdid": FORK, "params": params})["result"]
        eventually(app.path.with_suffix(".begun").exists)
        os.kill(child, signal.SIGTERM)
        assert reap(app, child) == -signal.SIGTERM
        assert line.ask({"cmdid": PID})["code"] == 0
