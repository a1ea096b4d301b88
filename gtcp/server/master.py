"""``gtcp serve --workers N``: gtcp's arbiter and worker, told by gtcp's settings."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from gunicorn.app.base import BaseApplication
from gunicorn.errors import AppImportError

from gtcp.server.ops.log_setup import STDERR, show_access_log
from gtcp.server.ops.logger import SERVER
from gtcp.server.process.pid_file import PidFile
from gtcp.server.server import Server
from gtcp.server.settings import Settings
from gtcp.server.worker import GtcpWorker
from gtcp.server.workers.arbiter import GtcpArbiter
from gtcp.server.workers.gunicorn_logs import Logger, configure_from
from gtcp.server.workers.reload_check import Verdict
from gtcp.server.workers.shared_socket import SharedSocket, keep_for_successor, make_sockets

__all__ = ["AppImportError", "serve"]

log = logging.getLogger(SERVER)

#: Settings that take effect when the master starts only: it makes the listening sockets and opens
#: the log file.
AT_START_ONLY = (
    "host",
    "port",
    "bind",
    "backlog",
    "log_file",
    "log_format",
    "log_config",
    "unix_mode",
    "unix_owner",
    "unix_group",
)


def serve(
    load: Callable[[], Server],
    settings: Settings,
    *,
    commands: int,
    loopback_only: bool = True,
    reload: bool = False,
    patch: bool = True,
    timeout: int = 30,
    pid_file: PidFile | None = None,
) -> None:
    """Serve with ``settings.workers`` processes under gunicorn's master; does not return.

    SIGINT and SIGTERM drain, a second one cuts the drain short; the other signals are gunicorn's.
    The process itself must not be monkey-patched: gunicorn's master is not made for it.

    Args:
        load: called in each worker once it is patched; returns the server, whose own settings
            hold for each connection. An ``AppImportError`` ends everything with its message.
        settings: what concerns all workers: ``addresses``, ``workers``, ``backlog``,
            ``graceful_timeout``, ``log_level``. At SIGHUP those of the new server take their
            place, but for ``addresses``, ``backlog`` and the permissions of unix sockets.
        commands: how many the server has, for the line on stderr that says what listens where.
        loopback_only: refuse addresses that other hosts can reach.
        reload: start the workers anew when a file of the application changes.
        patch: whether the workers patch the standard library for gevent.
        timeout: seconds after which a worker that does not respond is killed.
        pid_file: gets the master's process id while it serves.

    Raises:
        Exposed, OSError: it can't listen on one of the addresses; nothing was started.
        SettingsError: logging can't be configured.
        SystemExit: at the end; 0 after a drain.
    """
    sockets = make_sockets(settings, loopback_only=loopback_only)

    def when_ready(arbiter: Any) -> None:
        if pid_file is not None:
            pid_file.lock(arbiter.pidfile.fname)
        _announce(arbiter, commands)

    options = {
        "worker_class": _ServeWorker,
        "default_proc_name": "gtcp",
        "timeout": timeout,
        "reload": reload,
        "control_socket_disable": True,
        "logger_class": type("Logger", (Logger,), _logging(settings)),
        "pidfile": None if pid_file is None else pid_file.path,
        "when_ready": when_ready,
        "pre_exec": keep_for_successor,
    }
    _Application(load, settings, sockets, options, patch=patch, pid_file=pid_file).run()


def _logging(settings: Settings) -> dict[str, object]:
    return {"log_config": settings.log_config, "as_json": settings.log_format == "json"}


def _configuration(settings: Settings) -> dict[str, Any]:
    """gtcp's settings by the names of gunicorn's."""
    return {
        "bind": list(settings.addresses),
        "workers": settings.workers,
        "backlog": settings.backlog,
        "graceful_timeout": math.ceil(settings.graceful_timeout),
        "loglevel": settings.log_level.lower(),
        "errorlog": settings.log_file or STDERR,
    }


def _directory() -> str:
    """Return the current directory by the name it was entered with.

    That may be a symbolic link to a release, which another one replaces before SIGHUP.
    """
    name, here = os.environ.get("PWD", ""), os.getcwd()
    return name if os.path.isabs(name) and os.path.realpath(name) == here else here


def _announce(arbiter: Any, commands: int) -> None:
    """Print the addresses. It is not a log line, so that it appears at every log level."""
    where = ", ".join(map(str, arbiter.LISTENERS))
    parts = [where, _counted(commands, "command"), _counted(arbiter.num_workers, "worker")]
    sys.stderr.write(f"gtcp: listening on {', '.join(parts)}, pid {arbiter.pid}\n")
    sys.stderr.flush()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class _Application(BaseApplication):
    """The application that gunicorn asks for its configuration and for the server.

    Attributes:
        settings: those in effect.
        sockets: what the workers accept from.
    """

    def __init__(
        self,
        load: Callable[[], Server],
        settings: Settings,
        sockets: list[SharedSocket],
        options: dict[str, Any],
        *,
        patch: bool,
        pid_file: PidFile | None = None,
    ) -> None:
        self._load = load
        self.settings = settings
        self.sockets = sockets
        self._options = options
        self.patch = patch
        self.pid_file = pid_file
        self._directory = _directory()
        super().__init__(prog="gtcp serve")

    def load_config(self) -> None:
        """Called again on SIGHUP."""
        os.chdir(self._directory)
        for name, value in {**self._options, **_configuration(self.settings)}.items():
            if name in self.cfg.settings:  # older versions do not have all of them
                self.cfg.set(name, value)

    def change(self, settings: Settings) -> list[str]:
        """Have these settings in effect; return the names of those that need a restart."""
        kept = {name: getattr(self.settings, name) for name in AT_START_ONLY}
        changed = [name for name, value in kept.items() if getattr(settings, name) != value]
        self.settings = msgspec.structs.replace(settings, **kept)
        return changed

    def load(self) -> Server:
        """Called in each worker."""
        return self._load()

    def run(self) -> None:
        """Run gunicorn with gtcp's arbiter."""
        try:
            _Arbiter(self).run()
        except RuntimeError as exc:
            sys.exit(f"Error: {exc}")


