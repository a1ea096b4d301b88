"""A gunicorn master with its workers, as real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gunicorn import config

from tests.helpers import PATIENCE, eventually

HERE = Path(__file__).parent

# Older versions have no control socket, and no option against it.
NO_CONTROL_SOCKET = ("--no-control-socket",) if hasattr(config, "ControlSocketDisable") else ()
GUNICORN = ("-m", "gunicorn", "-k", "gtcp.server.worker.GtcpWorker", *NO_CONTROL_SOCKET)


class Supervised:
    """A master in a process group of its own, all of whose output goes to one file.

    Args:
        output: the file.
        arguments: python's.
        cwd: where it is started.
    """

    def __init__(self, output: Path, *arguments: str, cwd: Path = HERE) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._output.read_text()

    @property
    def workers(self) -> set[int]:
        """The pids of those that have started and not ended, by their log."""
        begun = re.findall(r"Booting worker with pid: (\d+)", self.log)
        ended = re.findall(r"Worker exiting \(pid: (\d+)\)", self.log)
        return {int(each) for each in set(begun) - set(ended)}

    @property
    def masters(self) -> list[int]:
        """The pids of those that have started to listen, in that order."""
        return [int(each) for each in re.findall(r"Listening at: .* \((\d+)\)", self.log)]

    def address(self, workers: int = 1) -> str:
        """The first address where it listens, as soon as so many workers serve there."""
        serving = re.compile(r"gtcp\.server: (gtcp: listening on|worker is ready)")
        self.until(lambda: len(serving.findall(self.log)) >= workers)
        found = re.search(r"Listening at: (?:http://)?([^ ,]+)", self.log)
        assert found is not None
        return found[1]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for(self, text: str, count: int = 1) -> None:
        """Until the log has this so many times."""
        self.until(lambda: self.log.count(text) >= count)

    def until(self, condition: Callable[[], object]) -> None:
        try:
            eventually(condition)
        except AssertionError:
            raise AssertionError(f"it did not happen:\n{self.log}") from None

    def end(self) -> int:
        """Its exit status; it must end by itself."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.log}") from None

    def kill(self) -> None:
        """End what is left of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all have ended, as they should
        self.process.wait()
