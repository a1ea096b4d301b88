"""The server: one ``StreamServer`` per address, the connections, and the drain."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from greenlet import getcurrent

from gtcp.arguments import check_seconds, wrong_type
from gtcp.deadline import Carrier
from gtcp.errors import SettingsError
from gtcp.server import fork_hook
from gtcp.server.admin import start_operations
from gtcp.server.commands.registration import Registration
from gtcp.server.connections.context import Connections, Context
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.connections.inspection import is_exposed
from gtcp.server.connections.sweeper import Sweeper
from gtcp.server.draining import DRAIN_POLL_SECONDS, cut, wait_until_empty
from gtcp.server.handshake.admission import Admission
from gtcp.server.handshake.current import (
    DEFAULT,
    CurrentHandshake,
    Secrets,
    as_settings_error,
)
from gtcp.server.listener import Listener, leave_all, to_accept_from
from gtcp.server.ops.health import Health
from gtcp.server.ops.logger import SERVER
from gtcp.server.ops.register import Registered
from gtcp.server.process import forks
from gtcp.server.process.supervision import Supervision
from gtcp.server.settings import Settings
from gtcp.transport.sockets import close_quietly

log = logging.getLogger(SERVER)

#: Seconds that a drain gives to peers that are just connecting.
ENTER_SECONDS = 0.5


class Server(Registration):
    """Serves the commands registered on it.

    A server belongs to the process and the thread that start it. Handlers run in greenlets of that
    thread.

    Args:
        settings: addresses and limits; by default from the ``GTCP_*`` environment variables.
        secret: shared secret that every peer must prove, "name:secret"; or several, while one
            replaces the other. By default those in the file ``settings.secret_file`` or in the
            environment variable GTCP_SECRET, if one is set; None for no secret.

    Raises:
        SettingsError: an environment variable is unknown or has an impossible value.
        TypeError: an argument has the wrong type; the message holds no secret.
        ValueError: a secret is too short or malformed; the message does not hold it.
    """

    def __init__(self, settings: Settings | None = None, *, secret: Secrets = DEFAULT) -> None:
        if settings is not None and not isinstance(settings, Settings):
            wrong_type("settings", "a gtcp.Settings or None", settings)
        self.settings = Settings.load() if settings is None else settings
        super().__init__()
        self.health = Health()
        self._handshake = CurrentHandshake(secret)
        self._admission: Admission | None = None
        self._context: Context | None = None
        self._listeners: list[Listener] = []
        self._own_listeners = True
        self._sweeper: Sweeper | None = None
        self._greenlets: Any = ()
        self._hub: Any = None
        self._supervision: Supervision | None = None
        self._done = Event()
        self._starting = self._stopping = False  # its on_start or on_stop functions run
        fork_hook.servers.add(self)

    def __call__(self, *_args: object) -> Any:
        """Not a WSGI application, though gunicorn insists that it can be called.

        Raises:
            TypeError: always; it says how to run it instead.
        """
        raise TypeError(
            "a gtcp.Server is not a WSGI application: "
            "run gunicorn with -k gtcp.server.worker.GtcpWorker"
        )

    # Serving

    @property
    def addresses(self) -> list[str]:
        """The addresses it listens on, with the real ports; empty if it does not listen."""
        return [str(listener.bound_address) for listener in self._listeners]

    @property
    def connections(self) -> Connections:
        """The open connections, each with ``address``, ``since``, ``handled`` and ``in_flight``."""
        return Connections(self._context.connections if self._context else set())

    @property
    def handled(self) -> int:
        """Number of requests since the start."""
        return self._context.handled if self._context else 0

    @property
    def started(self) -> bool:
        """Whether it serves or drains."""
        return self._context is not None

    @property
    def has_secret(self) -> bool:
        """Whether the argument ``secret`` has secrets that peers must prove."""
        return self._handshake.has_secret

    @property
    def in_flight(self) -> int:
        """Number of calls whose handlers are waiting at this moment."""
        return len(self._context.in_flight) if self._context else 0

    @property
    def cut_by(self) -> int | None:
        """The signal that cut the drain of ``serve_forever`` short; None if none did."""
        return None if self._supervision is None else self._supervision.cut_by

    def start(
        self,
        listeners: Iterable[socket.socket] | None = None,
        *,
        lead: Callable[[int], int] | None = None,
        metrics_folder: Path | None = None,
    ) -> None:
        """Listen and serve in the background; return when the server listens.

        The ``on_start`` functions run first. If one fails, or listening does, the ``on_stop``
        functions run before the exception is raised. With the setting ``register``, return when the
        entry in ZooKeeper is there, too, or after a second.

        Args:
            listeners: listening sockets to use instead of the settings' addresses. The server does
                not close them.
            lead: returns, for the number of connections of this process, how many more these are
                than in the process with the fewest; the others accept first while it is positive.
            metrics_folder: where the processes of a service add up their metrics, with the setting
                ``admin``; None for one process.

        Raises:
            TypeError: ``listeners`` are not sockets.
            OSError: an address is in use or not permitted; nothing listens then.
            SettingsError: certificates or secrets can't be used, or none are set and other hosts
                could connect.
            RuntimeError: it is started already, or an ``on_start`` function failed; the cause is
                its exception.
        """
        if self._context is not None or self._starting:
            raise RuntimeError("the server is started already")
        table = self.commands.table(self.settings.max_depth, self.settings.max_line_bytes)
        table.describe()  # encoded here, where nobody waits for it
        table.log_notices()
        self._handshake.load(self.settings)
        context = as_settings_error(lambda: Context(table, self.settings, self.health))
        self._starting = True
        try:
            sockets = self._prepare(context, listeners, metrics_folder)
        except BaseException:
            context.close()
            self.commands.hooks.stop()
            raise
        finally:
            self._starting = False
        self._own_listeners = listeners is None
        self._done = Event()  # an Event belongs to the hub of its thread
        self._context = context
        self._admission = Admission(context, self._handshake.get)
        self._hub = gevent.get_hub()
        self._greenlets = greenlets = Pool(greenlet_class=ServingGreenlet)
        self._listeners = [
            Listener(
                each,
                self._admission.serve,
                greenlets,
                self._is_flooded,
                shared=not self._own_listeners,
                lead=lead,
            )
            for each in sockets
        ]
        for listener in self._listeners:
            listener.start()
        self._sweeper = Sweeper(context.connections, context.watched, self.settings.lifetime)
        context.registered.begin()

    def check(self, listeners: Iterable[socket.socket]) -> None:
        """Check that it could be started; ``on_start`` functions do not run.

        Args:
            listeners: as for ``start``.

        Raises:
            Exception: as for ``start``.
        """
        self.commands.table(self.settings.max_depth, self.settings.max_line_bytes)
        self._handshake.load(self.settings)
        as_settings_error(lambda: self._sockets(listeners))

    def leave(self, *, last: bool = False, wait: bool = True) -> None:
        """Accept no more connections.

        Args:
            last: no other process accepts from the sockets that were given to ``start``.
            wait: accept connections that are just being opened.
        """
        if self._context is not None:
            self._context.registered.remove()
        listeners, self._listeners = self._listeners, []
        leave_all(listeners, own=self._own_listeners, last=last, wait=wait)
        operations = None if self._context is None else self._context.operations
        if operations is not None and not (self._own_listeners or last):
            operations.leave()  # other processes answer there

    def announce_drain(self, limit: float) -> None:
        """Report that it drains, and serve for ``drain_delay`` seconds, at most for ``limit``.

        Load balancers that probe the health send no more calls then. A ``stop`` ends the wait.
        """
        context = self._context
        if context is None or context.draining or self.health.draining:
            return
        self.health.draining = True
        context.registered.remove()
        until = monotonic() + min(self.settings.drain_delay, limit)
        while monotonic() < until and self._context is context and not context.draining:
            gevent.sleep(DRAIN_POLL_SECONDS)

    def stop(self, timeout: float | None = None) -> None:
        """Drain and stop; return when no call is in flight and the ``on_stop`` functions have run.

        No more connections are accepted. Each client receives a line that says that requests
        without a reply did not run. Idle connections are closed, calls in flight are finished and
        answered.

        Args:
            timeout: seconds before running handlers are cancelled and their connections reset; by
                default the setting ``graceful_timeout``. It does not limit ``on_stop`` functions.

        Raises:
            TypeError, ValueError: the timeout is not a duration; the server continues.
            RuntimeError: called by a handler, which would wait for itself; use
                ``gevent.spawn(server.stop)`` there.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if isinstance(getcurrent(), Carrier):
            raise RuntimeError("a handler can't wait for the drain: gevent.spawn(server.stop)")
        limit = self.settings.graceful_timeout if timeout is None else timeout
        until = monotonic() + limit
        if self._listeners:
            self.announce_drain(limit)
        context = self._context
        if context is None:
            if self._stopping:
                self._done.wait(limit)
            self._done.set()  # for the copy of serve_forever() in a forked child
            return
        self._drain(context, until)
        cut(context)
        if self._context is context:  # else another stop() was faster
            self._end(context)

    def leave_to_parent(self) -> None:
        """In a forked child: leave listeners and connections to the parent.

        Called automatically after ``os.fork``. Descriptors are closed, which peers do not notice,
        and SIGINT and SIGTERM have their defaults again."""
        context, self._context = self._context, None
        if context is None:
            return
        if self._supervision is not None:
            self._supervision.end()
        forks.keep(context, self._greenlets, self._admission)
        context.abandon()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.abandon()
        for connection in context.connections:
            connection.abandon()
        if self._admission is not None:
            self._admission.abandon()
        for greenlet in self._greenlets:
            if greenlet.args and not greenlet.started:  # its socket is accepted, but unknown yet
                close_quietly(greenlet.args[0])
        if self._sweeper is not None:
            self._sweeper.stop()

    def reload(self) -> None:
        """Read certificates and secrets again, for new connections.

        If the files can't be used, one line is logged and the current ones are kept.
        """
        self._handshake.reload(self.settings)

    def serve_forever(self) -> None:
        """Start, and serve until SIGINT, SIGTERM or ``stop()``; then drain and return.

        A second signal, or SIGQUIT, cuts the drain short. SIGHUP calls ``reload()``. systemd is
        notified. Outside of the main thread no signal handlers are installed.

        Raises:
            OSError, SettingsError, RuntimeError: as for ``start``.
        """
        self.start()
        if self.settings.workers > 1:
            log.warning("workers: one process serves here; gtcp serve --workers starts several")
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                self._supervision = Supervision(self.stop, lambda: self.stop(0), self.reload)
                stack.enter_context(self._supervision)
            try:
                log.info("%s", self.describe())  # last: its reader may send a signal immediately
                self._done.wait()
            finally:
                self.stop()

    def describe(self) -> str:
        """Return one line with the addresses, the number of commands and the process id.

        Returns:
            str: as ``gtcp serve`` prints it at start.
        """
        count = len(self.commands)
        plural = "" if count == 1 else "s"
        return (
            f"gtcp: listening on {', '.join(self.addresses) or 'nothing'}, "
            f"{count} command{plural}, pid {os.getpid()}"
        )

    def _prepare(
        self, context: Context, listeners: Iterable[socket.socket] | None, folder: Path | None
    ) -> list[socket.socket]:
        """Start what serves beside the listeners; return the sockets to accept from."""
        self.commands.hooks.start()
        if context.metrics is not None:
            context.operations = start_operations(context, context.metrics, folder)
        sockets = as_settings_error(lambda: self._sockets(listeners))
        try:
            context.exposed = is_exposed(context, sockets)
            context.registered = Registered(self.settings.register, sockets)
        except SettingsError:
            for each in () if listeners is not None else sockets:
                each.close()
            raise
        return sockets

    def _sockets(self, given: Iterable[socket.socket] | None) -> list[socket.socket]:
        return to_accept_from(self.settings, given, self._handshake.get().knows_peers)

    def _is_flooded(self) -> bool:
        """Return whether connections are closed without a word: none can be admitted or told."""
        return self._context is None or self._context.is_flooded

    def _drain(self, context: Context, until: float) -> None:
        """Take no more calls, and wait for those in flight."""
        context.draining = self.health.draining = True
        if context.metrics is not None:
            context.metrics.drains += 1
        limit = max(0.0, until - monotonic())
        self.leave(wait=limit > 0)
        assert self._admission is not None
        self._admission.finish(min(limit, ENTER_SECONDS))
        for connection in self.connections:
            connection.go_away()
        wait_until_empty(context, until)

    def _end(self, context: Context) -> None:
        assert self._sweeper is not None
        self._sweeper.stop()
        context.close()
        self._context = None
        self.health.draining = False
        self._run_on_stop()

    def _run_on_stop(self) -> None:
        self._stopping = True
        try:
            self.commands.hooks.stop()
        finally:
            self._stopping = False
            self._done.set()
