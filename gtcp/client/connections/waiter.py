"""Waiters for a reply: a greenlet; elsewhere a call of a pipeline, and a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from gevent.hub import Waiter as HubWaiter

from gtcp.errors import GtcpError
from gtcp.protocol.messages import Reply


class Waiter(Protocol):
    """Something that waits for one reply, or for those of a stream.

    Attributes:
        deadline: when it stops waiting, monotonic seconds; None for never.
        number: the id of its request; 0 before it has one.
    """

    deadline: float | None
    number: int

    def deliver(self, outcome: Reply | GtcpError) -> bool:
        """Take the outcome; return whether it waits for more.

        Must not switch greenlets. After an outcome that is the last, a further call changes
        nothing.
        """


class Call(msgspec.Struct, eq=False):
    """A greenlet that waits for one reply. (A Struct is made in half the time of a class.)"""

    deadline: float | None
    hub: Any
    number: int = 0
    outcome: Reply | GtcpError | None = None
    switch: Callable[[Any], object] | None = None

    def deliver(self, outcome: Reply | GtcpError) -> bool:
        """Store the outcome, and have the greenlet resumed if it waits."""
        if self.outcome is None:
            self.outcome = outcome
        if self.switch is not None:
            # A callable in C: a signal handler can't raise between the event loop and it.
            self.hub.loop.run_callback(self.switch, None)
        return False

    def wait(self) -> Reply:
        """Wait in the hub until there is an outcome; return the reply or raise the error."""
        # gevent's Waiter resumes the greenlet only if it still waits: after a kill it may wait
        # for something else.
        waiter: HubWaiter[Any] = HubWaiter(self.hub)
        self.switch = waiter.switch
        while self.outcome is None:
            waiter.get()
        if isinstance(self.outcome, Reply):
            return self.outcome
        raise self.outcome
