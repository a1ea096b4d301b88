"""gunicorn's arbiter, which is its master process, with planned stops that lose no call.

``gtcp serve --workers N`` uses it. ``gunicorn -k gtcp.server.worker.GtcpWorker`` makes an arbiter
of its own, of which ``adopt`` makes one of these before the first worker starts: that is the one
place where gtcp changes something of gunicorn's. What is different:

- New workers accept connections before the old ones drain, on SIGHUP and after ``max_requests``.
- On SIGHUP a child loads the configuration and the application first. When that fails, one line
  is logged and the old workers stay.
- Once a worker has served, one that can't start is started again after a pause; gunicorn's arbiter
  would stop the service.
- What SIGHUP can't change is named in one line, and stays as it is.
- A second SIGTERM cuts the drain short.
- Log lines do not wait for a reader of stderr.
- systemd is told that the service is ready when all workers accept connections.
"""

from __future__ import annotations

import os
import shutil
import signal
from time import monotonic
from types import FrameType
from typing import Any, ClassVar

from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from gtcp.server.admin.slots import VARIABLE, new_folder
from gtcp.server.process.systemd import Notifier
from gtcp.server.settings import Settings
from gtcp.server.workers.board import Board
from gtcp.server.workers.gunicorn_logs import do_not_wait_for_readers
from gtcp.server.workers.reload_check import ReloadCheck, Verdict

_util: Any = util  # the stubs leave out what is private

#: Seconds to pause after a worker that could not start; doubled each time, up to the second.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 30.0

#: Seconds between two looks at workers that start.
POLL_SECONDS = 0.05

#: Settings of gunicorn that take effect when the master starts only.
AT_START_ONLY = frozenset(
    [
        "backlog",
        "bind",
        "control_socket",
        "control_socket_disable",
        "control_socket_mode",
        "daemon",
        "dirty_apps",
        "dirty_workers",
        "enable_stdio_inheritance",
        "group",
        "logger_class",
        "pidfile",
        "pythonpath",
        "reuse_port",
        "statsd_host",
        "umask",
        "user",
        "worker_class",
    ]
)


def adopt(arbiter: Any) -> None:
    """Make a ``GtcpArbiter`` of gunicorn's own arbiter, before it starts workers."""
    if isinstance(arbiter, GtcpArbiter):
        return
    kind: type = type(arbiter)
    if kind is not Arbiter:
        arbiter.log.warning(
            "gtcp: the arbiter is a %s: planned restarts are gunicorn's, which lose calls",
            kind.__name__,
        )
        return
    arbiter.__class__ = GtcpArbiter
    arbiter.prepare(arbiter.app)
    arbiter.init_signals()  # the handlers are methods of the old class


