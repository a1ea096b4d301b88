"""Plain non-blocking sockets, as both sides use them: gevent's watchers, but not its socket.

gevent's own socket class tries every ``recv`` once in vain and sets a watcher up for each
wait; gtcp watches its connections for their whole lives, and needs the system's socket.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Protocol

from gevent.socket import wait_read, wait_write

from gtcp.transport.identity import Identity, Peer, make_peer


def original(module: str, name: str) -> Any:
    """Return an attribute of a standard library module as it was before monkey-patching.

    As ``gevent.monkey.get_original``, which is not imported for it: where nobody else has
    done so nothing is patched, and it would bring the whole of ``logging`` along.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(import_module(module), name)
    return monkey.get_original(module, name)


class Stream(Protocol):
    """A connected, non-blocking socket, or TLS on top of one (``gtcp.transport.tls_socket``)."""

    @property
    def family(self) -> int:
        """The address family."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def recv(self, count: int, /) -> bytes:
        """Return what was received, at most ``count`` bytes of the socket; empty at the end."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Send as much as the kernel takes; return how many bytes."""

    def shutdown(self, how: int, /) -> None:
        """End one direction or both."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """Return a socket option, as so many bytes."""

    def setsockopt(self, level: int, option: int, value: Any, /) -> None:
        """Set a socket option."""

    def close(self) -> None:
        """Close the descriptor."""


System: type[socket.socket] = original("socket", "socket")
#: A poll that holds up the thread, not the greenlet.
new_poller: Callable[[], Any] = original("select", "poll")


def encoded(host: str) -> bytes:
    """A host as ``getaddrinfo`` takes it. Raises UnicodeError: it can be no name.

    Of text Python would make bytes itself: it would load its idna codec for any, and where that
    happens in gevent's thread pool, an error would be printed too.
    """
    return host.encode("ascii" if host.isascii() else "idna")


#: libev's event masks, for ``loop.io``.
READ, WRITE = 1, 2


#: Retransmissions without an answer before a host counts as gone: over a second has passed.
UNANSWERED = 2


def adopt(fd: int) -> socket.socket:
    """A non-blocking socket object that owns this descriptor from now on."""
    sock = System(fileno=fd)
    sock.setblocking(False)
    return sock


def tune(sock: Any, keepalive: float | None) -> None:
    """Send small lines at once, and find out within ``keepalive`` seconds that a peer is dead.

    There is no TCP_USER_TIMEOUT: it also ends a connection to a peer that lives, but is too
    busy to read for as long.

    Args:
        keepalive: half of it passes before the first probe, then three follow; None for none.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options: list[tuple[int, int, int]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if keepalive is not None:
        options += [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            *_tcp_option("TCP_KEEPIDLE", max(1, int(keepalive / 2))),
            *_tcp_option("TCP_KEEPINTVL", max(1, int(keepalive / 6))),
            *_tcp_option("TCP_KEEPCNT", 3),
        ]
    for option in options:
        sock.setsockopt(*option)


def receive(sock: Any, count: int) -> bytes:
    """Wait for data, and return at most so many bytes."""
    while True:
        try:
            data: bytes = sock.recv(count)
        except BlockingIOError:
            wait_read(sock.fileno())
        else:
            return data


def send_all(sock: Any, data: bytes) -> None:
    """Send all of it; the calling greenlet waits until the kernel has it."""
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            wait_write(sock.fileno())


def has_unread(sock: Any) -> bool:
    """Return whether the kernel holds data received, or the end of the stream."""
    poller = new_poller()
    poller.register(sock.fileno(), READ)  # POLLIN has the same value
    return bool(poller.poll(0))


def unheard(sock: Any) -> bool:
    """Return whether the peer's host has not acknowledged repeated transmissions.

    The host of a program that is merely busy, or stopped, still acknowledges. Where the
    system does not tell, False.
    """
    number = getattr(socket, "TCP_INFO", None)
    if number is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    # struct tcp_info of linux/tcp.h: the third byte counts unanswered retransmissions.
    info: bytes = sock.getsockopt(socket.IPPROTO_TCP, number, 8)
    return info[2] >= UNANSWERED


def peer_of(sock: Any, address: str, proven: Iterable[Identity] = ()) -> Peer:
    """Return the peer of a connection; for a unix socket, the system tells the process and user."""
    if sock.family != socket.AF_UNIX:
        return make_peer(address, proven)
    return make_peer(address, proven, *_credentials(sock))


def _credentials(sock: Any) -> tuple[int | None, int | None]:
    """Process and user when it was connected (unix(7)); None where the system does not tell."""
    number = getattr(socket, "SO_PEERCRED", None)
    if number is None:
        return None, None
    pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, number, 12))
    return pid, uid


def close_quietly(sock: Any) -> None:
    """Close a socket whose end interests nobody any more."""
    with contextlib.suppress(OSError):  # nothing can be done about it, and nothing is lost
        sock.close()


def _tcp_option(name: str, value: int) -> list[tuple[int, int, int]]:
    """Not every system has every option."""
    number = getattr(socket, name, None)
    return [] if number is None else [(socket.IPPROTO_TCP, number, value)]
