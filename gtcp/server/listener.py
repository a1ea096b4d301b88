"""Listening sockets, and gevent's ``StreamServer`` on top of one."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from gevent import sleep, spawn
from gevent.pool import Pool
from gevent.server import StreamServer

from gtcp.arguments import wrong_type
from gtcp.server.ops.logger import SERVER
from gtcp.server.process.socket_file import SocketFile, file_id, remove
from gtcp.server.process.syn_filter import drop_new_connections
from gtcp.server.settings import Settings
from gtcp.transport.address import Address, is_exposed, of_peer, parse_bind
from gtcp.transport.sockets import System, adopt, close_quietly, encoded

log = logging.getLogger(SERVER)

# The stubs leave out what a subclass may override.
_StreamServer: Any = StreamServer

#: Seconds to pause when accept() fails.
PAUSE = 0.5

#: Connections accepted per wake-up where no other process accepts: gevent's own number.
AT_ONCE = StreamServer.max_accept

#: Seconds between two connections that a process accepts from a shared socket. After BURST
#: connections with no more than BURST_SECONDS between them, it accepts more at a time.
TURN = 0.001
BURST = 64
BURST_SECONDS = 0.05

#: Seconds that a connection may take to open, once its first packet has arrived.
OPENING_SECONDS = 0.05

#: Turns that a process with more connections than another waits at most before it accepts one.
MAX_TURNS = 20

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

#: Names settings, which are the same under ``gtcp serve``, gunicorn and in a program.
EXPOSED = (
    "other hosts can reach {}, and there is neither TLS nor a secret, so every host that connects "
    "could call every command: set tls_cert or secret_file (GTCP_TLS_CERT, GTCP_SECRET_FILE, "
    "GTCP_SECRET), bind 127.0.0.1, or set insecure (GTCP_INSECURE=true)"
)


class Exposed(ValueError):
    """Other hosts could call a server that authenticates nobody."""


def listen(
    address: Address,
    backlog: int,
    *,
    loopback_only: bool = False,
    file: SocketFile = SocketFile(),  # noqa: B008  it never changes
) -> socket.socket:
    """Return a listening socket on this address.

    The file of a unix socket that nobody listens on any more is replaced. Of servers that do so at
    the same time one listens, and the others fail.

    Args:
        backlog: connections the kernel may hold that are not accepted yet.
        loopback_only: refuse an address that other hosts can reach.
        file: permissions and owner of a unix socket's file.

    Raises:
        Exposed: other hosts can reach it; nothing has listened.
        OSError: in use, not permitted, or no such host; the message names the address.
    """
    try:
        if address.path and not address.is_abstract:
            return file.listen(address.path, backlog)
        sock = _bound(address) if address.fd is None else passed(address.fd)
    except (OSError, UnicodeError) as exc:
        raise cannot_listen(address, exc) from exc
    if loopback_only:
        refuse_exposed(sock)
    try:
        sock.setblocking(False)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise cannot_listen(address, exc) from exc
    return sock


class PassedSocket(System):  # type: ignore[misc, valid-type]
    """A socket that was passed to this process, by systemd for example, which may keep it open.

    Its file, permissions and accept queue are not this process's.
    """


def passed(fd: int) -> PassedSocket:
    """Return the socket that has this descriptor; children do not inherit it.

    Raises:
        OSError: it is not open, or not a stream socket.
    """
    sock = PassedSocket(fileno=fd)
    if sock.type != socket.SOCK_STREAM or sock.family not in FAMILIES:
        sock.detach()
        raise OSError(errno.EPROTOTYPE, "it is not a stream socket of TCP or a unix socket")
    os.set_inheritable(fd, False)
    return sock


def cannot_listen(address: Address, exc: Exception) -> OSError:
    """Return an error that names the address."""
    kind = type(exc) if isinstance(exc, OSError) else OSError
    why = getattr(exc, "strerror", None) or exc
    return kind(getattr(exc, "errno", errno.EINVAL), f"can't listen on {address}: {why}")


def checked_sockets(listeners: Any) -> list[socket.socket]:
    """Return listening sockets that were given as a list.

    Raises:
        TypeError: they are none.
    """
    sockets: list[Any] = list(listeners) if isinstance(listeners, Iterable) else [None]
    if not all(hasattr(each, "getsockname") for each in sockets):
        wrong_type("listeners", "a list of listening sockets or None", listeners)
    return sockets


def to_accept_from(
    settings: Settings, given: Iterable[socket.socket] | None, knows_peers: bool
) -> list[socket.socket]:
    """Return the listening sockets of a server: those that were given, or new ones.

    Raises:
        Exposed: they would let just anybody in.
        TypeError: what was given is no list of listening sockets.
        OSError: as for ``listen``.
    """
    loopback_only = not (settings.insecure or knows_peers)
    if given is None:
        return listen_all(settings, loopback_only=loopback_only)
    sockets = checked_sockets(given)
    for sock in sockets if loopback_only else ():
        refuse_exposed(sock)
    return sockets


def listen_all(settings: Settings, *, loopback_only: bool) -> list[socket.socket]:
    """Listen on all addresses of the settings, or on none.

    Raises:
        Exposed, OSError: as for ``listen``.
        SettingsError: there is no such user or group for the file of a unix socket.
    """
    file = SocketFile(int(settings.unix_mode, 8), settings.unix_owner, settings.unix_group)
    sockets: list[socket.socket] = []
    try:
        for each in settings.addresses:
            where = parse_bind(each)
            if where.path and not where.is_abstract:
                file.check_owner()
            sock = listen(where, settings.backlog, loopback_only=loopback_only, file=file)
            sockets.append(sock)
    except (OSError, ValueError):
        for sock in sockets:
            sock.close()
        raise
    return sockets


def refuse_exposed(sock: socket.socket) -> None:
    """Raise Exposed, and close it, if other hosts can reach this socket."""
    name = sock.getsockname()
    if is_exposed(name):
        sock.close()
        raise Exposed(EXPOSED.format(of_peer(name)))


def resolve(address: Address) -> tuple[Any, ...]:
    """Return what ``getaddrinfo`` says about a TCP address to listen on."""
    return socket.getaddrinfo(
        encoded(address.host), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]


def _bound(address: Address) -> socket.socket:
    """Return a socket bound to a TCP address, or to the name of an abstract unix socket."""
    if address.is_abstract:
        sock = System(socket.AF_UNIX, socket.SOCK_STREAM)
        where: Any = address.unix_name
    else:
        family, kind, proto, _name, where = resolve(address)
        sock = System(family, kind, proto)
    try:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:  # [::] means IPv6 only, whatever the system's default
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


class Listener(_StreamServer):  # type: ignore[misc]
    """gevent's server of one address. It differs where gtcp needs it to:

    - connections are plain non-blocking sockets, which are cheaper than gevent's;
    - where several processes accept from one socket, each takes one connection at a time, so that
      each gets its share;
    - when ``accept`` fails, most often for want of file descriptors, one line is logged and
      accepting pauses;
    - connections in the accept queue are taken in before the socket is closed, which would reset
      them: their clients could not tell whether what they sent has run;
    - the file of a unix socket is removed, unless another server has replaced it.

    Belongs to the hub that it is created in.

    Args:
        sock: a listening socket.
        serve: serves a connection, given its socket and its peer's name; called in a greenlet.
        greenlets: where those greenlets are spawned.
        refuse: whether connections are closed without a word, since there are far too many.
        shared: whether other processes accept from the socket too. It is then the caller's: only
            ``leave`` may be called.
        lead: given the connections of this process, returns how many more that is than the one
            of these processes has that has fewest.
    """

    def __init__(
        self,
        sock: socket.socket,
        serve: Callable[[socket.socket, Any], None],
        greenlets: Pool,
        refuse: Callable[[], bool],
        *,
        shared: bool = False,
        lead: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(sock, serve, spawn=greenlets)
        self._greenlets = greenlets
        self._lead = lead
        self._accepts_until = 0.0  # until when it accepts although others have fewer connections
        self._refuse = refuse
        self._shared = shared or isinstance(sock, PassedSocket)
        self._more = False  # whether the last look at the accept queue did not empty it
        self._burst = 0  # connections accepted one shortly after another
        self._last = 0.0
        self.bound_address = address_of(sock)
        path = self.bound_address.path
        self._file_id = None if self.bound_address.is_abstract else file_id(path)

    def do_read(self) -> tuple[socket.socket, Any] | None:
        """Accept one connection; None when there is none, or when accepting fails."""
        self._more = False
        try:
            # `accept` would return a gevent socket where the module is patched.
            fd, name = self.socket._accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return None
        except OSError as exc:
            # accept(2) has no lasting error: a firewall's EPERM, or what the network did, is about
            # one connection, and descriptors become free.
            spawn(log.error, "can't accept connections for now: %s", exc.strerror)
            self._pause(PAUSE)
            return None
        self._more = True
        return adopt(fd), name

    def do_handle(self, sock: socket.socket, name: Any) -> None:
        """Spawn a greenlet that serves the connection."""
        if self._refuse():
            sock.close()
        else:
            super().do_handle(sock, name)

    def do_close(self, sock: socket.socket, name: Any) -> None:
        """Close a connection that its greenlet has left open."""
        close_quietly(sock)

    def _do_read(self) -> None:
        if self._defers():
            return
        if self._shared:
            self.max_accept = self._share()
        super()._do_read()
        if self._shared and self._more:
            # The longer, the more it has: so a process that started late catches up.
            self._pause(TURN * (1 + min(self._burst, BURST) / 16))

    def _defers(self) -> bool:
        """Return whether processes with fewer connections may accept first; then accepting pauses.

        What is left after the pause is accepted: the others are busy, or starting.
        """
        if self._lead is None:
            return False
        lead, now = self._lead(len(self._greenlets)), monotonic()
        if lead <= 0 or now < self._accepts_until:
            return False
        seconds = TURN * min(1 + lead, MAX_TURNS)
        self._accepts_until = now + 2 * seconds
        self._pause(seconds)
        return True

    def _share(self) -> int:
        """Return how many connections to accept now: one, and more when they do not end.

        The process that wakes up first would take all of a burst, and keep it for as long as the
        clients live.
        """
        now = monotonic()
        self._burst = self._burst + 1 if now - self._last < BURST_SECONDS else 0
        self._last = now
        return 1 + self._burst // BURST

    def _pause(self, seconds: float) -> None:
        """Accept nothing for so long."""
        self.stop_accepting()
        self._timer = self.loop.timer(seconds)
        self._timer.start(self._start_accepting_if_started)

    def leave(self, *, take_queue: bool = False) -> None:
        """Accept no more; the accept queue is left to others on the same socket.

        But not what waits because this one held back: there may be no others.

        Args:
            take_queue: accept what waits, since there are no others.
        """
        if take_queue:
            while (accepted := self.do_read()) is not None:
                self.do_handle(*accepted)
        elif self._shared and monotonic() - self._last < BURST_SECONDS:
            self.max_accept = AT_ONCE
            super()._do_read()
        self._stop_event.set()
        self.stop_accepting()

    def close(self) -> None:
        """Take in the connections of the accept queue, then close the socket.

        The queue of a socket that was passed to this process is left to its owner.
        """
        if not self.closed and self.started:
            if isinstance(self.socket, PassedSocket):
                self.leave()
            else:
                while (accepted := self.do_read()) is not None:
                    self.do_handle(*accepted)
                remove(self.bound_address.path, self._file_id)
        super().close()

    def abandon(self) -> None:
        """Accept nothing in a forked child, and close the copy of the descriptor."""
        self._stop_event.set()
        self.stop_accepting()
        close_quietly(self.socket)


def leave_all(listeners: Iterable[Listener], *, own: bool, last: bool, wait: bool) -> None:
    """Accept no more connections.

    Args:
        own: whether the sockets are closed here; else they are the caller's.
        last: whether no other process accepts from the caller's sockets.
        wait: whether connections that are just being opened are accepted.
    """
    closing = [each for each in listeners if not isinstance(each.socket, PassedSocket)]
    if (own or last) and [each for each in closing if drop_new_connections(each.socket)] and wait:
        sleep(OPENING_SECONDS)
    for each in listeners:
        each.close() if own else each.leave(take_queue=last)


def address_of(sock: socket.socket) -> Address:
    """Return where a socket listens: the real port when 0 was asked for."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return Address(name[0], name[1])
    path = os.fsdecode(name)
    return Address(path=f"@{path[1:]}" if path.startswith("\0") else path)
