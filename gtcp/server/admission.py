"""From accept to connection, where a peer has to show who it is first.

Without anything to be checked there is no admission: a socket becomes a connection at once.
With it, one that has to say something gets a short greenlet, with a time limit and counted
among the connections, so that strangers who say nothing cost little and not for long.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from greenlet import getcurrent

from gtcp.address import host_of
from gtcp.protocol import OVERLOADED
from gtcp.server.connection import MAX_IDENTITY_CHARS, Connection
from gtcp.server.context import Context
from gtcp.server.handshake import Entrant, Handshake, Refused
from gtcp.server.logger import SERVER, escape
from gtcp.server.runner import report
from gtcp.server.table import Rejection
from gtcp.sockets import close_quietly, tune

log = logging.getLogger(SERVER)


class Admission:
    """Lets new connections in, or tells them why not. Lives in the hub of the server's thread.

    Args:
        context: where those let in are counted and served.
        handshake: asked for each time, so that a reload holds for those who come after it.
    """

    def __init__(self, context: Context, handshake: Callable[[], Handshake]) -> None:
        self._context = context
        self._handshake = handshake
        # Who is on the way, and the host that it is counted for.
        self._entering: dict[Any, tuple[Entrant, str | None]] = {}
        self._ended = False

    def begin(self, sock: socket.socket, address: str) -> None:
        """Take a socket that was just accepted; called in the hub, does not wait."""
        context, handshake = self._context, self._handshake()
        entrant = Entrant(sock, address)
        proxy = handshake.is_proxy(entrant)
        host = None if proxy else host_of(address)  # from a proxy comes all the world
        busy = context.too_many(host or "")
        try:
            tune(sock, context.settings.keepalive)
            if busy:
                raise Refused(OVERLOADED, busy)
            if not proxy:
                handshake.check_network(entrant)
            if not handshake.waits(entrant):
                handshake.check_identity(entrant)
                self._open(entrant)
                return
        except Refused as exc:
            # Where TLS is spoken, words without it would not be understood.
            self._refuse(entrant, exc, silently=handshake.tls is not None)
        except OSError:  # it was reset before it was accepted
            close_quietly(sock)
        else:
            self._wait_for(entrant, handshake, host)

    def finish(self, seconds: float) -> None:
        """Let no more in: those who are about to come have a moment to do so."""
        gevent.joinall(list(self._entering), timeout=seconds)
        gevent.sleep(0)  # the last ones become connections
        self._ended = True
        late = list(self._entering.items())
        gevent.killall([greenlet for greenlet, _ in late])
        for _, (entrant, _host) in late:
            close_quietly(entrant.sock)

    def abandon(self) -> None:
        """In a forked child: close the copies of those who are about to come."""
        self._ended = True
        gevent.killall(list(self._entering), block=False)

    def _wait_for(self, entrant: Entrant, handshake: Handshake, host: str | None) -> None:
        greenlet = gevent.Greenlet(self._run, entrant, handshake)
        self._entering[greenlet] = entrant, host
        self._context.entering += 1
        if host is not None:
            self._context.hosts[host] += 1
        greenlet.rawlink(self._left)
        greenlet.start()

    def _left(self, greenlet: Any) -> None:
        if greenlet in self._entering:
            _, host = self._entering.pop(greenlet)
            self._context.entering -= 1
            if host is not None:
                self._context.one_less_of(host)

    def _run(self, entrant: Entrant, handshake: Handshake) -> None:
        seconds = self._context.settings.handshake_timeout
        timer = gevent.Timeout.start_new(seconds)
        why = f"no end of the handshake within {seconds:g} s"
        try:
            handshake.run(entrant)
            handshake.check_identity(entrant)
        except Refused as exc:
            self._later(self._refuse, entrant, exc)
        except gevent.Timeout as fired:
            close_quietly(entrant.sock)
            if fired is not timer:
                raise
            self._context.strangers.warning("%s: %s; closing", entrant.address, why)
        except OSError as exc:
            close_quietly(entrant.sock)
            why = exc.strerror or str(exc)
            self._context.strangers.warning("%s: %s; closing", entrant.address, why)
        except Exception:  # ours to mend; this connection is lost, the others go on
            close_quietly(entrant.sock)
            report(entrant.address)
        except BaseException:  # the server stops
            close_quietly(entrant.sock)
            raise
        else:
            self._later(self._open, entrant)
        finally:
            timer.close()
            self._left(getcurrent())

    def _later(self, function: Callable[..., None], *args: object) -> None:
        """In the hub, where connections live."""
        get_hub().loop.run_callback(function, *args)

    def _open(self, entrant: Entrant) -> None:
        if self._ended:
            close_quietly(entrant.sock)
            return
        try:
            peer = entrant.peer()
            connection = Connection(entrant.sock, entrant.address, self._context, peer)
        except OSError:  # it was reset meanwhile
            close_quietly(entrant.sock)
            return
        limit = self._context.settings.max_connections_per_address
        if limit is not None and self._context.hosts[host_of(entrant.address)] > limit:
            busy = "too many connections from this address"
            connection.reject(Rejection(OVERLOADED, busy))
        elif entrant.received:
            connection.take(entrant.received, monotonic())

    def _refuse(self, entrant: Entrant, refused: Refused, silently: bool = False) -> None:
        code, message = refused.args
        self._context.strangers.warning("%s: %s; closing", _who(entrant), message)
        try:
            if silently or self._ended:
                close_quietly(entrant.sock)
            else:
                peer = entrant.peer()
                connection = Connection(entrant.sock, entrant.address, self._context, peer)
                connection.reject(Rejection(code, message), logged=True)
        except OSError:
            close_quietly(entrant.sock)


def _who(entrant: Entrant) -> str:
    """Its address, and what it has proven to be, for the log."""
    try:
        identities = entrant.peer().identities
    except OSError:  # it is gone
        identities = ()
    if not identities:
        return entrant.address
    return f"{entrant.address} ({escape(', '.join(identities), MAX_IDENTITY_CHARS)})"
