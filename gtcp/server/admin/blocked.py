"""A watch for handlers that block the event loop, in a native thread.

A handler that computes, or waits in a call that gevent does not make cooperative (a C library, a
lock that was made before the standard library was patched), keeps every other request of its
process waiting. The event loop can't see that, since it does not run. So a native thread looks at
the server's state some times a second, which takes microseconds, and at the stack when the loop has
not polled for too long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from gtcp.server.connections.scheduler import Scheduler
from gtcp.server.ops.logger import SERVER, escape
from gtcp.server.ops.metrics import OTHER, Metrics
from gtcp.server.ops.stacks import stack_of_thread
from gtcp.transport.sockets import original

log = logging.getLogger(SERVER)

#: Seconds without a poll of the event loop that are reported.
LIMIT_SECONDS = 0.1

#: Seconds between two looks.
LOOK_SECONDS = 0.02

#: Seconds between two log lines about one method.
LOG_SECONDS = 1.0


class BlockWatch:
    """Watches the event loop of the thread that creates it, from another thread, until ``close``.

    Args:
        scheduler: knows when the loop polls, and what runs.
        metrics: where the time is counted.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self._thread = original("_thread", "get_ident")()
        self._closed = False
        self._activity: float | None = None
        self._request: Any = None
        self._since = self._counted = 0.0
        self._logged: dict[str, float] = {}
        original("_thread", "start_new_thread")(self._run, (original("time", "sleep"),))

    def close(self) -> None:
        """Have the thread end at its next look."""
        self._closed = True

    def _run(self, sleep: Callable[[float], None]) -> None:
        while not self._closed:
            sleep(LOOK_SECONDS)
            try:
                self.look(monotonic())
            except Exception:  # a bug in gtcp, which must not end the watch silently
                log.exception("the watch for handlers that block the event loop has failed")
                return

    def look(self, now: float) -> None:
        """Look whether the same thing has run without a poll for too long; report it."""
        awake_since = self._scheduler.awake_since
        if awake_since is None:
            self._activity = self._request = None
            return
        request = running(self._scheduler)
        # Of requests the identity counts: two of them may be equal.
        activity = awake_since if request is None else id(request)
        if activity != self._activity or request is not self._request:
            self._request = request  # kept, so that no other one gets its id
            self._activity, self._since = activity, max(awake_since, now - LOOK_SECONDS)
            self._counted = self._since
            return
        if now - self._since < LIMIT_SECONDS:
            return
        method = OTHER if request is None else self._metrics.method_of(request.cmdid)
        self._metrics.note_blocked(method, now - self._counted)
        self._counted = now
        if now - self._logged.get(method, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged[method] = now
            _log(
                "%s has blocked the event loop for %.2f s",
                (_described(request, method), now - self._since),
                stack_of_thread(self._thread),
            )


def _log(message: str, args: tuple[object, ...], stack: str) -> None:
    if log.isEnabledFor(logging.WARNING):
        record = log.makeRecord(
            log.name, logging.WARNING, __file__, 0, message, args, None, sinfo=stack
        )
        log.handle(record)


def running(scheduler: Scheduler) -> Any:
    """Return the request whose handler runs at the moment; None if none does."""
    try:
        leader = scheduler.serving[-1].leader
    except IndexError:
        return None
    return None if leader is None else leader.request


def _described(request: Any, method: str) -> str:
    if request is None:
        return "code outside of handlers"
    return f"cmdid {request.cmdid} ({method}) of {escape(request.address)}"
