"""Retries: when a failed call is tried again, and after which pause.

Only a call that certainly did not run is retried, or any call that is idempotent. A retry budget (a
token bucket, refilled with time) keeps a dead server from getting a multiple of the load. A server
that goes away (503) costs no token: it is alive, and all calls in flight on the connection fail at
the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent

from gtcp.errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    GtcpError,
    ProtocolError,
    RemoteError,
    ServerLeaving,
    Untrusted,
)
from gtcp.jitter import uniform
from gtcp.protocol.messages import GOING_AWAY

#: Seconds before the first retry of a call that found no connection; doubled for each further one.
FIRST_BACKOFF = 0.02
LONGEST_BACKOFF = 1.0

#: Tokens in a full bucket, and how many are added each second.
BUDGET = 100.0
REFILL_PER_SECOND = 10.0


class Retry:
    """The retries of one client.

    Args:
        retries: how often one call is retried, at most.
        clock: returns monotonic seconds.

    Attributes:
        count: retries so far.

    Raises:
        ValueError: when it is negative.
    """

    def __init__(self, retries: int, clock: Callable[[], float] = monotonic) -> None:
        if retries < 0:
            raise ValueError(f"retries: expected 0 or more, got {retries}")
        self.count = 0
        self._retries = retries
        self._clock = clock
        self._tokens = BUDGET
        self._refilled = clock()

    def wait_or_raise(
        self, error: GtcpError, attempt: int, idempotent: bool, deadline: float | None
    ) -> None:
        """Wait until the call may be retried; raise its error if it may not be.

        Args:
            attempt: the number of the attempt that failed, from 1.
        """
        gevent.sleep(self.pause_or_raise(error, attempt, idempotent, deadline))

    def pause_or_raise(
        self, error: GtcpError, attempt: int, idempotent: bool, deadline: float | None
    ) -> float:
        """Return the seconds until the call may be retried; raise its error if it may not be."""
        pause = self._pause(error, attempt)
        left = None if deadline is None else deadline - self._clock()
        if (
            attempt > self._retries
            or not self._harmless(error, idempotent)
            or (left is not None and pause >= left)
            or not self._paid(error)
        ):
            raise error
        self.count += 1
        return pause

    @staticmethod
    def _harmless(error: GtcpError, idempotent: bool) -> bool:
        if isinstance(error, RemoteError):
            return error.code == GOING_AWAY and (error.executed == "no" or idempotent)
        if isinstance(error, ClientClosed | Untrusted):
            return False
        if not isinstance(error, ConnectError | ConnectionLost | ProtocolError):
            return False
        return error.executed == "no" or idempotent

    @staticmethod
    def _pause(error: GtcpError, attempt: int) -> float:
        """Return 0 for the first retry if another connection may work; else backoff with jitter."""
        if attempt == 1 and not isinstance(error, ConnectError):
            return 0.0
        longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (attempt - 1))
        return uniform(longest / 2, longest)

    def _paid(self, error: GtcpError) -> bool:
        if isinstance(error, RemoteError | ServerLeaving):
            return True
        now = self._clock()
        refill = (now - self._refilled) * REFILL_PER_SECOND
        self._tokens, self._refilled = min(BUDGET, self._tokens + refill), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
