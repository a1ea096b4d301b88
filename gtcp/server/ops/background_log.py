"""Log lines of the server's own code, which often runs in the hub.

A log handler may wait, and in the hub nothing may, so each line is logged in a greenlet of its own.
"""

from __future__ import annotations

import logging
import sys
from time import monotonic
from typing import Any

from gevent import get_hub, spawn

from gtcp.errors import CommandError
from gtcp.server.ops.logger import SERVER

log = logging.getLogger(SERVER)

#: Lines in one second.
LINES = 10


def log_bug(address: str) -> None:
    """Log the exception being handled, which is a bug in gtcp; its connection is closed."""
    message = "%s: closing after an error in gtcp itself"
    spawn(log.error, message, address, exc_info=sys.exc_info())


def do_not_print_refusals() -> None:
    """Have this thread's hub print no traceback for a CommandError.

    gevent prints what a job of its thread pool or a greenlet raises. But a handler that waits for
    the job raises the same exception, and it is an ordinary reply.
    """
    hub: Any = get_hub()
    if CommandError not in hub.NOT_ERROR:
        hub.NOT_ERROR = (*hub.NOT_ERROR, CommandError)


def log_left_behind(exc: BaseException) -> None:
    """Log a ``gevent.Timeout`` or a kill that a handler left behind and that fired late."""
    spawn(log.warning, "a handler left a %s behind", type(exc).__name__)


class RateLimitedLog:
    """Logs warnings that a peer can cause at will: so many per second, the rest is counted."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._second = 0.0
        self._lines = 0

    def warning(self, message: str, *args: object) -> None:
        """Log this, unless there were too many lines in this second."""
        now = monotonic()
        if now - self._second >= 1:
            left_out = self._lines - LINES
            self._second, self._lines = now, 0
            if left_out > 0:
                spawn(self._log.warning, "%d more warnings like these were left out", left_out)
        self._lines += 1
        if self._lines <= LINES:
            spawn(self._log.warning, message, *args)
