"""SIGINT and SIGTERM: the first drains, the second cuts the drain short, as does a SIGQUIT."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from gevent import get_hub, spawn

from gtcp.signals import STATUS
from gtcp.transport.sockets import original

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)

#: Seconds after a second signal within which the event loop has to cut the drain. It can't while a
#: handler computes; then the process ends here.
CUT_WITHIN_SECONDS = 0.1


class StopSignals:
    """A context manager that handles the signals in the main thread while a server serves.

    The handlers are Python's own, not gevent's, which run in the event loop only: so a signal is
    acknowledged on stderr while a handler computes.

    Args:
        stop: called in a greenlet at the first signal.
        cut: called in a greenlet at each further one, and at SIGQUIT.

    Attributes:
        cut_by: the last signal at which ``cut`` was called; None if there was none.
    """

    def __init__(self, stop: Callable[[], None], cut: Callable[[], None]) -> None:
        self._stop = stop
        self._cut = cut
        self.cut_by: int | None = None
        self._received = 0
        self._cut_has_begun = False
        self._loop: Any = get_hub().loop
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for each in SIGNALS:
            self._previous[each] = signal.signal(each, self._on_signal)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Set the previous handlers. Called in a forked child too, which has nothing to drain."""
        for each, previous in self._previous.items():
            # None: the handler was set by something else than Python, and can't be restored.
            signal.signal(each, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Act on a signal. Runs between two instructions of whatever the main thread does."""
        self._received += 1
        name = signal.Signals(number).name
        if self._received == 1 and number != signal.SIGQUIT:
            write_to_stderr(f"gtcp: {name}: draining; a second signal ends it now\n")
            self._loop.run_callback_threadsafe(spawn, self._stop)
            return
        self.cut_by = number
        write_to_stderr(f"gtcp: {name}: ending now\n")
        self._loop.run_callback_threadsafe(self._begin_cut)
        original("_thread", "start_new_thread")(self._end_unless_cut, (number,))

    def _begin_cut(self) -> None:
        self._cut_has_begun = True
        spawn(self._cut)

    def _end_unless_cut(self, number: int) -> None:
        """End the process when a handler keeps the event loop; runs in a thread of its own."""
        original("time", "sleep")(CUT_WITHIN_SECONDS)
        if not self._cut_has_begun:
            os._exit(STATUS + number)


def write_to_stderr(text: str) -> None:
    """Write a line unless stderr is closed, or is a pipe that nobody reads."""
    try:
        if original("select", "select")([], [2], [], 0)[1]:
            os.write(2, text.encode())
    except OSError:  # there is no stderr
        pass