class GtcpArbiter(Arbiter):
    """The master of gtcp's workers. Belongs to its process, which is not monkey-patched.

    Attributes:
        board: what it shares with its workers; they find it as ``app.gtcp_board``.
    """

    # As the stubs have them, but with workers that are gtcp's, and after __init__.
    WORKERS: ClassVar[dict[int, Any]]
    log: Any

    def __init__(self, app: Any) -> None:
        self.prepare(app)
        super().__init__(app)

    def prepare(self, app: Any) -> None:
        """Set what gunicorn's arbiter does not have."""
        self.board = app.gtcp_board = Board()
        self._metrics_folder = app.gtcp_metrics_folder = new_folder()
        do_not_wait_for_readers()  # again after each setup, which makes new handlers
        self.notifier = Notifier(app.cfg.env_orig)
        self._says_ready = True  # when all workers serve
        self._check: ReloadCheck | None = None
        self._has_served = self._stopping = False
        self._youngest = 0  # the age, a number that grows, of the youngest that has served
        self._failures = 0
        self._next_start = 0.0

    def setup(self, app: Any) -> None:
        """Apply the configuration."""
        super().setup(app)
        do_not_wait_for_readers()

    # The workers

    def manage_workers(self) -> None:
        """Start workers, and retire those that others have replaced."""
        self.board.keep([worker.row for worker in self.WORKERS.values()])
        self._finish_check()
        workers = sorted(self.WORKERS.values(), key=lambda worker: worker.age)
        for worker in workers:
            worker.outdated = worker.outdated or bool(worker.row.wants_replacement)
        current = [each for each in workers if not each.outdated and not each.row.stop_requests]
        serving = [each for each in current if each.row.serving]
        youngest = serving[-1].age if serving else 0
        if youngest > self._youngest:
            self._youngest, self._failures, self._has_served = youngest, 0, True
        if len(serving) >= self.num_workers:
            self._retire([each for each in workers if each.outdated])
            if self._says_ready and self._check is None:
                self.notifier.ready()
                self._says_ready = False
        self._retire([each for each in workers if each.outdated and not each.row.serving])
        self._retire(current[: max(0, len(current) - self.num_workers)])
        if monotonic() >= self._next_start:
            for _ in range(self.num_workers - len(current)):
                self.spawn_worker()

    def _retire(self, workers: list[Any]) -> None:
        for worker in workers:
            if not worker.row.stop_requests:
                self.kill_worker(worker.pid, signal.SIGTERM)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a worker; SIGTERM is also noted where the worker sees it."""
        worker: Any = self.WORKERS.get(pid)
        if worker is not None and sig == signal.SIGTERM:
            worker.row.stop_requests += 1
        super().kill_worker(pid, sig)

    def reap_workers(self) -> None:
        """Collect workers that have ended. One that could not start is started again later.

        Raises:
            HaltServer: it could not start, and none has served yet.
        """
        before = dict(self.WORKERS)
        while True:
            try:
                super().reap_workers()
                break
            except HaltServer:
                if not (self._has_served or any(each.row.serving for each in before.values())):
                    raise
                self._drop_ended()
        for pid in before.keys() - self.WORKERS.keys():
            self._note_end(before[pid])

    def _drop_ended(self) -> None:
        """Forget workers whose status was collected; gunicorn 25 raises before it does that."""
        for pid in list(self.WORKERS):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                del self.WORKERS[pid]

    def _note_end(self, worker: Any) -> None:
        if worker.row.serving or worker.row.stop_requests or self._stopping:
            return
        seconds = min(RETRY_SECONDS * 2**self._failures, MAX_RETRY_SECONDS)
        self._failures += 1
        self._next_start = monotonic() + seconds
        self.log.error(
            "gtcp: worker %s could not start; the next attempt is in %g s", worker.pid, seconds
        )

    # Signals

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Queue a signal. While the service drains, SIGTERM ends the drain as SIGQUIT does."""
        super().signal(signal.SIGQUIT if self._stopping and sig == signal.SIGTERM else sig, frame)

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        """Return the signals received; look more often while something is under way."""
        outdated = any(each.outdated for each in self.WORKERS.values())
        waiting = self._says_ready or outdated or len(self.WORKERS) < self.num_workers
        self.notifier.alive()
        if waiting:
            timeout = POLL_SECONDS
        elif self.notifier.watchdog_seconds is not None:
            timeout = min(timeout or 1.0, self.notifier.watchdog_seconds / 4)
        signals: list[int] = super().wait_for_signals(timeout)
        return signals

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers, which close the listening sockets when they begin to drain."""
        self._stopping = True
        self._end_check()
        if self.reexec_pid:
            self.notifier.succeeded_by(self.reexec_pid)
        elif not self.master_pid:
            self.notifier.stopping()
        for worker in self.WORKERS.values():
            worker.row.last = int(self.may_be_last())
        super().stop(graceful)
        if VARIABLE not in os.environ:  # else the folder is the application's
            shutil.rmtree(self._metrics_folder, ignore_errors=True)

    def may_be_last(self) -> bool:
        """Return whether no other process accepts from the sockets after this one's workers."""
        return self.reexec_pid == self.master_pid == 0 and not self.systemd

    def reexec(self) -> None:
        """Start a second master, which gets what this one's environment said about systemd."""
        self.cfg.env_orig.update(self.notifier.variables)
        self.cfg.env_orig.pop("WATCHDOG_PID", None)  # it is this process's
        super().reexec()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End the service, even if a worker that can't load the application interrupts this."""
        while True:
            try:
                super().halt(reason, exit_status)
            except HaltServer as exc:
                reason, exit_status = exc.reason, exc.exit_status

    # SIGHUP

    def reload(self) -> None:
        """Replace the workers, as soon as a child has found that new ones can start."""
        self._end_check()  # files have changed since
        self.notifier.reloading()
        self._says_ready = True
        self._check = ReloadCheck(self._look, [*self.SIGNALS, signal.SIGCHLD])

    def _look(self) -> Settings:
        """Load the new configuration and application; called in the child."""
        app: Any = self.app
        app.gtcp_board = Board()  # the child is no worker: the workers' board stays as it is
        app.reload()
        make: Any = app.cfg.worker_class
        worker = make(0, self.pid, self.LISTENERS, app, self.timeout, app.cfg, self.log)
        settings: Settings = worker.look()
        return settings

    def _finish_check(self) -> None:
        verdict = None if self._check is None else self._check.verdict()
        if verdict is None:
            return
        self._end_check()
        problem = verdict.error or self._replace_configuration(verdict)
        if problem:
            self.log.error("gtcp: the old workers are kept: %s", problem)
            return
        for worker in self.WORKERS.values():
            worker.outdated = True
        self._failures, self._next_start = 0, 0.0

    def _replace_configuration(self, verdict: Verdict) -> str:
        """Apply what can be applied, as gunicorn's ``reload`` does; return what went wrong."""
        old, app = self.cfg, self.app
        kept = self.apply_settings(verdict)
        try:
            app.reload()
        except SystemExit:  # the file has changed since the child has read it
            app.cfg = old
            return "the configuration can't be read"
        for name in AT_START_ONLY & app.cfg.settings.keys():
            if app.cfg.settings[name].get() != old.settings[name].get():
                kept.append(name)
                app.cfg.settings[name] = old.settings[name]
        for name in old.env:
            if name in old.env_orig:
                os.environ[name] = old.env_orig[name]
            else:
                os.environ.pop(name, None)
        self.setup(app)
        self.log.reopen_files()
        self.cfg.on_reload(self)
        _util._setproctitle(f"master [{self.proc_name}]")
        if kept:
            self.log.warning(
                "gtcp: changed settings that take effect after a restart only: %s",
                ", ".join(sorted(kept)),
            )
        return ""

    def apply_settings(self, verdict: Verdict) -> list[str]:
        """Apply gtcp's settings as far as they are the master's; return which need a restart."""
        return []

    def _end_check(self) -> None:
        if self._check is not None:
            self._check.close()
            self._check = None