class _Arbiter(GtcpArbiter):
    """An arbiter that drains at SIGINT too, and that repeats `python -m gtcp` at SIGUSR2."""

    def __init__(self, app: _Application) -> None:
        super().__init__(app)
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._set_listeners(app.sockets)  # gunicorn makes none then
        self.has_passed_sockets = any(each.passed for each in app.sockets)

    def _set_listeners(self, sockets: list[SharedSocket]) -> None:
        arbiter: Any = self  # the stubs know gunicorn's sockets only
        arbiter.LISTENERS = list(sockets)

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers; the files of unix sockets that were passed stay."""
        for each in self.LISTENERS:
            each.close()
            if self.reexec_pid == self.master_pid == 0:
                each.remove_file()
        self._set_listeners([])
        super().stop(graceful)

    def maybe_promote_master(self) -> None:
        """Take over from the first master when it has exited, with its PID file."""
        was_second = self.master_pid
        super().maybe_promote_master()
        app: Any = self.app
        if was_second and not self.master_pid and app.pid_file is not None:
            app.pid_file.lock(app.pid_file.path)  # gunicorn has written a new one

    def may_be_last(self) -> bool:
        """Return whether no other process accepts from the sockets after this one's workers."""
        return super().may_be_last() and not self.has_passed_sockets

    def apply_settings(self, verdict: Verdict) -> list[str]:
        """Take what the application's settings say now, but for where it listens."""
        app: Any = self.app
        assert verdict.settings is not None
        changed: list[str] = app.change(verdict.settings)
        return changed

    def handle_int(self) -> None:
        """Drain and exit."""
        self.handle_term()


class _ServeWorker(GtcpWorker):
    """A worker with gtcp's settings. It drains at SIGINT, since Ctrl-C reaches it too."""

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGINT, self.handle_exit)

    def patch(self) -> None:
        app: Any = self.app
        if app.patch:
            super().patch()

    def load_wsgi(self) -> None:
        """Load the application; before that, configure logging if a file says how."""
        app: Any = self.app
        if app.settings.log_config is not None:
            try:
                configure_from(app.settings.log_config)
            except ValueError as exc:
                raise AppImportError(f"log_config: {exc}") from exc
        super().load_wsgi()

    def _connect_logs(self) -> None:
        app: Any = self.app
        if app.settings.log_config is None:
            super()._connect_logs()
        else:
            show_access_log()

    def _settings(self, own: Settings) -> Settings:
        """The application's settings, but for what only a restart changes."""
        app: Any = self.app
        in_effect = {name: getattr(app.settings, name) for name in AT_START_ONLY}
        return msgspec.structs.replace(own, **in_effect)

    def _say_ready(self, server: Server) -> None:
        """The master has said where."""
        log.info("worker is ready, pid %d", self.pid)
