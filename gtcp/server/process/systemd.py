"""systemd's interface to services: passed sockets, notifications, the watchdog.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): variables in
the environment, and datagrams to a unix socket. Other supervisors speak them as well.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from gtcp.server.ops.logger import SERVER
from gtcp.transport.sockets import System

log = logging.getLogger(SERVER)

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST_FD = 3

#: What a Notifier reads.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def passed_fds() -> range:
    """Return the descriptors of sockets passed to this process; none if they are for another."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return range(0)
    return range(FIRST_FD, FIRST_FD + int(count))


class Notifier:
    """Sends the state of the service to the supervisor; without one, does nothing.

    Args:
        environment: as the process was started with.

    Attributes:
        variables: those of the environment that are about notifications.
        watchdog_seconds: how often the supervisor wants to hear of this process at least; None if
            it does not.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.variables = {name: environment[name] for name in VARIABLES if name in environment}
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._pid = os.getpid()
        self.watchdog_seconds = _watchdog_seconds(environment) if self._address else None
        self._next_sign = 0.0

    def ready(self) -> None:
        """The service has started, or has reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The service reads its configuration again; ``ready`` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service drains."""
        self._send("STOPPING=1")

    def succeeded_by(self, pid: int) -> None:
        """The service goes on in another process."""
        self._send(f"MAINPID={pid}")

    def alive(self) -> None:
        """A sign of life for the watchdog. Called at least three times in ``watchdog_seconds``."""
        if self.watchdog_seconds is None or time.monotonic() < self._next_sign:
            return
        self._next_sign = time.monotonic() + self.watchdog_seconds / 3
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address or self._pid != os.getpid():  # a forked child is not the service
            return
        try:
            with System(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(_path(self._address))
                sock.send(state.encode())
        except OSError as exc:
            log.warning("can't notify the supervisor at %s: %s", self._address, exc.strerror or exc)


def _path(address: str) -> str:
    return f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    microseconds = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or not int(microseconds) or pid != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
