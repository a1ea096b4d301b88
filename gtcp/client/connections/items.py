"""The replies to one request that streams, kept until they are taken, and credit for more.

The connection goes on reading however slowly the items are taken. Credit bounds what is kept: the
server sends so many items at most, and more only as items are taken. Credit is returned when half
of it is used up, and before each wait, since the server's limit of bytes may hold it back earlier.
"""

from __future__ import annotations

import os
from collections import deque
from time import monotonic
from typing import Any

from gevent.hub import Waiter as HubWaiter

from gtcp.client.connections.connection import Connection
from gtcp.errors import CallTimeout, ConnectionLost, GtcpError, ProtocolError
from gtcp.protocol.messages import GOING_AWAY, Outgoing, OutgoingStream, Reply


class Items:
    """Waits for the items of one stream. Used by one greenlet at a time.

    Args:
        connection: sends the request.
        window: items that may be on their way or kept here.
        timeout: seconds that the server has for each item, None for no limit.
        until: when the whole stream has to be over, monotonic seconds, or None.

    Attributes:
        deadline: when its greenlet stops waiting; None while it does not wait, or for ever.
        number: the id of its request; 0 before it was sent.
        end: the last reply, or the error that ended it; None while there is neither.
        leaving: whether the server has said that it is about to stop.
    """

    __slots__ = (
        "_arrived", "_connection", "_half", "_hub", "_pid", "_replies", "_switch",
        "_taken", "_timeout", "_until", "_window", "deadline", "end", "leaving", "number",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, window: int, timeout: float | None, until: float | None
    ) -> None:
        self.deadline: float | None = None
        self.number = 0
        self.end: Reply | GtcpError | None = None
        self.leaving = False
        self._connection = connection
        self._hub = connection.hub
        self._window, self._half = window, max(1, window // 2)
        self._timeout, self._until = timeout, until
        self._replies: deque[Reply] = deque()
        self._arrived = 0
        self._taken = 0  # items for which no credit was returned
        self._switch: Any = None  # resumes the greenlet that waits
        self._pid = os.getpid()

    def send(
        self, cmdid: int, params: Any, meta: dict[str, str] | None, deadline: float | None
    ) -> None:
        """Send the request; for the rest as ``Connection.send``."""
        self.deadline = deadline
        try:
            self._connection.send(self, cmdid, params, meta, self._request)
        finally:
            self.deadline = None

    def deliver(self, outcome: Reply | GtcpError) -> bool:
        """Keep an item, or the end; return whether more follows."""
        if self.end is not None:
            return False
        if not isinstance(outcome, Reply) or not outcome.more:
            self.end = outcome
        elif outcome.code:  # a notice
            if outcome.code == GOING_AWAY:
                self.leaving = True
                self._connection.usable = False
            return True
        elif outcome.item is not None and outcome.item < self._arrived:
            self._connection.dropped += 1  # it has arrived twice
            return True
        elif why := self._wrong(outcome):
            self._connection.cancel(self.number)
            self.end = ProtocolError(why, executed="maybe")
        else:
            self._arrived += 1
            self._replies.append(outcome)
        self.deadline = None
        if self._switch is not None:
            self._hub.loop.run_callback(self._switch, None)
            self._switch = None
        return self.end is None

    def take(self, deadline: float | None) -> Reply:
        """Return the next item, or the reply that ends the stream.

        Args:
            deadline: when to stop waiting for it, monotonic seconds.

        Raises:
            GtcpError: the stream was broken off, or the deadline has passed; its handler is
                stopped.
        """
        while not self._replies:
            if isinstance(self.end, Reply):
                return self.end
            if self.end is not None:
                raise self.end
            self._wait(deadline)
        self._taken += 1
        if self._taken >= self._half:
            self._return_credit()
        return self._replies.popleft()

    def abandon(self) -> None:
        """Give up what has not come; the server is asked to stop the handler."""
        self._connection.forget(self)

    def _wait(self, deadline: float | None) -> None:
        if os.getpid() != self._pid:  # the replies come to the parent
            raise ConnectionLost("this process was forked from the one that takes the stream")
        self._return_credit()
        waiter: HubWaiter[Any] = HubWaiter(self._hub)
        try:
            self.deadline = deadline
            if deadline is not None:
                self._connection.watch_deadline(deadline)
            while not self._replies and self.end is None:
                self._switch = waiter.switch
                waiter.get()
        finally:
            self._switch = self.deadline = None
        if isinstance(self.end, CallTimeout):
            self._connection.cancel(self.number)

    def _wrong(self, reply: Reply) -> str:
        """Return what is wrong with an item that has arrived; empty if nothing is."""
        if len(self._replies) >= self._window:
            return "the server sends more items than it has credit for"
        if reply.item is not None and reply.item != self._arrived:
            return f"item {self._arrived} of the stream is missing"
        return ""

    def _return_credit(self) -> None:
        if self._taken and self.end is None:
            self._connection.tell({"op": "credit", "id": self.number, "n": self._taken})
            self._taken = 0

    def _request(
        self,
        cmdid: int,
        number: int,
        _timeout: int | None,
        params: Any,
        oneway: bool,
        meta: dict[str, str] | None,
    ) -> Outgoing:
        timeout = None if self._timeout is None else int(self._timeout * 1000)
        total = None
        if self._until is not None:
            total = max(0, int((self._until - monotonic()) * 1000))
        return OutgoingStream(
            cmdid, number, timeout, params, oneway, meta, True, self._window, total
        )
