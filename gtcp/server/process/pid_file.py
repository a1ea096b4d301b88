"""A PID file: the process id of a running service, for scripts and supervisors.

The process holds a lock (flock(2)) on the file. So the file that a killed process has left is
recognised as stale, even if its number belongs to another process by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator


class PidFileError(Exception):
    """The service is running already, or the file can't be used; one line."""


class PidFile:
    """The PID file of a service. Used by one process; its children don't remove the file.

    Args:
        path: the file; a relative path is relative to the current directory at this moment.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._shown = path
        self._fd = -1
        self._pid = os.getpid()

    def check(self) -> None:
        """Remove a stale file; called before the service starts.

        Raises:
            PidFileError: the file's process is running, it is not a PID file, or there can't be
                a file.
        """
        with self._errors():
            if not os.access(os.path.dirname(self.path), os.W_OK | os.X_OK):
                os.listdir(os.path.dirname(self.path))  # raises the reason, in most cases
                raise PermissionError(0, "the directory is not writable")
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            try:
                pid = self._read(fd)
                if pid != os.getpid() and _is_locked(fd) and _is_running(pid):
                    raise PidFileError(f"{self._shown}: process {pid} is running")
            finally:
                os.close(fd)
            os.unlink(self.path)

    def write(self) -> None:
        """Write the file in one step and lock it.

        Raises:
            PidFileError: it can't be written.
        """
        new = f"{self.path}.{self._pid}"
        with self._errors():
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            os.write(fd, f"{self._pid}\n".encode())
            self._lock(fd)
            os.rename(new, self.path)

    def lock(self, path: str) -> None:
        """Lock the file at this path, which gunicorn has written."""
        with contextlib.suppress(OSError):  # it has been removed since
            self._lock(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def remove(self) -> None:
        """Remove the file, if this process has written it and it has not been replaced."""
        if self._fd < 0 or self._pid != os.getpid():
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1

    def _lock(self, fd: int) -> None:
        self._fd = fd
        with contextlib.suppress(OSError):  # not on every file system
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _read(self, fd: int) -> int:
        """Return the process id in the file; 0 if the file is empty."""
        text = os.read(fd, 64).decode("ascii", "replace").strip()
        if text and not (text.isdecimal() and len(text) < 20):
            raise PidFileError(f"{self._shown}: it is not a PID file, and would be overwritten")
        return int(text or "0")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise PidFileError(f"cannot write {self._shown}: {exc.strerror}") from exc


def _is_locked(fd: int) -> bool:
    """Return whether another process holds the lock. Where there are no locks, assume so."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _is_running(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
