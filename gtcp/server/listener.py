"""A listening socket: accepts connections in the hub and hands them over."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub, spawn

from gtcp.address import Address, of_peer
from gtcp.server.logger import SERVER
from gtcp.server.socket_file import SocketFile, file_id
from gtcp.sockets import READ, System, adopt, close_quietly, encoded

log = logging.getLogger(SERVER)

Accepted = Callable[[socket.socket, Any], None]

#: Seconds to wait before trying again, when accept() fails: most often there are no descriptors.
PAUSE = 0.5

#: Connections accepted per wake-up, where nobody else accepts.
AT_ONCE = 100

#: Seconds between two connections that a process accepts from a shared socket; after so many
#: that came no further apart, it takes more at a time.
TURN = 0.001
BURST = 64
BURST_SECONDS = 0.05

EXPOSED = (
    "other hosts can reach {}, and there is neither TLS nor a secret, so whoever connects could "
    "call everything: set tls_cert or secret_file (or GTCP_SECRET), listen on 127.0.0.1, or say "
    "insecure (--insecure)"
)


class Exposed(ValueError):
    """A server that knows nobody may not be reached by everybody."""


def listen(
    address: Address,
    backlog: int,
    *,
    loopback_only: bool = False,
    file: SocketFile = SocketFile(),  # noqa: B008  it never changes
) -> socket.socket:
    """A listening socket on this address; for the rest as ``bind``."""
    sock = bind(address, loopback_only=loopback_only, file=file)
    try:
        sock.setblocking(False)
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise _cannot(address, exc) from exc
    return sock


def bind(
    address: Address,
    *,
    loopback_only: bool = False,
    file: SocketFile = SocketFile(),  # noqa: B008  it never changes
) -> socket.socket:
    """A socket that has this address but does not listen yet, so that nobody can connect.

    A file left behind by a unix socket nobody listens on any more is replaced.

    Args:
        loopback_only: refuse an address that other hosts can reach.
        file: permissions and owner of a unix socket's file.

    Raises:
        Exposed: other hosts can reach it; nothing has listened.
        OSError: in use, not permitted, or no such host; the message names the address.
    """
    try:
        if address.path:
            return file.bound(address.path)
        sock = _tcp(address)
    except (OSError, UnicodeError) as exc:
        raise _cannot(address, exc) from exc
    if loopback_only:
        refuse_exposed(sock)
    return sock


def _cannot(address: Address, exc: Exception) -> OSError:
    kind = type(exc) if isinstance(exc, OSError) else OSError
    why = getattr(exc, "strerror", None) or exc
    return kind(getattr(exc, "errno", errno.EINVAL), f"can't listen on {address}: {why}")


def refuse_exposed(sock: socket.socket) -> None:
    """Raise Exposed, and close it, if other hosts can reach this socket."""
    name = sock.getsockname()
    if isinstance(name, tuple) and not ipaddress.ip_address(name[0]).is_loopback:
        sock.close()
        raise Exposed(EXPOSED.format(of_peer(name)))


def _tcp(address: Address) -> socket.socket:
    family, kind, proto, _name, where = socket.getaddrinfo(
        encoded(address.host), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = System(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts connections from one listening socket. Belongs to one hub.

    Args:
        sock: listening; whoever made it closes it, unless ``close`` is called.
        accepted: gets every new socket, non-blocking, and its address; must not block.
        shared: whether other processes accept from it too, and are to get their share.
    """

    def __init__(self, sock: socket.socket, accepted: Accepted, *, shared: bool = False) -> None:
        self._sock = sock
        self._accepted = accepted
        self._shared = shared
        self._burst = 0  # connections accepted one shortly after another
        self._last = 0.0
        self._file_id = file_id(self.address.path)
        loop = get_hub().loop
        self._watcher = loop.io(sock.fileno(), READ)
        self._timer = loop.timer(PAUSE)
        self._watcher.start(self._acceptable)

    @property
    def address(self) -> Address:
        """Where it listens: the real port when 0 was asked for."""
        name = self._sock.getsockname()
        if isinstance(name, tuple):
            return Address(name[0], name[1])
        return Address(path=os.fsdecode(name))

    def stop(self) -> None:
        """Accept no more; what waits in the queue is left to others on the same socket.

        Except for what waits because this one held back: there may be no others, and closing
        the socket would reset it.
        """
        if self._shared and monotonic() - self._last < BURST_SECONDS:
            self._accept(AT_ONCE)
        self._stop_watching()

    def abandon(self) -> None:
        """In a forked child: accept nothing, and close the copy of the descriptor."""
        self._stop_watching()
        close_quietly(self._sock)

    def _stop_watching(self) -> None:
        for watcher in (self._watcher, self._timer):
            watcher.stop()
            watcher.close()

    def close(self) -> None:
        """Take in what waits in the queue already, then close the socket.

        Closing would reset those connections, and their clients could not tell whether what
        they sent has run.
        """
        while self._accept_one():
            pass
        self.stop()
        path = self.address.path
        self._sock.close()
        if path and file_id(path) == self._file_id:  # another server may have replaced it
            os.unlink(path)

    def _acceptable(self) -> None:
        more = self._accept(self._share() if self._shared else AT_ONCE)
        if self._shared and more:
            # The longer the more it has: so who was late catches up.
            self._pause(TURN * (1 + min(self._burst, BURST) / 16))

    def _share(self) -> int:
        """How many to accept before the others get a turn: one, and more when it never ends.

        Whoever wakes first would take all of a burst, and keep them for as long as their
        clients live.
        """
        now = monotonic()
        self._burst = self._burst + 1 if now - self._last < BURST_SECONDS else 0
        self._last = now
        return 1 + self._burst // BURST

    def _accept(self, count: int) -> bool:
        """Accept so many; False when there were fewer."""
        return all(self._accept_one() for _ in range(count))

    def _accept_one(self) -> bool:
        try:
            # `accept` would return a gevent socket where the module is patched.
            fd, address = self._sock._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as exc:
            # Raised in the hub it would be the end of this watcher, and accept(2) has no lasting
            # error: a firewall's EPERM, or what the network did, is about one connection.
            self._try_later(exc)
            return False
        self._accepted(adopt(fd), address)
        return True

    def _try_later(self, exc: OSError) -> None:
        # In a greenlet of its own: a log handler may wait.
        spawn(log.error, "can't accept connections for now: %s", exc.strerror)
        self._pause(PAUSE)

    def _pause(self, seconds: float) -> None:
        """Accept nothing for so long."""
        self._watcher.stop()
        # Made anew: one that has gone off would go off again at once, libev keeps what is left.
        self._timer.close()
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._watcher.start, self._acceptable)
