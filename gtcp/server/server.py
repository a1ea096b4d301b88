"""The server: one ``StreamServer`` per address, the connections, and the drain."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from time import monotonic
from typing import Any, Final, TypeVar

import gevent
from gevent.event import Event
from gevent.pool import Pool
from greenlet import getcurrent

from gtcp.arguments import check_seconds, checked_secrets, wrong_type
from gtcp.deadline import Carrier
from gtcp.errors import SettingsError
from gtcp.server import fork_hook
from gtcp.server.commands.registration import Registration
from gtcp.server.connections.context import Connections, Context
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.connections.scheduler import UnsupportedLoop
from gtcp.server.connections.sweeper import Sweeper
from gtcp.server.handshake.admission import Admission
from gtcp.server.handshake.steps import Handshake, make_handshake
from gtcp.server.listener import Listener, leave_all, to_accept_from
from gtcp.server.ops.logger import SERVER
from gtcp.server.process import forks
from gtcp.server.process.stop_signals import StopSignals
from gtcp.server.settings import Settings
from gtcp.transport.secret import Key, read_keys
from gtcp.transport.sockets import close_quietly

log = logging.getLogger(SERVER)

#: Seconds between two looks at what a drain still waits for.
DRAIN_POLL_SECONDS = 0.01

#: Seconds that a drain gives to peers that are just connecting.
ENTER_SECONDS = 0.5

#: Seconds that handlers which were cut get for their cleanup.
CUT_SECONDS = 1.0


class _Default:
    """A marker for "as the settings say"."""


_DEFAULT: Final = _Default()

V = TypeVar("V")


def _keys(secret: str | bytes | Iterable[str] | _Default | None) -> list[Key] | None:
    """The keys that were given; None for those of the settings."""
    if isinstance(secret, _Default):
        return None
    return [] if secret is None else read_keys(checked_secrets("secret", secret))


def _as_settings_error(function: Callable[[], V]) -> V:
    try:
        return function()
    except (ValueError, UnsupportedLoop) as exc:
        raise SettingsError(str(exc)) from exc


class Server(Registration):
    """Serves the commands registered on it.

    One server belongs to one process and one thread: the one that starts it. Handlers run
    in greenlets of that thread.

    Args:
        settings: where to listen and every limit; by default what the ``GTCP_*`` environment
            variables say, and the defaults for the rest.
        secret: what every peer must prove to know, "name:secret"; or several of them, while
            one replaces the other. By default those in the file ``settings.secret_file`` or
            in the environment variable GTCP_SECRET, if there are any; None for none.

    Raises:
        SettingsError: when an environment variable is not what it should be.
        TypeError: an argument has the wrong type; the message holds no secret.
        ValueError: a secret is too short or malformed; the message does not hold it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        secret: str | bytes | Iterable[str] | _Default | None = _DEFAULT,
    ) -> None:
        if settings is not None and not isinstance(settings, Settings):
            wrong_type("settings", "a gtcp.Settings or None", settings)
        self.settings = Settings.load() if settings is None else settings
        super().__init__()
        self._secret = _keys(secret)
        self._handshake: Handshake | None = None
        self._admission: Admission | None = None
        self._context: Context | None = None
        self._listeners: list[Listener] = []
        self._own_listeners = True
        self._sweeper: Sweeper | None = None
        self._greenlets: Any = ()
        self._hub: Any = None
        self._signals: StopSignals | None = None
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
        """Where it listens, with the real ports; empty when it does not."""
        return [str(listener.bound_address) for listener in self._listeners]

    @property
    def connections(self) -> Connections:
        """The open connections: each has address, since, handled and in_flight."""
        return Connections(self._context.connections if self._context else set())

    @property
    def handled(self) -> int:
        """Requests taken since it was started."""
        return self._context.handled if self._context else 0

    @property
    def started(self) -> bool:
        """Whether it serves, or drains."""
        return self._context is not None

    @property
    def has_secret(self) -> bool:
        """Whether the program itself has given it secrets that peers must prove."""
        return bool(self._secret)

    @property
    def in_flight(self) -> int:
        """Calls whose handlers are waiting for something at this moment."""
        return len(self._context.in_flight) if self._context else 0

    @property
    def cut_by(self) -> int | None:
        """The signal that cut the drain of ``serve_forever`` short; None if none did."""
        return None if self._signals is None else self._signals.cut_by

    def start(
        self,
        listeners: Iterable[socket.socket] | None = None,
        *,
        lead: Callable[[int], int] | None = None,
    ) -> None:
        """Listen and serve, in the background: the calling greenlet goes on.

        First the ``on_start`` functions are run. When one fails, or listening does, the ``on_stop``
        functions are run before the exception is raised.

        Args:
            listeners: listening sockets to use in place of the settings' addresses; they stay the
                caller's, who may share them with other processes.
            lead: given the number of this process's connections, returns how many more that is than
                the process with the fewest has: while it is positive, the others accept first.

        Raises:
            TypeError: ``listeners`` are not sockets.
            OSError: an address is in use or not permitted; nothing listens then.
            SettingsError: certificates or secrets can't be used, or none are set and other hosts
                could connect.
            RuntimeError: it is started already; or an ``on_start`` function failed, whose
                exception is the cause.
        """
        if self._context is not None or self._starting:
            raise RuntimeError("the server is started already")
        table = self.commands.table(self.settings.max_depth, self.settings.max_line_bytes)
        table.describe()  # encoded here, where nobody waits for it
        table.log_notices()
        self._handshake = _as_settings_error(self._make_handshake)
        context = _as_settings_error(lambda: Context(table, self.settings))
        self._starting = True
        try:
            self.commands.hooks.start()
            sockets = _as_settings_error(lambda: self._sockets(listeners))
        except BaseException:
            context.close()
            self.commands.hooks.stop()
            raise
        finally:
            self._starting = False
        self._own_listeners = listeners is None
        self._done = Event()  # an Event belongs to the hub of its thread
        self._context = context
        self._admission = Admission(context, self._current_handshake)
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

    def check(self, listeners: Iterable[socket.socket]) -> None:
        """Check that it could be started; ``on_start`` functions are not run.

        Raises:
            Exception: as for ``start``.
        """
        self.commands.table(self.settings.max_depth, self.settings.max_line_bytes)
        self._handshake = _as_settings_error(self._make_handshake)
        _as_settings_error(lambda: self._sockets(listeners))

    def leave(self, *, last: bool = False, wait: bool = True) -> None:
        """Accept no more connections; ``stop`` does the rest.

        Args:
            last: no other process accepts from the sockets that were given to ``start``.
            wait: accept connections that are just being opened.
        """
        listeners, self._listeners = self._listeners, []
        leave_all(listeners, own=self._own_listeners, last=last, wait=wait)

    def stop(self, timeout: float | None = None) -> None:
        """Drain and stop: returns when nothing is in flight any more, and ``on_stop`` has run.

        No more connections are accepted. Each client receives a line that says that requests
        without a reply did not run. Idle connections are closed, calls in flight are finished and
        answered.

        Args:
            timeout: seconds before what is still running is cancelled and its connections
                are reset; by default the setting ``graceful_timeout``. It does not limit
                ``on_stop`` functions, but another ``stop`` waits no longer for them.

        Raises:
            TypeError, ValueError: the timeout is no duration; the server goes on.
            RuntimeError: when a handler calls it, which would wait for itself:
                ``gevent.spawn(server.stop)`` is the way.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if isinstance(getcurrent(), Carrier):
            raise RuntimeError("a handler can't wait for the drain: gevent.spawn(server.stop)")
        context = self._context
        limit = self.settings.graceful_timeout if timeout is None else timeout
        if context is None:
            if self._stopping:
                self._done.wait(limit)
            self._done.set()  # for the copy of serve_forever() in a forked child
            return
        context.draining = True
        self.leave(wait=limit > 0)
        assert self._admission is not None
        self._admission.finish(min(limit, ENTER_SECONDS))
        for connection in self.connections:
            connection.go_away()
        self._wait_until_empty(context, monotonic() + limit)
        self._cut(context)
        if self._context is not context:  # another stop() was faster
            return
        assert self._sweeper is not None
        self._sweeper.stop()
        context.close()
        self._context = None
        self._run_on_stop()

    def leave_to_parent(self) -> None:
        """In a forked child: serve nobody. Listeners and connections are the parent's.

        Called by itself after ``os.fork``, if the server is started. Descriptors are closed without
        a word to the peers, and SIGINT and SIGTERM are no longer the server's."""
        context, self._context = self._context, None
        if context is None:
            return
        if self._signals is not None:
            self._signals.restore()
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
        """Read certificates and secrets again, for later connections.

        Open connections stay. When the files can't be used, one line is logged and the current
        certificates and secrets are kept.
        """
        try:
            self._handshake = self._make_handshake()
        except ValueError as exc:
            log.error("the old certificates and secrets are kept: %s", exc)
        else:
            log.info("certificates and secrets are read anew")

    def serve_forever(self) -> None:
        """Start, and serve until SIGINT or SIGTERM (or a ``stop()``); then drain and return.

        A second signal cuts the drain short. Where there are certificates or secrets,
        SIGHUP is ``reload()``. In a thread other than the main one signals are left
        alone.

        Raises:
            OSError: an address is in use or not permitted.
            SettingsError: as for ``start``.
        """
        self.start()
        if self.settings.workers > 1:
            log.warning("workers: one process serves here; gtcp serve --workers starts several")
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                self._signals = StopSignals(self.stop, lambda: self.stop(0))
                stack.enter_context(self._signals)
                if self._current_handshake().knows_peers:
                    stack.callback(gevent.signal_handler(signal.SIGHUP, self.reload).cancel)
            try:
                log.info("%s", self.describe())  # last: its reader may send a signal immediately
                self._done.wait()
            finally:
                self.stop()

    def describe(self) -> str:
        """One line: where it listens, how many commands, which process."""
        count = len(self.commands)
        plural = "" if count == 1 else "s"
        return (
            f"gtcp: listening on {', '.join(self.addresses) or 'nothing'}, "
            f"{count} command{plural}, pid {os.getpid()}"
        )

    def _make_handshake(self) -> Handshake:
        return make_handshake(self.settings, self._secret)

    def _current_handshake(self) -> Handshake:
        assert self._handshake is not None
        return self._handshake

    def _sockets(self, given: Iterable[socket.socket] | None) -> list[socket.socket]:
        return to_accept_from(self.settings, given, self._current_handshake().knows_peers)

    def _is_flooded(self) -> bool:
        """Return whether connections are closed without a word: none can be admitted or told."""
        context = self._context
        if context is None:
            return True
        return context.admitted >= context.max_connections and not context.may_linger

    def _wait_until_empty(self, context: Context, until: float) -> None:
        while context.busy and monotonic() < until:
            gevent.sleep(DRAIN_POLL_SECONDS)

    def _run_on_stop(self) -> None:
        self._stopping = True
        try:
            self.commands.hooks.stop()
        finally:
            self._stopping = False
            self._done.set()

    def _cut(self, context: Context) -> None:
        """End what is left: its callers see the connection break."""
        context.scheduler.find_blocked()  # also handlers that have just begun
        for connection in list(context.connections):
            connection.cut()
        context.in_flight.stop_all()
        self._wait_until_empty(context, monotonic() + CUT_SECONDS)
