"""Process 1 of a container: the kernel loses signals that it does not handle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.processes import APP, COMMAND, environment
from tests.helpers import Line, eventually

pytestmark = pytest.mark.programs

SLOW = """
import os
open(os.path.join(os.path.dirname(__file__), "importing"), "w").close()
import time
time.sleep(600)
"""

MODES = pytest.mark.parametrize(
    "flags", [pytest.param((), id="one"), pytest.param(("--workers", "2"), id="workers")]
)


def without_coverage() -> dict[str, str]:
    """Return the environment; coverage's own SIGTERM handler would leave process 1 running."""
    return {k: v for k, v in environment().items() if not k.startswith("COVERAGE_")}


@contextmanager
def contained(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``gtcp serve`` as process 1 of a namespace; yields its parent, and its pid as seen here."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *(*COMMAND, "serve", "app", "--bind", "127.0.0.1:0", *flags),
            ],
            cwd=folder,
            env=without_coverage(),
            stderr=log,
            text=True,
        )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        yield process, int(eventually(lambda: process.poll() or children.read_text()))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def may_unshare() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    try:
        allowed = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("namespaces can't be made here")


@MODES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_during_the_import_ends_it(
    tmp_path: Path, flags: tuple[str, ...], number: signal.Signals
) -> None:
    (tmp_path / "app.py").write_text(SLOW)
    with contained(tmp_path, *flags) as (process, pid):
        eventually((tmp_path / "importing").exists)
        os.kill(pid, number)
        assert process.wait(20) == 128 + number


@MODES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_later_drains(
    tmp_path: Path, flags: tuple[str, ...], number: signal.Signals
) -> None:
    (tmp_path / "app.py").write_text(APP)
    log = tmp_path / "log"
    with contained(tmp_path, *flags) as (process, pid):
        found = eventually(lambda: re.search(r"listening on ([^,]+),", log.read_text()))
        with Line(found[1]) as line:
            assert line.ask({"cmdid": 0})["result"] == "pong"
        os.kill(pid, number)
        assert process.wait(20) == 0


@MODES
def test_sigquit_ends_it_at_once(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(APP)
    log = tmp_path / "log"
    with contained(tmp_path, *flags) as (process, pid):
        found = eventually(lambda: re.search(r"listening on ([^,]+),", log.read_text()))
        mark = tmp_path / "called"
        with Line(found[1]) as line:
            line.send({"cmdid": 4, "params": {"path": str(mark), "seconds": 600}})
            eventually(mark.exists)
            os.kill(pid, signal.SIGQUIT)
            process.wait(20)
            with pytest.raises(ConnectionResetError):
                line.line()
