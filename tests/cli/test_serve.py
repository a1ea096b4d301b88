"""gtcp serve: real processes, real signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.cli import serving
from tests.cli.processes import COMMAND, environment, fails, free_address, only_line, run, served
from tests.helpers import PATIENCE, Line, eventually


@pytest.mark.parametrize("level", ["debug", "info", "warning", "critical"])
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_one_line_says_what_listens_at_any_level(
    level: str, sig: signal.Signals, app: Path
) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0", "--log-level", level) as running:
        assert running.ask(1, a=1) == {"a": 1}
        said = running.end(sig)
    announcement = f"gtcp: listening on {running.address}, 5 commands, pid {running.process.pid}"
    assert said.splitlines()[0] == announcement
    assert said.count("listening") == 1


def test_settings_that_belong_together_may_come_from_different_layers(
    app: Path, authority: Any
) -> None:
    cert = authority.issue("localhost")
    (app / "m.toml").write_text(f"tls_cert = '{cert}'\n")
    layers = ["--config", "m.toml"], ["--tls-cert", cert]
    for layer in layers:
        env = {"GTCP_TLS_CA": authority.ca, "GTCP_REQUIRE_CLIENT_CERT": "true"}
        with served(app, "app", "--bind", "127.0.0.1:0", *layer, env=env) as running:
            running.end()
    line = fails(2, "serve", "app", "--tls-key", cert, cwd=app)
    assert line == "error: tls_key: expected tls_cert with it"


def test_what_is_not_severe_enough_is_not_logged(app: Path) -> None:
    for level, logged in (("error", True), ("critical", False)):
        with served(app, "app", "--bind", "127.0.0.1:0", "--log-level", level) as running:
            with Line(running.address) as line:
                assert line.ask({"cmdid": 4})["code"] == 500
            assert ("KeyError" in running.end()) is logged


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("level", ["info", "warning", "critical"])
def test_access_log_has_a_line_for_each_request_at_any_level(
    level: str, workers: str, app: Path
) -> None:
    flags = ["--bind", "127.0.0.1:0", "--access-log", "--log-level", level, "--workers", workers]
    with served(app, "app", *flags) as running:
        running.ask(1)
        said = running.end()
    assert said.count("gtcp.access: ") == 1


def test_a_call_in_flight_is_answered_before_it_ends(app: Path) -> None:
    started = app / "started"
    with served(app, "app", "--bind", "127.0.0.1:0") as running:
        with Line(running.address) as line:
            params = {"seconds": 0.3, "path": str(started)}
            line.send({"cmdid": 4, "params": params, "id": 1})
            eventually(started.exists)
            running.process.send_signal(signal.SIGTERM)
            replies = line.rest()
        running.drained()
    assert {"code": 0, "result": "slept", "id": 1} in replies


def test_graceful_timeout_cuts_the_drain_short(app: Path) -> None:
    started = app / "started"
    flags = ["--bind", "127.0.0.1:0", "--graceful-timeout", "0"]
    with served(app, "app", *flags) as running, Line(running.address) as line:
        line.send({"cmdid": 4, "params": {"seconds": 600, "path": str(started)}})
        eventually(started.exists)
        running.end()


def test_it_listens_on_every_address_given(app: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--bind", "unix:sock", "--bind", "[::1]:0"]
    with served(app, "app", *flags) as running:
        first, second, third = running.addresses
        assert second == "unix:sock"
        for address in (first, f"unix:{app}/sock", third):
            with Line(address) as line:
                assert line.ask({"cmdid": 1})["code"] == 0


LAYERS = ("server", "file", "environment", "flags")


@pytest.mark.parametrize("strongest", LAYERS)
def test_the_strongest_layer_of_settings_wins(strongest: str, tmp_path: Path) -> None:
    given = LAYERS[: LAYERS.index(strongest) + 1]
    (tmp_path / "app.py").write_text(
        "import gtcp\nserver = gtcp.Server(gtcp.Settings(bind=('unix:server',), workers=1))\n"
    )
    (tmp_path / "gtcp.toml").write_text("bind = ['unix:file']\n")
    flags = ["--config", "gtcp.toml"] if "file" in given else []
    flags += ["--bind", "unix:flags"] if "flags" in given else []
    env = {"GTCP_BIND": "unix:environment"} if "environment" in given else {}
    with served(tmp_path, "app", *flags, env=env) as running:
        assert running.addresses == [f"unix:{strongest}"]


@pytest.mark.parametrize(("flags", "patched"), [([], True), (["--no-patch"], False)])
def test_the_target_is_imported_patched_unless_told_not_to(
    flags: list[str], patched: bool, app: Path
) -> None:
    with served(app, "app.py", "--bind", "127.0.0.1:0", *flags) as running:
        assert running.ask(2) is patched


def test_a_file_finds_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "beside.py").write_text("import gtcp\ntable = gtcp.Commands()\n")
    (tmp_path / "src" / "main.py").write_text("from beside import table\n")
    with served(tmp_path, "src/main.py:table", "--bind", "127.0.0.1:0") as running:
        assert ", 0 commands, " in running.said[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_address_in_use_is_one_line(workers: str, app: Path, address: str) -> None:
    line = fails(1, "serve", "app", "--bind", address, "--workers", workers, cwd=app)
    assert line == f"error: can't listen on {address}: Address already in use"


@pytest.mark.parametrize("flags", [[], ["--workers", "2"], ["--reload"]])
def test_a_target_that_can_not_be_imported_is_one_line(flags: list[str], app: Path) -> None:
    (app / "broken.py").write_text("import app\nimport nothing_of_the_kind\n")
    assert fails(1, "serve", "broken", *flags, cwd=app) == (
        "error: broken.py, line 2: ModuleNotFoundError: No module named 'nothing_of_the_kind'"
    )


@pytest.mark.cover_programs
def test_a_target_that_ends_the_process_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os\nos._exit(0)\n")
    ended = run("serve", "app", "--workers", "2", cwd=tmp_path)
    assert ended.returncode == 1
    assert only_line(ended.stderr) == "error: app: importing it ended the process"


# serve with workers


@pytest.mark.parametrize(("flags", "patched"), [([], True), (["--no-patch"], False)])
def test_workers_are_supervised(flags: list[str], patched: bool, app: Path) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0", "--workers", "2", *flags) as running:
        assert running.ask(3) == running.process.pid
        assert running.ask(2) is patched
        running.end()


@pytest.mark.parametrize("level", ["info", "warning", "critical"])
def test_one_line_of_the_master_says_what_listens_at_any_level(level: str, app: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--workers", "2", "--log-level", level]
    with served(app, "app", *flags) as running:
        running.ask(1)
        said = running.end()
    announcement = (
        f"gtcp: listening on {running.address}, 5 commands, 2 workers, pid {running.process.pid}"
    )
    assert said.splitlines().count(announcement) == 1
    assert said.count("gtcp: listening") == 1


@pytest.mark.parametrize("whose", ["flags", "its own"])
def test_the_supervising_process_does_not_import_the_application(
    whose: str, tmp_path: Path
) -> None:
    """Every spelling of two workers; the process stays the one that was started."""
    own = "workers=2" if whose == "its own" else ""
    (tmp_path / "app.py").write_text(
        "import gtcp, os\n"
        f"server = gtcp.Server(gtcp.Settings(port=0, {own}))\n"
        "@server.handler(1)\n"
        "def who(request): return [imported, os.getpid(), os.getppid()]\n"
        "imported = os.getpid()\n"
    )
    flags = ["--workers", "2"] if whose == "flags" else []
    with served(tmp_path, "app", *flags) as running:
        imported, worker, supervisor = running.ask(1)
        assert imported == worker
        assert supervisor == running.process.pid


def test_workers_hand_over_at_sigusr2(app: Path) -> None:
    """The new master does not mind that the old one still listens there."""
    address = free_address()
    command = [*COMMAND, "serve", "app", "--bind", address, "--workers", "2"]
    with open(app / "stderr", "w") as stderr:  # no pipe: the new master would hold it open
        old = subprocess.Popen(
            command, cwd=app, env=environment(), stderr=stderr, start_new_session=True
        )
    try:
        eventually(lambda: answered(address, 3) == old.pid)
        old.send_signal(signal.SIGUSR2)
        new = eventually(lambda: {answered(address, 3)} - {old.pid, None})
        old.terminate()
        assert old.wait(PATIENCE) == 0
        eventually(lambda: answered(address, 3) in new)
    finally:
        os.killpg(old.pid, signal.SIGKILL)
        old.wait()


def answered(address: str, cmdid: int = 1) -> Any:
    """The result, or None when at this moment nobody answers."""
    try:
        with Line(address) as line:
            return line.ask({"cmdid": cmdid})["result"]
    except (OSError, KeyError, AssertionError):
        return None


@pytest.mark.cover_programs
def test_reload_serves_what_the_file_has_become(tmp_path: Path) -> None:
    source = "import gtcp\nserver = gtcp.Server()\n@server.handler(1)\ndef f(request): return {}\n"
    file = tmp_path / "app.py"
    file.write_text(source.format(1))
    with served(tmp_path, "app", "--bind", "127.0.0.1:0", "--reload") as running:
        assert running.ask(1) == 1
        file.write_text(source.format(200))

        eventually(lambda: answered(running.address) == 200)


def test_the_announcement_is_printed_once_it_listens(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: a supervisor that reads it may connect at once."""
    server = gtcp.Server(gtcp.Settings(port=0))
    seen: list[list[str]] = []
    monkeypatch.setattr(serving.click, "echo", lambda *_a, **_k: seen.append(server.addresses))
    serving._announce(server)
    gevent.spawn(server.stop)
    server.serve_forever()
    assert len(seen) == 1
    assert seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_stderr_that_nobody_reads_stops_nothing(workers: str, app: Path) -> None:
    flags = ["--bind", "127.0.0.1:0", "--access-log", "--workers", workers]
    with served(app, "app", *flags) as running:
        with gtcp.Client(running.address, timeout=PATIENCE) as client:
            for _ in range(100):  # a pipe holds 64 KiB, and 1 MiB waits
                list(client.map(1, [{"n": n} for n in range(300)]))
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(PATIENCE)
        said = running.drained()
    assert said.count("gtcp.access: ") < 30_000


@pytest.mark.cover_programs
def test_lines_that_were_dropped_are_counted(app: Path) -> None:
    with served(app, "app", "--bind", "127.0.0.1:0", "--access-log") as running:
        with gtcp.Client(running.address, timeout=PATIENCE) as client:
            for _ in range(100):
                list(client.map(1, [{"n": n} for n in range(300)]))
        stderr = running.process.stderr
        assert stderr is not None
        written = dropped = 0
        while written + dropped < 30_000:
            line = stderr.readline()
            written += "gtcp.access: " in line
            found = re.search(r"gtcp: (\d+) log lines were dropped here", line)
            dropped += int(found[1]) if found else 0
        running.ask(1)
        assert "gtcp.access: " in stderr.readline()
        running.end()
    assert dropped
