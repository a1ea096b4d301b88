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

from gtcp.server.ops.logger import SERVER
from gtcp.server.process.socket_file import SocketFile
from gtcp.server.server import Server
from gtcp.server.settings import Settings
from gtcp.server.worker import GtcpWorker
from gtcp.server.workers.arbiter import GtcpArbiter
from gtcp.server.workers.gunicorn_logs import Logger
from gtcp.server.workers.reload_check import Verdict
from gtcp.transport.address import of_peer

__all__ = ["AppImportError", "serve"]

log = logging.getLogger(SERVER)

#: Settings that take effect when the master starts only: it makes the listening sockets.
AT_START_ONLY = ("host", "port", "bind", "backlog", "unix_mode", "unix_owner", "unix_group")


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
            ``graceful_timeout``, ``log_level``. At SIGHUP those of the new server take their
            place, but for ``addresses``, ``backlog`` and the permissions of unix sockets.
        commands: how many the server has, for the line on stderr that says what listens where.
        reload: start the workers anew when a file of the application changes.
        patch: whether the workers patch the standard library for gevent.
        timeout: seconds after which a worker that does not respond is killed.

    Raises:
        SystemExit: at the end; 0 after a drain.
    """
    options = {
        "worker_class": _ServeWorker,
        "default_proc_name": "gtcp",
        "timeout": timeout,
        "reload": reload,
        "control_socket_disable": True,
        "logger_class": Logger,
        "when_ready": _when_ready(settings, commands),
    }
    _Application(load, settings, options, patch=patch).run()


def _configuration(settings: Settings) -> dict[str, Any]:
    """gtcp's settings by the names of gunicorn's."""
    return {
        "bind": list(settings.addresses),
        "workers": settings.workers,
        "backlog": settings.backlog,
        "graceful_timeout": math.ceil(settings.graceful_timeout),
        "loglevel": settings.log_level.lower(),
        "umask": 0o777 & ~int(settings.unix_mode, 8),  # for the files of unix sockets
    }


def _directory() -> str:
    """Return the current directory by the name it was entered with.

    That may be a symbolic link to a release, which another one replaces before SIGHUP.
    """
    name, here = os.environ.get("PWD", ""), os.getcwd()
    return name if os.path.isabs(name) and os.path.realpath(name) == here else here


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
    """What gunicorn asks for its configuration and for the server.

    Attributes:
        settings: those in effect.
    """

    def __init__(
        self,
        load: Callable[[], Server],
        settings: Settings,
        options: dict[str, Any],
        *,
        patch: bool,
    ) -> None:
        self._load = load
        self.settings = settings
        self._options = options
        self.patch = patch
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
        """As gunicorn's, with our arbiter."""
        try:
            _Arbiter(self).run()
        except RuntimeError as exc:
            sys.exit(f"Error: {exc}")


class _Arbiter(GtcpArbiter):
    """One that drains on SIGINT too; SIGUSR2 repeats `python -m gtcp` as typed."""

    def __init__(self, app: _Application) -> None:
        super().__init__(app)
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]

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
    """One that is told by gtcp's settings, and drains on SIGINT: Ctrl-C reaches it too."""

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGINT, self.handle_exit)

    def patch(self) -> None:
        app: Any = self.app
        if app.patch:
            super().patch()

    def _settings(self, own: Settings) -> Settings:
        """The application's settings, but for what only a restart changes."""
        app: Any = self.app
        in_effect = {name: getattr(app.settings, name) for name in AT_START_ONLY}
        return msgspec.structs.replace(own, **in_effect)

    def _say_ready(self, server: Server) -> None:
        """The master has said where."""
        log.info("worker is ready, pid %d", self.pid)
