"""From an accepted socket to a connection that is served: limits, handshake, identity.

All of it runs in the greenlet that owns the connection, and all that waits has one timeout.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import getcurrent

from gtcp.protocol.messages import OVERLOADED, Failure, encode
from gtcp.server.connections.connection import Connection
from gtcp.server.connections.context import Context
from gtcp.server.handshake.steps import Entrant, Handshake, Refusal
from gtcp.server.ops.background_log import log_bug
from gtcp.server.ops.logger import MAX_IDENTITY_CHARS, escape
from gtcp.transport.address import host_of, of_peer
from gtcp.transport.sockets import close_quietly, tune

#: Seconds between two looks at the handshakes that a drain waits for.
POLL_SECONDS = 0.01


class Admission:
    """Admits new connections, or refuses them with a reason. Belongs to the server's hub.

    Args:
        context: where connections are counted.
        handshake: returns the current handshake: a reload replaces it for later connections.
    """

    def __init__(self, context: Context, handshake: Callable[[], Handshake]) -> None:
        self._context = context
        self._handshake = handshake
        self._entering: dict[Any, Entrant] = {}  # greenlet -> the peer in its handshake

    def serve(self, sock: socket.socket, name: Any) -> None:
        """Admit a connection and serve it until it ends; called in a greenlet of its own.

        Args:
            sock: accepted, non-blocking; closed at the end.
            name: the peer's name, as ``accept`` returns it.
        """
        entrant = Entrant(sock, of_peer(name))
        try:
            connection = self._admit(entrant)
        except Refusal as exc:
            connection = self._refuse(entrant, exc)
        except OSError as exc:
            # A peer that connects and closes is a load balancer's health check.
            if not entrant.silent or isinstance(exc, TimeoutError):
                self._log_end(entrant, exc.strerror or str(exc))
            connection = None
        except Exception:  # a bug in gtcp; this connection is lost, the others go on
            log_bug(entrant.address)
            connection = None
        except BaseException:  # the server stops
            close_quietly(entrant.sock)
            raise
        received = entrant.received
        if connection is None:
            close_quietly(entrant.sock)
        else:
            del entrant  # it would live as long as the connection
            connection.run(received)

    def finish(self, seconds: float) -> None:
        """End the handshakes that are not over within this time; what was admitted stays."""
        gevent.sleep(0)  # connections that were just accepted begin theirs
        until = monotonic() + seconds
        while self._entering and monotonic() < until:
            gevent.sleep(POLL_SECONDS)
        gevent.killall(list(self._entering))

    def abandon(self) -> None:
        """Close the copies of the sockets in a forked child."""
        for entrant in self._entering.values():
            close_quietly(entrant.sock)

    def _admit(self, entrant: Entrant) -> Connection | None:
        """Return the connection when its peer may connect; None when it has gone.

        Raises:
            Refusal: the peer may not connect.
            OSError: the connection broke, or the handshake failed.
        """
        context, handshake = self._context, self._handshake()
        proxied = handshake.is_proxy(entrant)
        host = None if proxied else host_of(entrant.address)  # a proxy connects for everybody
        try:
            tune(entrant.sock, context.settings.keepalive)
        except OSError:  # it was reset before it was accepted
            return None
        if not proxied:
            handshake.check_network(entrant)
        if reason := context.too_many(host or ""):
            raise Refusal(OVERLOADED, reason, handshake.refuses_silently(entrant))
        if handshake.waits(entrant):
            self._run_handshake(handshake, entrant, host)
        handshake.check_identity(entrant)
        connection = Connection(entrant.sock, entrant.address, context, entrant.peer())
        limit = context.settings.max_connections_per_address
        if limit is not None and context.hosts[host_of(entrant.address)] > limit:
            context.refuse(connection)
            connection.refuse(Failure(OVERLOADED, "too many connections from this address"))
        return connection

    def _run_handshake(self, handshake: Handshake, entrant: Entrant, host: str | None) -> None:
        """Take the steps of the handshake that wait for the peer, within a time limit.

        Meanwhile the peer is counted as a connection: one that says nothing costs little, and not
        for long.
        """
        context, me = self._context, getcurrent()
        seconds = context.settings.handshake_timeout
        timer = gevent.Timeout.start_new(seconds)
        self._entering[me] = entrant
        context.entering += 1
        if host is not None:
            context.hosts[host] += 1
        try:
            handshake.run(entrant)
            if entrant.ignored:
                names = escape(", ".join(entrant.ignored), MAX_IDENTITY_CHARS)
                message = "%s: names in its certificate are ignored: %s"
                context.rate_limited_log.warning(message, entrant.address, names)
        except gevent.Timeout as fired:
            if fired is not timer:
                raise
            raise TimeoutError(f"the handshake did not end within {seconds:g} s") from None
        finally:
            timer.close()
            del self._entering[me]
            context.entering -= 1
            if host is not None:
                context.one_less_of(host)

    def _refuse(self, entrant: Entrant, refused: Refusal) -> Connection | None:
        """Return a connection that tells the peer why, then closes; None if it can't be told."""
        code, message, *silently = refused.args
        if self._context.metrics is not None:
            self._context.metrics.note_connection_refused(code, message)
        self._log_end(entrant, message)
        if any(silently):
            return None
        reply = Failure(code, message)
        if not self._context.may_linger:
            _send_last(entrant, reply)
            return None
        try:
            connection = Connection(entrant.sock, entrant.address, self._context, entrant.peer())
        except OSError:  # it has gone
            return None
        self._context.refuse(connection)
        connection.refuse(reply)
        return connection

    def _log_end(self, entrant: Entrant, why: str) -> None:
        self._context.rate_limited_log.warning("%s: %s; closing", _name_of(entrant), why)


def _send_last(entrant: Entrant, reply: Failure) -> None:
    """Send a refusal as far as that takes no waiting; the connection is closed after it."""
    with contextlib.suppress(OSError):  # the peer has gone, or takes nothing
        entrant.sock.send(encode(reply) + b"\n")
        entrant.sock.shutdown(socket.SHUT_WR)


def _name_of(entrant: Entrant) -> str:
    """Return a peer's address, and the identities that it has proven, for the log."""
    try:
        identities = entrant.peer().identities
    except OSError:  # it has gone
        identities = ()
    if not identities:
        return entrant.address
    return f"{entrant.address} ({escape(', '.join(identities), MAX_IDENTITY_CHARS)})"
