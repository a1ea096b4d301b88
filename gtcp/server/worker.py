"""gtcp under gunicorn: the worker class, and the arbiter behind ``gtcp serve --workers N``.

gunicorn's master owns the listening sockets and the processes, a worker only serves::

    fork ──► patch ──► load the app ──► serve ──► drain ──► exit 0

What gunicorn is told goes before what the application's own ``Settings`` say: ``bind``,
``worker_connections`` (the setting ``max_connections``), ``graceful_timeout``, and
``accesslog``, which turns the access log on.

Signal handlers run in whatever greenlet is running: what may block is handed to another one.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

import gevent
import msgspec
from gevent import get_hub, hub, monkey
from gevent.event import Event
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer
from gunicorn.workers.base import Worker

from gtcp.address import of_peer
from gtcp.errors import SettingsError
from gtcp.server.exit_limit import limit_exit
from gtcp.server.forked import reset_signals
from gtcp.server.gunicorn_logs import GUNICORN_ACCESS, GUNICORN_ERROR, Logger, connect_logs
from gtcp.server.handshake import make_handshake
from gtcp.server.hooks import StartError
from gtcp.server.logger import SERVER
from gtcp.server.server import CUT_SECONDS, Server
from gtcp.server.settings import Settings
from gtcp.server.socket_file import SocketFile
from gtcp.sockets import adopt

__all__ = ["AppImportError", "GtcpWorker", "serve"]

log = logging.getLogger(SERVER)

#: Seconds between two heartbeats, and looks at the rest; gunicorn's shortest ``timeout`` is one.
BEAT_SECONDS = 0.5


class GtcpWorker(Worker):
    """Serves a ``gtcp.Server``: ``gunicorn -k gtcp.server.worker.GtcpWorker app:server``.

    One belongs to one process, made by gunicorn before it forks.

    Attributes:
        server: what it serves; None until the application is loaded, and while an application
            with a syntax error waits for its correction (with ``reload``).
    """

    server: Server | None = None

    @classmethod
    def check_config(cls, cfg: Any, logger: Any) -> None:
        """Called by gunicorn's master at start: say what will not be as one might expect.

        Raises:
            RuntimeError: with gunicorn's TLS settings, which HTTP workers alone heed.
        """
        if cfg.is_ssl:
            raise RuntimeError(
                "GtcpWorker does not heed certfile and keyfile: leave them out, and set gtcp's "
                "tls_cert and tls_key (GTCP_TLS_CERT, GTCP_TLS_KEY)"
            )
        if cfg.preload_app:
            logger.warning(
                "preload_app: the application is imported before gevent patches the standard "
                "library: what it takes out of a module (`from time import sleep`) will block"
            )
        if cfg.reuse_port:
            logger.warning(
                "reuse_port: connections that a worker has not accepted yet are lost when it stops"
            )

    # The life of a worker

    def init_process(self) -> None:
        """Patch before anything else, then load the application and serve it."""
        self._woken = Event()
        for each in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            # Until they are told otherwise, the master's handlers lose what comes here.
            signal.signal(each, self.handle_exit)
        self.patch()
        hub.reinit()
        os.register_at_fork(after_in_child=lambda: reset_signals(self, self.SIGNALS))
        # Detached: of two Python objects on one descriptor, one would close it too early.
        listeners: list[Any] = self.sockets
        self.sockets = [adopt(each.sock.detach()) for each in listeners]
        super().init_process()

    def patch(self) -> None:
        """Have the standard library cooperate with gevent."""
        monkey.patch_all()

    def load_wsgi(self) -> None:
        """Load the application.

        Raises:
            AppImportError: it is not a ``gtcp.Server``, or its settings are not what they should
                be; gunicorn then stops altogether.
        """
        try:
            super().load_wsgi()
        except SettingsError as exc:  # one line, and the end: it would be the same again
            raise AppImportError(str(exc)) from exc
        if isinstance(self.wsgi, Server):
            self.server = self.wsgi
        elif not self._waits_for_correction():
            kind = type(self.wsgi).__name__
            raise AppImportError(f"the application is not a gtcp.Server but of type {kind}")

    def run(self) -> None:
        """Serve until told to stop or ``max_requests`` are handled, then drain."""
        heart = get_hub().loop.timer(0, BEAT_SECONDS)
        heart.start(self.notify)  # in the hub: it tells the master that the hub is not blocked
        try:
            if self.alive:
                self._start()
            while self.alive:
                self._woken.wait(BEAT_SECONDS)
                self._look_around()
            self._drain()
        finally:
            heart.close()
            limit_exit()

    def _start(self) -> None:
        if self.server is None:
            return
        connect_logs()
        self.server.settings = self._settings(self.server.settings)
        try:
            self.server.start(self.sockets)
        except SettingsError as exc:  # one line, and the end: it would be the same again
            log.error("%s", exc)
            raise AppImportError(str(exc)) from exc
        except StartError as exc:  # one line, and gunicorn stops: it would try again for ever
            log.error("%s", exc)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        except Exception:
            self.booted = False  # or gunicorn would try again for ever
            raise
        self._say_ready(self.server)

    def _say_ready(self, server: Server) -> None:
        log.info("%s", server.describe())

    def _settings(self, own: Settings) -> Settings:
        """The application's settings, but for what gunicorn is told."""
        return msgspec.structs.replace(
            own,
            max_connections=self.cfg.worker_connections,
            access_log=own.access_log or bool(GUNICORN_ACCESS.handlers),
        )

    def _drain(self) -> None:
        """Finish what is in flight, within ``graceful_timeout``: then the master kills."""
        if self.server is None:
            return
        limit = self.cfg.graceful_timeout
        limit -= min(CUT_SECONDS, limit / 10)  # for the cleanup of handlers that are cut
        started = monotonic()
        self.server.stop(limit)
        if monotonic() - started >= limit > 0:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def _look_around(self) -> None:
        """Whether it is time to stop though no signal says so."""
        self.nr = self.server.handled if self.server else 0
        if self.nr >= self.max_requests:
            self.log.info("Autorestarting worker after %d requests.", self.nr)
            self.alive = False
        elif self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False

    def _waits_for_correction(self) -> bool:
        """Whether gunicorn's reloader has put a stand-in in the place of a broken application."""
        return bool(self.cfg.reload) and getattr(self.wsgi, "__module__", "") == "gunicorn.util"

    # Signals

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: drain and exit."""
        self.alive = False
        self._woken.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, SIGINT: exit without waiting for calls in flight."""
        gevent.spawn(self._quit)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """SIGUSR1: reopen the log files."""
        gevent.spawn(self.log.reopen_files)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the master has waited for a heartbeat for ``timeout`` seconds."""
        self.alive = False
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("Worker blocked (pid:%s) in:\n%s", self.pid, stack)
        self.cfg.worker_abort(self)
        # Raised here it would be the blocked handler's exception, and answered like one.
        main: Any = get_hub().parent
        main.throw(SystemExit(1))

    def _quit(self) -> None:
        self.alive = False
        try:
            self.cfg.worker_int(self)
        finally:
            if self.server is not None:
                self.server.stop(0)
            self._woken.set()


# gtcp serve --workers N


def serve(
    load: Callable[[], Server],
    settings: Settings,
    *,
    commands: int,
    reload: bool = False,
    patch: bool = True,
    timeout: int = 30,
) -> None:
    """Serve with ``settings.workers`` processes under gunicorn's master; does not return.

    SIGINT and SIGTERM drain, a second one cuts the drain short; the other signals are gunicorn's.
    The process itself must not be monkey-patched: gunicorn's master is not made for it.

    Args:
        load: called in each worker once it is patched; returns the server, whose own settings
            hold for each connection. An ``AppImportError`` ends everything with its message.
        settings: what concerns all workers: ``addresses``, ``workers``, ``backlog``,
            ``graceful_timeout``, ``log_level``.
        commands: how many the server has, for the line on stderr that says what listens where.
        reload: start the workers anew when a file of the application changes.
        patch: whether the workers patch the standard library for gevent.
        timeout: seconds after which a worker that does not respond is killed.

    Raises:
        SystemExit: at the end; 0 after a drain.
    """
    configuration = _configuration(settings, reload=reload, timeout=timeout)
    configuration["when_ready"] = _when_ready(settings, commands)
    _Application(load, configuration, patch, lambda: _check(settings)).run()


def _configuration(settings: Settings, *, reload: bool, timeout: int) -> dict[str, Any]:
    """gtcp's settings by the names of gunicorn's."""
    return {
        "bind": list(settings.addresses),
        "workers": settings.workers,
        "backlog": settings.backlog,
        "graceful_timeout": math.ceil(settings.graceful_timeout),
        "loglevel": settings.log_level.lower(),
        "timeout": timeout,
        "reload": reload,
        "worker_class": _ServeWorker,
        "default_proc_name": "gtcp",
        "umask": 0o777 & ~int(settings.unix_mode, 8),  # for the files of unix sockets
        "control_socket_disable": True,
        "logger_class": Logger,
    }


def _check(settings: Settings) -> None:
    """Raise ValueError if workers could not start, for want of a certificate or a secret."""
    make_handshake(settings, None)


def _when_ready(settings: Settings, commands: int) -> Callable[[Any], None]:
    """What gives the files of unix sockets their owner, and says what listens where."""
    file = SocketFile(int(settings.unix_mode, 8), settings.unix_owner, settings.unix_group)

    def when_ready(arbiter: Any) -> None:
        for each in arbiter.LISTENERS:
            if not isinstance(each.getsockname(), tuple):
                file.apply(each.getsockname())
        _announce(arbiter, commands)

    return when_ready


def _announce(arbiter: Any, commands: int) -> None:
    """What listens where; not a log line, it is there at any level. Connections are taken now."""
    where = ", ".join(_name(each) for each in arbiter.LISTENERS)
    parts = [where, _counted(commands, "command"), _counted(arbiter.num_workers, "worker")]
    sys.stderr.write(f"gtcp: listening on {', '.join(parts)}, pid {arbiter.pid}\n")
    sys.stderr.flush()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _name(listener: Any) -> str:
    name = listener.getsockname()
    return of_peer(name) if isinstance(name, tuple) else f"unix:{name}"


class _Application(BaseApplication):
    """What gunicorn asks for its configuration and for the server."""

    def __init__(
        self,
        load: Callable[[], Server],
        configuration: dict[str, Any],
        patch: bool,
        check: Callable[[], None],
    ) -> None:
        self._load = load
        self._configuration = configuration
        self.check = check
        self.patch = patch
        super().__init__(prog="gtcp serve")

    def load_config(self) -> None:
        """Called again on SIGHUP."""
        for name, value in self._configuration.items():
            if name in self.cfg.settings:  # older versions do not have all of them
                self.cfg.set(name, value)

    def load(self) -> Server:
        """Called in each worker."""
        return self._load()

    def run(self) -> None:
        """As gunicorn's, with our arbiter."""
        try:
            _Arbiter(self).run()
        except RuntimeError as exc:
            sys.exit(f"Error: {exc}")


class _Arbiter(Arbiter):
    """gunicorn's, but it drains on SIGINT too, and SIGUSR2 repeats `python -m gtcp` as typed."""

    def __init__(self, app: _Application) -> None:
        super().__init__(app)
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]

    def reload(self) -> None:
        """Replace the workers; but not by ones that could not start, for want of a certificate."""
        app: Any = self.app
        try:
            app.check()
        except ValueError as exc:
            GUNICORN_ERROR.error("gtcp: the old workers are kept: %s", exc)
        else:
            super().reload()

    def handle_int(self) -> None:
        """Drain and exit."""
        self.handle_term()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End; when one worker after another fails to load the application, too."""
        while True:
            try:
                super().halt(reason, exit_status)
            except HaltServer as exc:
                reason, exit_status = exc.reason, exc.exit_status


class _ServeWorker(GtcpWorker):
    """One that is told by gtcp's settings, and drains on SIGINT: Ctrl-C reaches it too."""

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGINT, self.handle_exit)

    def patch(self) -> None:
        app: Any = self.app
        if app.patch:
            super().patch()

    def _settings(self, own: Settings) -> Settings:
        return own

    def _say_ready(self, server: Server) -> None:
        """The master has said where."""
        log.info("worker is ready, pid %d", self.pid)
