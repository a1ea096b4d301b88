"""SIGHUP: new code and settings take the place of the old ones, or nothing changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers import eventually
from tests.server.services import (
    PID,
    SETTINGS,
    VERSION,
    Load,
    Service,
    Start,
    Waiting,
    call,
    write_app,
)
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

pytestmark = [pytest.mark.programs, pytest.mark.untraced]

KEPT = "the old workers are kept: "


@pytest.fixture
def gunicorn(folder: Path) -> Iterator[Start]:
    """The same, with gunicorn only."""
    with ExitStack() as stack:

        def start(*arguments: str, workers: int = 2) -> Service:
            service = Service("gunicorn", folder, *arguments, workers=workers)
            stack.callback(service.kill)
            return service

        yield start


#: Code that can't be loaded, and what the log says of it.
BROKEN = {
    "if": "SyntaxError",
    "import no_such_module": "No module named 'no_such_module'",
    "raise RuntimeError('not\\ntoday')": "RuntimeError: not",
    "raise SystemExit(3)": "",
    "os._exit(3)": "ended the process",
    "gtcp.Settings(port=99999)": "port: expected",
    "os.environ['GTCP_NO_SUCH'] = '1'": "GTCP_NO_SUCH",
    "os.environ['GTCP_TLS_CERT'] = 'no_such.pem'": "no_such.pem",
}


@pytest.mark.cover_programs
class TestBroken:
    def test_code_that_cannot_be_loaded_changes_nothing(self, start: Start, folder: Path) -> None:
        service = start()
        where = service.where
        old = service.children
        for number, (before, said) in enumerate(BROKEN.items(), 1):
            write_app(folder, "new", before)
            service.send(signal.SIGHUP)
            service.wait_for(KEPT, number)
            lines = [line for line in service.log.splitlines() if KEPT in line]
            assert len(lines) == number
            assert said in lines[-1]
            service.until(lambda: service.children == old)
            assert call(where, VERSION) == "old"
        assert "Traceback" not in service.log
        write_app(folder, "new")
        service.replace()
        assert call(where, VERSION) == "new"

    def test_a_broken_configuration_of_gunicorn_changes_nothing(
        self, gunicorn: Start, folder: Path
    ) -> None:
        file = folder / "conf.py"
        file.write_text("workers = 2\n")
        service = gunicorn("-c", str(file))
        where = service.where
        old = service.children
        for number, text in enumerate(["workers =", "workers = 'many'", "certfile = 'x'"], 1):
            file.write_text(text)
            service.send(signal.SIGHUP)
            service.wait_for(KEPT, number)
            service.until(lambda: service.children == old)
            assert call(where, VERSION) == "old"

    def test_a_broken_file_of_settings_changes_nothing(self, folder: Path) -> None:
        file = folder / "settings.toml"
        file.write_text("max_in_flight = 5\n")
        service = Service("serve", folder, "--config", "settings.toml")
        try:
            where = service.where
            old = service.children
            file.write_text("max_in_flight = 'few'\n")
            service.send(signal.SIGHUP)
            service.wait_for(KEPT + "settings.toml: max_in_flight: expected")
            service.until(lambda: service.children == old)
            assert call(where, VERSION) == "old"
        finally:
            service.kill()

    def test_a_worker_that_cannot_start_later_is_started_again(
        self, start: Start, folder: Path
    ) -> None:
        service = start()
        where = service.where
        write_app(folder, "new", "import no_such_module")
        service.send(signal.SIGTTIN)
        service.wait_for("could not start; the next attempt is in 1 s")
        service.wait_for("could not start; the next attempt is in 2 s")
        assert call(where, VERSION) == "old"
        write_app(folder, "new")
        service.until(lambda: len(service.children) == 3)
        service.until(lambda: service.ready() == 3)
        service.send(signal.SIGTERM)
        assert service.end() == 0

    def test_workers_that_crash_at_their_start_do_not_end_the_service(
        self, start: Start, folder: Path
    ) -> None:
        service = start()
        where = service.where
        old = service.children
        # The check finds nothing wrong.
        flag = folder / "checked"
        crash = f"os.path.exists({str(flag)!r}) and os.kill(os.getpid(), 9)"
        write_app(folder, "new", f"{crash}; Path({str(flag)!r}).touch()")
        service.send(signal.SIGHUP)
        service.wait_for("could not start", 2)
        assert old <= service.children
        assert call(where, VERSION) == "old"

    @pytest.mark.parametrize("before", ["if", "import no_such_module"])
    def test_the_first_start_ends_at_once(self, start: Start, folder: Path, before: str) -> None:
        write_app(folder, before=before)
        service = start()
        assert service.end() in (1, 3, 4)
        assert "app.py" in service.log or "no_such_module" in service.log


class TestNewCode:
    def test_no_call_fails_while_the_new_workers_start(
        self, start: Start, folder: Path, tmp_path: Path
    ) -> None:
        service = start()
        where = service.where
        old = service.children
        write_app(folder, "new", "time.sleep(2)")
        load = Load(where, folder)
        waiting = Waiting(where, tmp_path / "call")
        service.send(signal.SIGHUP)
        service.until(lambda: len(service.children - old) == 2)
        load.goes_on()  # the old ones serve while the new ones start
        assert old <= service.children
        service.until(lambda: set(load.pids) - old)
        assert waiting.worker in service.children  # its call is still in flight
        load.goes_on()
        load.end()
        assert waiting.let_go() == "done"
        service.until(lambda: not old & service.children)
        assert load.problems == []
        assert load.runs == dict.fromkeys(load.finished, 1)
        assert call(where, VERSION) == "new"

    def test_a_second_sighup_while_the_first_one_is_under_way(
        self, start: Start, folder: Path
    ) -> None:
        service = start()
        where = service.where
        old = service.children
        write_app(folder, "between", "time.sleep(0.5)")
        load = Load(where, folder, threads=4, clients=2)
        service.send(signal.SIGHUP)
        service.until(lambda: len(service.children - old) == 2)
        between = service.children - old
        write_app(folder, "new")
        service.send(signal.SIGHUP)
        service.until(lambda: not service.children & (old | between))
        service.until(lambda: len(service.children) == 2)
        service.until(lambda: call(where, VERSION) == "new")
        load.end()
        assert load.problems == []

    @pytest.mark.parametrize("how", ["PWD", "chdir"])
    def test_a_release_behind_a_symbolic_link(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            write_app(tmp_path / name, name)
        link = tmp_path / "current"
        link.symlink_to("one")
        for kind in ("gunicorn", "serve"):
            link.unlink()
            link.symlink_to("one")
            arguments: tuple[str, ...] = ()
            folder = link
            if how == "PWD":
                monkeypatch.setenv("PWD", str(link))
            else:
                arguments, folder = ("--chdir", str(link)), tmp_path
            service = Service(kind, folder, *arguments)
            try:
                where = service.where
                assert call(where, VERSION) == "one"
                link.unlink()
                link.symlink_to("two")
                service.replace()
                assert call(where, VERSION) == "two"
            finally:
                service.kill()


class TestSettings:
    def test_what_needs_a_restart_is_named_and_not_claimed(self, folder: Path) -> None:
        file = folder / "settings.toml"
        file.write_text("max_in_flight = 5\n")
        service = Service("serve", folder, "--config", "settings.toml")
        try:
            where = service.where
            file.write_text("max_in_flight = 6\nbacklog = 7\nunix_mode = '666'\n")
            service.replace()
            found = call(where, SETTINGS, names=["max_in_flight", "backlog", "unix_mode"])
            assert found == {"max_in_flight": 6, "backlog": 2048, "unix_mode": "600"}
            (line,) = [line for line in service.log.splitlines() if "after a restart only" in line]
            assert line.endswith("backlog, unix_mode")
        finally:
            service.kill()

    def test_the_number_of_workers_and_the_log_level_change(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = folder / "settings.toml"
        file.write_text("workers = 2\n")
        command = ("-m", "gtcp", "serve", "app", "--bind", "127.0.0.1:0", "--config", str(file))
        service = Supervised(folder.parent / "log", *command, cwd=folder)
        try:
            where = service.address(2)
            file.write_text("workers = 3\nlog_level = 'debug'\ngraceful_timeout = 7\n")
            service.send(signal.SIGHUP)
            service.wait_for("worker is ready", 5)
            names = ["workers", "log_level", "graceful_timeout"]
            eventually(
                lambda: (
                    call(where, SETTINGS, names=names)
                    == {"workers": 3, "log_level": "debug", "graceful_timeout": 7.0}
                )
            )
            assert "after a restart only" not in service.log
        finally:
            service.kill()

    def test_gunicorns_settings(self, folder: Path) -> None:
        file = folder / "conf.py"
        file.write_text("bind = '127.0.0.1:0'\nworkers = 2\n")
        service = Supervised(
            folder.parent / "log", *GUNICORN, "-c", str(file), "app:server", cwd=folder
        )
        try:
            where = service.address(2).removeprefix("http://")
            file.write_text("bind = '127.0.0.1:1'\nworkers = 3\nworker_connections = 77\n")
            service.send(signal.SIGHUP)
            service.wait_for("gtcp.server: gtcp: listening on", 5)
            eventually(
                lambda: call(where, SETTINGS, names=["max_connections"]) == {"max_connections": 77}
            )
            assert "after a restart only: bind" in service.log
        finally:
            service.kill()


@pytest.mark.cover_programs
def test_gunicorn_finds_the_server_of_a_module(folder: Path) -> None:
    service = Supervised(folder.parent / "log", *GUNICORN, "-b", "127.0.0.1:0", "app", cwd=folder)
    try:
        where = service.address(1).removeprefix("http://")
        assert call(where, PID) != os.getpid()
        service.send(signal.SIGHUP)
        service.wait_for("gtcp.server: gtcp: listening on", 2)
        assert call(where, VERSION) == "old"
    finally:
        service.kill()
