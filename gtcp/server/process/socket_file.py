"""The file of a unix socket, whose permissions decide which users may connect.

It is never open wider than asked for, not even for a moment. It takes the place of a file that
nobody listens on any more, and of nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import shutil
import socket
import stat
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import msgspec

from gtcp.errors import SettingsError
from gtcp.transport.sockets import System

#: Seconds to wait for other servers that start in the same directory; each takes milliseconds.
LOCK_SECONDS = 5.0
LOCK_POLL_SECONDS = 0.005


class SocketFile(msgspec.Struct, frozen=True):
    """Permissions and owner of the file; None leaves user and group as they come."""

    mode: int = 0o600
    owner: str | None = None
    group: str | None = None

    def listen(self, path: str, backlog: int) -> socket.socket:
        """Return a non-blocking socket that listens on this path.

        Raises:
            OSError: somebody listens there, something else is there, or it is not permitted.
        """
        with _locked(os.path.dirname(path) or "."):
            _make_room(path)
            sock = System(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._bind(sock, path)
                sock.setblocking(False)
                sock.listen(backlog)
            except OSError:
                sock.close()
                raise
        return sock

    def check_owner(self) -> None:
        """Raise SettingsError if there is no such user or group; numbers are not looked up."""
        for name, value, find in (
            ("unix_owner", self.owner, pwd.getpwnam),
            ("unix_group", self.group, grp.getgrnam),
        ):
            if value is not None and not value.isdecimal():
                try:
                    find(value)
                except KeyError:
                    kind = name.removeprefix("unix_").replace("owner", "user")
                    raise SettingsError(f"{name}: there is no {kind} {value!r}") from None

    def _bind(self, sock: socket.socket, path: str) -> None:
        with contextlib.suppress(OSError):
            # On Linux the file never has more than the socket's own mode; elsewhere this
            # fails, and the umask is what counts until the file has its mode.
            os.fchmod(sock.fileno(), self.mode)
        sock.bind(path)
        try:
            self.apply(path)
        except OSError:
            os.unlink(path)
            raise

    def apply(self, path: str) -> None:
        """Give the file its owner and permissions.

        Raises:
            OSError: not permitted, or no such user or group.
        """
        if self.owner is not None or self.group is not None:
            try:
                _chown(path, _number(self.owner), _number(self.group))
            except LookupError as exc:
                raise OSError(str(exc)) from exc
        os.chmod(path, self.mode)


def remove(path: str, expected: tuple[int, int] | None) -> None:
    """Remove the file of a socket, unless it is another file by now."""
    if path and expected is not None and file_id(path) == expected:
        os.unlink(path)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Let one server at a time look for a file in this directory, replace it and listen.

    Until it listens, others would take its file for one that nobody listens on. Where the directory
    can't be locked, or somebody else keeps it locked, this goes on without.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # bind() will say what is wrong with it
        yield
        return
    try:
        until = monotonic() + LOCK_SECONDS
        while not _locks(fd) and monotonic() < until:
            sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def _locks(fd: int) -> bool:
    """Return whether the lock is held now, or there are no locks here."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not on every file system
        pass
    return True


#: shutil's takes None for what is not to be changed, which its type does not say.
_chown: Any = shutil.chown


def _number(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdecimal() else name


def _make_room(path: str) -> None:
    """Remove the file of a socket that nobody listens on any more; any other is in the way."""
    mode = _mode(path)
    if mode and not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "a file is there that is no socket")
    if mode and not listened_on(path):
        os.unlink(path)


def listened_on(path: str) -> bool:
    """Return whether a process listens there. If connecting is not permitted, assume so."""
    with System(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # where somebody listens but does not accept, it would wait
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass
        return True


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def file_id(path: str) -> tuple[int, int] | None:
    """Return what distinguishes this file from another of its name; None if it does not exist."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
