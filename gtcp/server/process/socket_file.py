"""The file of a unix socket: who may connect is a matter of its permissions.

It is never open wider than asked for, not even for a moment. It takes the place of a file that
nobody listens on any more, and of nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from typing import Any

import msgspec

from gtcp.transport.sockets import System


class SocketFile(msgspec.Struct, frozen=True):
    """Permissions and owner of the file; None leaves user and group as they come."""

    mode: int = 0o600
    owner: str | None = None
    group: str | None = None

    def bound(self, path: str) -> socket.socket:
        """A socket bound to this path, not listening yet.

        Raises:
            OSError: somebody listens there, something else is there, or it is not permitted.
        """
        _make_room(path)
        sock = System(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(OSError):
                # On Linux the file never has more than the socket's own mode; elsewhere this
                # fails, and the umask is what counts until the next line but one.
                os.fchmod(sock.fileno(), self.mode)
            sock.bind(path)
        except OSError:
            sock.close()
            raise
        try:
            self.apply(path)
        except OSError:
            sock.close()
            os.unlink(path)
            raise
        return sock

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
    """Whether somebody listens there; if not so much as asking is allowed, that is assumed."""
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
    """What tells this file from another of its name; None when there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
