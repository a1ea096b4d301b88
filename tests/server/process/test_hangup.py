"""SIGHUP to a single process: to reload, or since its terminal was closed."""

from __future__ import annotations

import os
import pty
import signal
from pathlib import Path

import pytest

from tests.cli.processes import APP, served
from tests.helpers import Line

BIND = ("--bind", "127.0.0.1:0")


@pytest.mark.cover_programs
def test_without_certificates_and_secrets_there_is_nothing_to_reload(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with served(tmp_path, "app", *BIND) as server, Line(server.address) as line:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        assert "nothing to reload" in server.process.stderr.readline()
        assert line.ask({"cmdid": 0})["result"] == "pong"
        server.end()


def test_it_reloads_in_a_terminal_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    ours, theirs = pty.openpty()
    with served(tmp_path, "app", *BIND, stdin=theirs) as server:
        os.close(theirs)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        assert "nothing to reload" in server.process.stderr.readline()
        server.end()
    os.close(ours)


@pytest.mark.cover_programs
def test_it_drains_when_its_terminal_was_closed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    ours, theirs = pty.openpty()
    with served(tmp_path, "app", *BIND, stdin=theirs) as server:
        os.close(theirs)
        os.close(ours)
        server.process.send_signal(signal.SIGHUP)
        server.drained()
