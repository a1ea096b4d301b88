"""The listening sockets of ``gtcp serve --workers``, as gunicorn's arbiter takes them.

gtcp makes them, not gunicorn: an address means the same with one process and with several.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from gtcp.server.listener import PassedSocket, address_of, listen_all, passed
from gtcp.server.process.socket_file import file_id, remove
from gtcp.server.settings import Settings
from gtcp.transport.address import parse_bind
from gtcp.transport.sockets import adopt

#: The variable in which gunicorn's master passes its listening sockets to its successor (SIGUSR2).
INHERITED = "GUNICORN_FD"


class SharedSocket:
    """A listening socket that the master has made or was passed, and its workers accept from.

    Attributes:
        sock: the socket; a worker takes it over.
        passed: whether it was passed to the master, by systemd for example.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.passed = isinstance(sock, PassedSocket)
        self._address = address_of(sock)
        has_file = not (self.passed or self._address.is_abstract)
        self._file_id = file_id(self._address.path) if has_file else None

    def remove_file(self) -> None:
        """Remove the file of a unix socket, unless the socket was passed or the file replaced."""
        remove(self._address.path, self._file_id)

    # Called by gunicorn

    def __str__(self) -> str:
        return str(self._address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def get_backlog(self) -> int:
        """Return the length of the accept queue; -1 means unknown."""
        return -1


def make_sockets(settings: Settings, *, loopback_only: bool) -> list[SharedSocket]:
    """Listen on the addresses of the settings, or take over the sockets of the old master.

    Raises:
        Exposed, OSError: as for ``listen``.
    """
    inherited = os.environ.pop(INHERITED, "")
    if not inherited:
        return [SharedSocket(each) for each in listen_all(settings, loopback_only=loopback_only)]
    passed_to_us = {parse_bind(each).fd for each in settings.addresses}
    return [
        SharedSocket(passed(fd) if fd in passed_to_us else adopt(fd))
        for fd in map(int, inherited.split(","))
    ]


def keep_for_successor(arbiter: Any) -> None:
    """Let the next master inherit the sockets. Called in its process, before it is executed."""
    for each in arbiter.LISTENERS:
        os.set_inheritable(each.fileno(), True)
    environment: dict[str, str] = arbiter.cfg.env_orig
    if environment.get("LISTEN_PID") == str(os.getppid()):
        environment["LISTEN_PID"] = str(os.getpid())
