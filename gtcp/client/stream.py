"""Many calls as one stream: what ``Client.map`` has in flight.

No greenlet per call: the next lines are queued while results are taken, so the lines of a
whole window leave in a few sends and their replies are read in a few reads. Memory is bounded
by the window, however long the stream. A call that fails leaves the stream and goes on as an
ordinary call, in a greenlet of its own, which may try it again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub
from greenlet import getcurrent

from gtcp.client.connection import Connection
from gtcp.errors import ConnectionLost, GtcpError
from gtcp.protocol import GOING_AWAY, Reply

Outcome = Reply | Exception


class Item:
    """One call of a stream.

    Attributes:
        outcome: the reply or the error, None while there is neither.
    """

    __slots__ = ("_stream", "connection", "deadline", "number", "outcome", "params")

    def __init__(self, stream: Stream, params: Any, deadline: float | None) -> None:
        self._stream = stream
        self.params = params
        self.deadline = deadline
        self.outcome: Outcome | None = None
        self.connection: Connection | None = None
        self.number = 0

    def deliver(self, outcome: Reply | GtcpError) -> None:
        """Take the reply; called in the hub."""
        connection, self.connection = self.connection, None
        if isinstance(outcome, Reply):
            if outcome.code != GOING_AWAY:
                self.outcome = outcome
                self._stream.arrived(self)
                return
            if connection is not None:
                connection.retire()
        self._stream.try_again(self, outcome)


class Stream:
    """The calls in flight of one ``map``. Used by one greenlet.

    Args:
        ordered: whether results are taken in the order of the calls.
        complete: makes an ordinary call of one that failed; gets its params, deadline and
            failure, returns the reply or raises.
    """

    def __init__(
        self,
        ordered: bool,
        complete: Callable[[Any, float | None, Reply | GtcpError], Reply],
    ) -> None:
        self._ordered = ordered
        self._complete = complete
        self._items: set[Item] = set()  # in flight or not yet taken
        self._next: deque[Item] = deque()  # to be taken: all of them, or those that are done
        self._abandoned = False
        self._pid = os.getpid()
        self._helpers: set[Any] = set()
        self._sleeper: Any = None
        self._waking = False

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item) -> None:
        """One more call is on its way."""
        self._items.add(item)
        if self._ordered:
            self._next.append(item)
        if item.outcome is not None:
            self.arrived(item)

    def arrived(self, item: Item) -> None:
        """An outcome is there: wake the greenlet that waits for it, once for all of a read."""
        if not self._ordered:
            self._next.append(item)
        if self._sleeper is not None and not self._waking and self.ready():
            self._waking = True
            get_hub().loop.run_callback(self._wake)

    def try_again(self, item: Item, failure: Reply | GtcpError) -> None:
        """Let a greenlet of its own see to a call that failed."""
        if self._abandoned:
            return
        helper = gevent.spawn(self._see_to, item, failure)
        self._helpers.add(helper)
        helper.rawlink(self._helpers.discard)

    def take(self) -> Outcome:
        """The outcome of the next call that is done; waits for it."""
        if not self.ready():
            self._wait()
        item = self._next.popleft()
        self._items.remove(item)
        assert item.outcome is not None
        return item.outcome

    def abandon(self) -> None:
        """Stop waiting for anything; the server is told to stop what is in flight."""
        self._abandoned = True
        for helper in list(self._helpers):
            helper.kill(block=False)
        for item in self._items:
            if item.connection is not None:
                item.connection.forget(item.number)
        self._items.clear()
        self._next.clear()

    def _see_to(self, item: Item, failure: Reply | GtcpError) -> None:
        try:
            item.outcome = self._complete(item.params, item.deadline, failure)
        except Exception as exc:
            item.outcome = exc
        self.arrived(item)

    def ready(self) -> bool:
        """Whether the next outcome is there."""
        return bool(self._next) and self._next[0].outcome is not None

    def _wait(self) -> None:
        if os.getpid() != self._pid:  # the replies come to the parent
            raise ConnectionLost("this process was forked from the one that calls")
        switch = get_hub().switch
        self._sleeper = getcurrent()
        try:
            while not self.ready():
                switch()
        finally:
            self._sleeper = None

    def _wake(self) -> None:
        self._waking = False
        if self._sleeper is not None:
            self._sleeper.switch()
