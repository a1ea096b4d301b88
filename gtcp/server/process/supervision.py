"""Signals of a serving process, and notifications to its supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from gevent import get_hub, signal_handler

from gtcp.server.ops.log_setup import reopen_files
from gtcp.server.process.stop_signals import StopSignals
from gtcp.server.process.systemd import Notifier


class Supervision:
    """A context manager: handles signals and notifies the supervisor while a server serves.

    SIGINT, SIGTERM and SIGQUIT are those of ``StopSignals``. SIGHUP reloads, or drains when the
    terminal in which the process was started has been closed. SIGUSR1 opens log files again, unless
    the application handles it.

    Args:
        stop, cut: as for ``StopSignals``.
        reload: called in a greenlet at SIGHUP.
    """

    def __init__(
        self, stop: Callable[[], None], cut: Callable[[], None], reload: Callable[[], None]
    ) -> None:
        self._stop = stop
        self._reload = reload
        self._signals = StopSignals(self._begin_stop, cut)
        self._notifier = Notifier(os.environ)
        self._stack = ExitStack()
        self._stopping = False
        self._in_terminal = _has_terminal()

    @property
    def cut_by(self) -> int | None:
        """The signal that cut the drain short; None if none did."""
        return self._signals.cut_by

    def __enter__(self) -> Supervision:
        self._stack.enter_context(self._signals)
        self._stack.callback(signal_handler(signal.SIGHUP, self._on_hangup).cancel)
        if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
            self._stack.callback(signal_handler(signal.SIGUSR1, reopen_files).cancel)
        seconds = self._notifier.watchdog_seconds
        if seconds is not None:
            # In the event loop: there is no sign of life when it is blocked.
            timer: Any = get_hub().loop.timer(0, seconds / 4)
            timer.start(self._notifier.alive)
            self._stack.callback(timer.close)
        self._notifier.ready()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Restore the previous handlers. Called in a forked child too, which has no supervisor."""
        self._stack.close()

    def _begin_stop(self) -> None:
        self._stopping = True
        self._notifier.stopping()
        self._stop()

    def _on_hangup(self) -> None:
        if self._stopping:
            return
        if self._in_terminal and not _has_terminal():
            self._begin_stop()
            return
        self._notifier.reloading()
        try:
            self._reload()
        finally:
            self._notifier.ready()


def _has_terminal() -> bool:
    """Return whether a standard stream is a terminal; one that was closed is none any more."""
    return any(os.isatty(each) for each in (0, 1, 2))
