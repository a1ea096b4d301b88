"""gtcp under gunicorn: the worker class.

gunicorn's master owns the listening sockets and the processes, a worker only serves::

    fork ──► patch ──► load the app ──► serve ──► drain ──► exit 0

Master and worker also tell each other things in shared memory (``board``): the worker that it
serves, how many connections it has, and that it should be replaced; the master how often it has
sent SIGTERM.

gunicorn's settings take precedence over the application's own ``Settings``: ``bind``,
``worker_connections`` (the setting ``max_connections``), ``graceful_timeout``, and
``accesslog``, which turns the access log on.

Signal handlers run in whatever greenlet is running: what may block is handed to another one.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from time import monotonic
from types import FrameType
from typing import Any

import gevent
import msgspec
from gevent import get_hub, hub
from gevent.event import Event
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.util import set_owner_process
from gunicorn.workers.base import Worker

from gtcp.errors import SettingsError
from gtcp.patching import patch_all
from gtcp.server.commands.hooks import StartError
from gtcp.server.draining import CUT_SECONDS
from gtcp.server.ops.logger import SERVER
from gtcp.server.process.exit_limit import limit_exit
from gtcp.server.process.forks import reset_signals
from gtcp.server.process.systemd import VARIABLES
from gtcp.server.server import Server
from gtcp.server.settings import Settings
from gtcp.server.workers import gunicorn_settings
from gtcp.server.workers.arbiter import adopt as adopt_arbiter
from gtcp.server.workers.board import Board
from gtcp.server.workers.gunicorn_logs import GUNICORN_ACCESS, connect_logs
from gtcp.transport.sockets import adopt

__all__ = ["AppImportError", "GtcpWorker"]

log = logging.getLogger(SERVER)

#: Seconds between two heartbeats, and looks at the rest; gunicorn's shortest ``timeout`` is one.
BEAT_SECONDS = 0.5

#: Seconds that a worker which got SIGTERM waits for the master's, and between two looks.
MASTER_SECONDS, MASTER_POLL_SECONDS = 1.0, 0.005

#: What an application names when it is a module only: `gunicorn app`.
DEFAULT_ATTRIBUTE = "server"


class GtcpWorker(Worker):
    """Serves a ``gtcp.Server``: ``gunicorn -k gtcp.server.worker.GtcpWorker app:server``.

    One belongs to one process, made by gunicorn before it forks.

    Attributes:
        server: what it serves; None until the application is loaded, and while an application
            with a syntax error waits for its correction (with ``reload``).
    """

    server: Server | None = None

    @classmethod
    def setup(cls) -> None:
        """Called by gunicorn's master when it loads the class, before it says that it is ready.

        That would be before the first worker is: the arbiter says so instead (``Notifier``).
        """
        for name in VARIABLES:
            os.environ.pop(name, None)

    @classmethod
    def check_config(cls, cfg: Any, logger: Any) -> None:
        """Check gunicorn's settings; called by its master at start.

        Raises:
            RuntimeError: with settings that would be relied on and have no effect, such as TLS.
        """
        gunicorn_settings.refuse(cfg)
        for line in gunicorn_settings.warnings(cfg):
            logger.warning("%s", line)
        hook = cfg.when_ready

        def when_ready(arbiter: Any) -> None:
            adopt_arbiter(arbiter)  # gunicorn calls this next, and no worker has started
            hook(arbiter)

        cfg.set("when_ready", when_ready)

    def __init__(self, age: int, ppid: int, sockets: list[Any], app: Any, *others: Any) -> None:
        super().__init__(age, ppid, sockets, app, *others)
        # An arbiter of another class has no board, and does not replace a worker before it ends.
        self._supervised = hasattr(app, "gtcp_board")
        self.board: Board = app.gtcp_board if self._supervised else Board()
        self.row = self.board.take()
        self.outdated = False  # in the master: whether it is being replaced
        self._stop_signals = 0

    # The life of a worker

    def init_process(self) -> None:
        """Patch before anything else, then load the application and serve it."""
        self._woken = Event()
        for each in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            # Until they are replaced, the master's handlers would lose these signals.
            signal.signal(each, self.handle_exit)
        self._prepare()
        os.register_at_fork(after_in_child=lambda: reset_signals(self, self.SIGNALS))
        # Detached: of two Python objects on one descriptor, one would close it too early.
        listeners: list[Any] = self.sockets
        self.sockets = [adopt(each.sock.detach()) for each in listeners]
        super().init_process()

    def _prepare(self) -> None:
        """Make of a fork of the master a process that can load the application."""
        self.patch()
        hub.reinit()
        importlib.invalidate_caches()  # the release may be another one since the master started

    def look(self) -> Settings:
        """Load the application and check that it could be served; return its settings.

        Called instead of ``init_process``, in a child that ends afterwards.

        Raises:
            Exception: what would keep a worker from starting.
        """
        gunicorn_settings.refuse(self.cfg)
        os.environ.update(self.cfg.env)
        set_owner_process(self.cfg.uid, self.cfg.gid, initgroups=self.cfg.initgroups)
        self._prepare()
        self.load_wsgi()
        if self.server is None:
            raise AppImportError("the application has a syntax error")
        settings = self.server.settings
        self.server.settings = self._settings(settings)
        listeners: list[Any] = self.sockets
        self.server.check([each.sock for each in listeners])
        return settings

    def patch(self) -> None:
        """Have the standard library cooperate with gevent."""
        patch_all()

    def load_wsgi(self) -> None:
        """Load the application.

        Raises:
            AppImportError: it is not a ``gtcp.Server``, or its settings are not what they should
                be; gunicorn then stops altogether.
        """
        app: Any = self.app
        uri = getattr(app, "app_uri", None)
        if uri and ":" not in uri and not self.cfg.paste:
            app.app_uri = f"{uri}:{DEFAULT_ATTRIBUTE}"  # gunicorn's default is "application"
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
            if self.alive or self.row.last:  # else connections in the accept queue would be reset
                self._start()
            while self.alive:
                self._woken.wait(BEAT_SECONDS)
                self._look_around()
            self._hear_master()
            self._drain()
        finally:
            heart.close()
            limit_exit()

    def _start(self) -> None:
        if self.server is None:
            return
        self._connect_logs()
        self.server.settings = self._settings(self.server.settings)
        try:
            folder = getattr(self.app, "gtcp_metrics_folder", None)
            self.server.start(self.sockets, lead=self._lead, metrics_folder=folder)
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
        self.row.serving = 1
        if self.row.stop_requests:  # the signal may have arrived before its handler was set
            self.alive = False

    def _lead(self, connections: int) -> int:
        """Return how many connections more this worker has than the one that has fewest."""
        self.row.connections = connections
        return self.board.lead(self.row)

    def _connect_logs(self) -> None:
        """Send log lines where gunicorn's go; called when the application is loaded."""
        connect_logs()

    def _say_ready(self, server: Server) -> None:
        log.info("%s", server.describe())

    def _settings(self, own: Settings) -> Settings:
        """Return the application's settings, with those of gunicorn in their place."""
        return msgspec.structs.replace(
            own,
            max_connections=self.cfg.worker_connections,
            access_log=own.access_log or bool(GUNICORN_ACCESS.handlers),
        )

    def _hear_master(self) -> None:
        """Serve until the master has said whether others go on, if that is to be expected.

        A supervisor or a terminal may signal the master and its workers, in any order. When none
        goes on, connections in the accept queue have to be taken before the sockets are closed.
        """
        until = monotonic() + MASTER_SECONDS
        while self._stop_signals and self._supervised and not self.row.stop_requests:
            if self.ppid != os.getppid() or monotonic() > until:
                break
            gevent.sleep(MASTER_POLL_SECONDS)

    def _drain(self) -> None:
        """Finish what is in flight, within ``graceful_timeout``: then the master kills."""
        if self.server is None:
            return
        limit = self.cfg.graceful_timeout
        limit -= min(CUT_SECONDS, limit / 10)  # for the cleanup of handlers that are cut
        started = monotonic()
        if self.row.last:
            self.server.announce_drain(limit)
        self.row.serving = 0
        is_last = self.board.is_last(self.row) and bool(self.row.last)
        self.server.leave(last=is_last or self.cfg.reuse_port)
        for each in self.sockets:
            each.close()  # when the last worker has, connections are refused
        self.server.stop(max(0.0, started + limit - monotonic()))
        if monotonic() - started >= limit > 0:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def _look_around(self) -> None:
        """Stop if there is a reason other than a signal."""
        if self.server is not None:
            self.nr = self.server.handled
            self.row.connections = len(self.server.connections)
        if self.nr >= self.max_requests and not self.row.wants_replacement:
            self.log.info("Autorestarting worker after %d requests.", self.nr)
            self.row.wants_replacement = 1
            self.alive = self._supervised  # goes on until the master has replaced it
        elif self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False

    def _waits_for_correction(self) -> bool:
        """Return whether gunicorn's reloader has replaced a broken application by a stand-in."""
        return bool(self.cfg.reload) and getattr(self.wsgi, "__module__", "") == "gunicorn.util"

    # Signals

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: drain and exit; a second one cuts the drain short.

        The master's do not count: a supervisor may signal the whole process group as well.
        """
        self.alive = False
        self._stop_signals += 1
        self._woken.set()
        if self._supervised and self._stop_signals - self.row.stop_requests > 1:
            self.handle_quit(sig, frame)

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
