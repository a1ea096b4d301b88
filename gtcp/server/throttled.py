"""Log lines that a stranger can cause at will: so many in a second, the rest is counted."""

from __future__ import annotations

import logging
from time import monotonic

from gevent import spawn

#: Lines in one second.
LINES = 10


class Throttled:
    """Logs warnings, from the hub too: each in a greenlet, since a log handler may wait."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._second = 0.0
        self._lines = 0

    def warning(self, message: str, *args: object) -> None:
        """Log this, unless there was too much in this second."""
        now = monotonic()
        if now - self._second >= 1:
            left_out = self._lines - LINES
            self._second, self._lines = now, 0
            if left_out > 0:
                spawn(self._log.warning, "%d more warnings like these were left out", left_out)
        self._lines += 1
        if self._lines <= LINES:
            spawn(self._log.warning, message, *args)
