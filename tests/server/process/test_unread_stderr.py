"""A supervisor that does not read the pipe that it has made stderr."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gtcp.server.process.socket_file import listened_on
from tests.cli.processes import APP, environment, served
from tests.helpers import Line, eventually
from tests.server.workers.gunicorn_process import GUNICORN

#: Requests whose access log is more than a pipe and gtcp's buffer hold: 1 MiB and 64 KiB.
REQUESTS = 20_000

MODES = pytest.mark.parametrize(
    "flags", [pytest.param((), id="one"), pytest.param(("--workers", "2"), id="workers")]
)


def log_much(address: str) -> None:
    """Have more logged than is kept, and check that every request is answered."""
    with Line(address) as line:
        for start in range(0, REQUESTS, 100):
            line.send(*({"cmdid": 1, "id": start + each} for each in range(100)))
            assert {line.reply()["id"] for _ in range(100)} == set(range(start, start + 100))


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends(tmp_path: Path, flags: tuple[str, ...], number: signal.Signals) -> None:
    (tmp_path / "app.py").write_text(APP)
    bind = ("--bind", "127.0.0.1:0", "--access-log")
    with served(tmp_path, "app", *bind, *flags) as server:
        log_much(server.address)
        server.process.send_signal(number)
        assert server.process.wait(20) == 0


@pytest.mark.programs
def test_under_gunicorn(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    path = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, *GUNICORN, "-b", f"unix:{path}", "-w", "2", "app:server"],
        cwd=tmp_path,
        env=environment(GTCP_ACCESS_LOG="true"),
        stderr=subprocess.PIPE,
    )
    try:
        eventually(lambda: listened_on(str(path)))
        log_much(f"unix:{path}")
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
