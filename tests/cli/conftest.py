"""Fixtures of the command line's tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gtcp.cli import main
from tests.cli.processes import APP, only_line, served


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory with the application in ``app.py``."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the application is served, for tests that only call it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "app.py").write_text(APP)
    with served(folder, "app", "--bind", "127.0.0.1:0") as running:
        yield running.address


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Callable[..., Any]]:
    """Type a command in this process; returns its status, stdout and stderr."""
    handler = signal.getsignal(signal.SIGINT)

    def type_in(*args: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["gtcp", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    yield type_in
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def refused(typed: Callable[..., Any]) -> Callable[..., str]:
    """Type a command that must fail with this status; returns the only line that it prints."""

    def type_in(status: int, *args: str) -> str:
        ended, out, err = typed(*args)
        assert (ended, out) == (status, "")
        return only_line(err)

    return type_in
