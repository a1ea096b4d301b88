"""Log lines of failing handlers, rate-limited: the first ones in full, then a count.

A peer can make a handler fail as often as it likes, and the traceback of one failure is many times
longer than the request that caused it. So within a minute only the first failures of a kind are
logged in full; the others are counted, and one line says how many there were. A kind is a command,
the type of the exception and where it was raised: a failure that has not been logged yet is always
logged.
"""

from __future__ import annotations

import secrets
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

#: Failures of one kind that are logged in full, within so many seconds.
IN_FULL, WINDOW_SECONDS = 5, 60.0

#: Kinds of one command that are counted at the same time. There are about as many as the code has
#: lines that raise; what generates exception types must not fill the memory.
MAX_KINDS = 200

#: What was done when it failed, the exception's type, and where: handler's line, innermost line.
Kind = tuple[str, type[BaseException], "Place | None", "Place | None"]
Place = tuple[str, int]


class Failing(Protocol):
    """The part of a command that its log lines use."""

    cmdid: int
    name: str
    logger: Any


class _Count:
    """The failures of one kind since ``since``, monotonic seconds."""

    __slots__ = ("error_id", "logged", "since", "suppressed")

    def __init__(self, since: float) -> None:
        self.since = since
        self.logged = self.suppressed = 0
        self.error_id = ""  # of the last one that was logged


class FailureLog:
    """The failures of one command.

    Logging may wait, as log handlers do; other greenlets may log meanwhile.

    Args:
        command: the command, whose ``logger`` gets the lines.
    """

    def __init__(self, command: Failing) -> None:
        self._command = command
        self._counts: dict[Kind, _Count] = {}

    def log(self, what: str, address: str, exc: BaseException) -> str:
        """Log a failure, or count it.

        Args:
            what: what failed, as in "raised".
            address: the peer.

        Returns:
            The id of this failure's log line; if it is only counted, of the last one of its kind
            that was logged in full.
        """
        kind = what, type(exc), *_places(exc.__traceback__)
        now = monotonic()
        count = self._counts.get(kind)
        if count is not None and now - count.since >= WINDOW_SECONDS:
            self._report(kind)
            count = None
        if count is None:
            if len(self._counts) >= MAX_KINDS:
                self._report(next(iter(self._counts)))
            count = self._counts[kind] = _Count(now)
        if count.logged >= IN_FULL:
            count.suppressed += 1
            return count.error_id
        count.logged += 1
        error_id = count.error_id = secrets.token_hex(6)
        command = self._command
        command.logger.error(
            "cmdid %d (%s) %s for %s: %s, error id %s",
            command.cmdid,
            command.name,
            what,
            address or "nobody",
            type(exc).__name__,
            error_id,
            exc_info=exc,
        )
        return error_id

    def due(self, now: float) -> bool:
        """Return whether there is a count to report, at this time in monotonic seconds."""
        return any(now - count.since >= WINDOW_SECONDS for count in self._counts.values())

    def report(self, now: float | None = None) -> None:
        """Log how many failures were not logged, of the kinds whose time is over at ``now``.

        Args:
            now: monotonic seconds; None for all kinds.
        """
        for kind, count in list(self._counts.items()):
            if now is None or now - count.since >= WINDOW_SECONDS:
                self._report(kind)

    def _report(self, kind: Kind) -> None:
        count = self._counts.pop(kind, None)
        if count is None or not count.suppressed:
            return
        what, type_, _, _ = kind
        command = self._command
        command.logger.error(
            "cmdid %d (%s) %s: %s, %d more like error id %s were not logged",
            command.cmdid,
            command.name,
            what,
            type_.__name__,
            count.suppressed,
            count.error_id,
        )


def _places(traceback: TracebackType | None) -> tuple[Place | None, Place | None]:
    """Return the outermost line outside of gtcp's server, and the innermost one."""
    outermost: Place | None = None
    innermost: Place | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        innermost = frame.f_code.co_filename, traceback.tb_lineno
        name = frame.f_globals.get("__name__", "")
        if outermost is None and not name.startswith("gtcp.server."):
            outermost = innermost
        traceback = traceback.tb_next
    return outermost, innermost
