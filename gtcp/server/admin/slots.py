"""A folder that the processes of one service share, and the place of each process in it.

A place ("slot") is a number that no other running process has. A new process takes the one of a
process that has ended, however it has, so there are as many as processes at a time.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from pathlib import Path

#: Where prometheus-client keeps the files of an application's own metrics.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Slot:
    """The place of one process, until it is closed.

    Args:
        folder: where the files of all processes of a service are; it is created.

    Attributes:
        name: the first one that no running process has.

    Raises:
        OSError: the folder can't be used.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.name, self._lock = self._take()

    def close(self) -> None:
        """Leave the place to the next process."""
        os.close(self._lock)

    def _take(self) -> tuple[str, int]:
        for number in itertools.count():
            name = f"gtcp{number}"
            lock = _open_lock(self.folder, name)
            if _locks(lock):
                return name, lock
            os.close(lock)
        raise AssertionError


def is_taken(folder: Path, name: str) -> bool:
    """Return whether a running process has this place."""
    lock = _open_lock(folder, name)
    try:
        return not _locks(lock)
    finally:
        os.close(lock)


def _open_lock(folder: Path, name: str) -> int:
    return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def new_folder() -> Path:
    """Return a folder for a service, which does not exist yet; the caller removes it."""
    if configured := os.environ.get(VARIABLE):
        return Path(configured)
    return Path(tempfile.gettempdir()) / f"gtcp-metrics-{os.getpid()}-{os.urandom(8).hex()}"
