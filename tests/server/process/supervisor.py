"""A supervisor such as systemd: it passes sockets, and receives notifications."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from tests.helpers import PATIENCE

#: Passes one socket, as systemd does: descriptor 3, meant for this process. Then becomes the rest.
PASS = """\
import os, sys
descriptor, *command = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)
"""


def passing(sock: socket.socket) -> dict[str, Any]:
    """Arguments with which ``served`` starts a server that this socket is passed to."""
    before = (sys.executable, "-c", PASS, str(sock.fileno()))
    return {"before": before, "pass_fds": (sock.fileno(),)}


def unix_listener(path: Path, mode: int = 0o666) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(mode)
    sock.listen()
    return sock


class Notified:
    """The socket on which a service notifies its supervisor.

    Args:
        address: a path, or ``@name`` for an abstract socket.
    """

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(PATIENCE)
        self._sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def __enter__(self) -> Notified:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._sock.close()

    def next(self) -> str:
        """Wait for the next notification and return it."""
        return self._sock.recv(4096).decode()

    def waiting(self) -> list[str]:
        """Return the notifications that were not read yet."""
        told = []
        self._sock.setblocking(False)
        try:
            while True:
                told.append(self.next())
        except BlockingIOError:
            return told
        finally:
            self._sock.settimeout(PATIENCE)
