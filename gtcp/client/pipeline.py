"""Many calls as one pipeline: what ``Client.map`` has in flight.

There is no greenlet per call: the next lines are queued while results are taken, so the lines of a
whole window leave in a few sends and their replies arrive in a few reads. Memory is bounded by the
window, however long the pipeline is. A call that fails leaves the pipeline and continues as an
ordinary call in a greenlet of its own, which may retry it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import msgspec
from gevent import get_hub
from gevent.hub import Waiter as HubWaiter

from gtcp.arguments import check_params
from gtcp.client.any_pool import HubPool
from gtcp.client.connections.connection import Connection
from gtcp.deadline import current, earliest
from gtcp.errors import ConnectError, ConnectionLost, GtcpError
from gtcp.protocol.messages import GOING_AWAY, Reply

Outcome = Reply | Exception

#: The window is divided into this many rows. Calls are sent and results taken one row at a time: a
#: connection is picked once for each row, and the other rows stay in flight.
ROWS = 8

#: Seconds that available results may wait while a row is sent.
PATIENCE = 0.001


class Item(msgspec.Struct, eq=False):
    """One call of a pipeline. (A Struct is made in half the time of a class.)

    Attributes:
        outcome: the reply or the error, None while there is neither.
        connection: what it was sent on.
    """

    pipeline: Pipeline
    params: Any
    deadline: float | None
    number: int = 0
    outcome: Outcome | None = None
    connection: Connection | None = None
    delivered: bool = False

    def deliver(self, outcome: Reply | GtcpError) -> bool:
        """Take the reply."""
        if self.delivered:
            return False
        self.delivered = True
        if isinstance(outcome, Reply) and outcome.code != GOING_AWAY:
            self.outcome = outcome
            self.pipeline.arrived(self)
        else:
            self.pipeline.try_again(self, outcome)
        return False


class Pipeline:
    """The calls in flight of one ``map``. Used by one greenlet.

    Args:
        pool: whose connections take the calls.
        cmdid, meta: what all calls have in common.
        timeout: seconds for each call, from when it is sent; None for no limit.
        window: how many calls may be in flight or not yet taken.
        ordered: whether results are taken in the order of the calls.
        raw: leave results undecoded.
        complete: continues a call that failed as an ordinary call; gets its params, deadline
            and failure, returns the reply or raises.
    """

    def __init__(
        self,
        pool: HubPool,
        cmdid: int,
        meta: dict[str, str] | None,
        timeout: float | None,
        window: int,
        ordered: bool,
        raw: bool,
        complete: Callable[[Any, float | None, Reply | GtcpError], Reply],
    ) -> None:
        self._pool = pool
        self._cmdid = cmdid
        self._meta = meta
        self._timeout = timeout
        self._window = window
        self._ordered = ordered
        self._raw = raw
        self._complete = complete
        self._count = 0  # in flight or not yet taken
        self._next: deque[Item] = deque()  # to be taken: all items, or if unordered those done
        self._abandoned = False
        self._pid = os.getpid()
        self._helpers: set[Any] = set()
        self._switch: Any = None  # resumes the greenlet that waits for the next outcome

    def items(self, source: Iterator[Any]) -> Iterator[Item]:
        """Yield the calls, with their outcomes, whose params the source yields."""
        row = max(1, self._window // ROWS)
        more = True
        while more or self._count:
            if more and self._count < self._window:
                more = self._send(source, min(row, self._window - self._count))
            elif not self._ready():
                self._wait()
            for _ in range(row):
                if not self._ready():
                    break
                self._count -= 1
                yield self._next.popleft()

    def arrived(self, item: Item) -> None:
        """Resume the greenlet that waits for this outcome."""
        if not self._ordered:
            self._next.append(item)
        if self._switch is not None and self._next[0] is item:
            get_hub().loop.run_callback(self._switch, None)

    def try_again(self, item: Item, failure: Reply | GtcpError) -> None:
        """Continue a call that failed, in a greenlet of its own."""
        if isinstance(failure, Reply) and item.connection is not None:
            item.connection.retire()
        if self._abandoned:
            return
        helper = gevent.spawn(self._see_to, item, failure)
        self._helpers.add(helper)
        helper.rawlink(self._helpers.discard)

    def abandon(self) -> None:
        """Give up all calls; the server is asked to cancel those in flight."""
        self._abandoned = True
        for helper in list(self._helpers):
            helper.kill(block=False)
        if self._count:
            for connection in list(self._pool.connections):
                self._forget(connection)
        self._next.clear()

    def _forget(self, connection: Connection) -> None:
        for waiter in list(connection.waiting.values()):
            if isinstance(waiter, Item) and waiter.pipeline is self:
                connection.forget(waiter)

    def _send(self, source: Iterator[Any], count: int) -> bool:
        """Send ``count`` calls, or fewer if results wait; return whether there may be more."""
        inherited = current()
        timeout = self._timeout
        patient_until = monotonic() + PATIENCE
        connection: Connection | None = None
        for params in source:
            own = None if timeout is None else monotonic() + timeout
            item = Item(self, params, own if inherited is None else earliest(own, inherited))
            self._count += 1
            if self._ordered:
                self._next.append(item)
            self._start(item, connection)
            connection = item.connection
            count -= 1
            if not count or (self._ready() and monotonic() > patient_until):
                return True
        return False

    def _start(self, item: Item, connection: Connection | None) -> None:
        """Send a call, on this connection if it has room; an immediate error is its outcome."""
        try:
            if type(item.params) is not dict:
                check_params(item.params)
            if connection is None or not self._pool.still_ready(connection):
                connection = self._pool.ready() or self._pool.get_for(
                    self._cmdid, item.params, item.deadline, self._meta
                )
            if self._raw:
                connection.keep_raw()
            item.connection = connection
            connection.send(item, self._cmdid, item.params, self._meta)
        except (ConnectError, ConnectionLost) as exc:
            self.try_again(item, exc)
        except (GtcpError, TypeError, ValueError) as exc:
            self._end(item, exc)

    def _see_to(self, item: Item, failure: Reply | GtcpError) -> None:
        try:
            outcome: Outcome = self._complete(item.params, item.deadline, failure)
        except Exception as exc:
            outcome = exc
        self._end(item, outcome)

    def _end(self, item: Item, outcome: Outcome) -> None:
        item.outcome = outcome
        self.arrived(item)

    def _ready(self) -> bool:
        """Return whether the next outcome is available."""
        return bool(self._next) and self._next[0].outcome is not None

    def _wait(self) -> None:
        if os.getpid() != self._pid:  # the replies come to the parent
            raise ConnectionLost("this process was forked from the one that calls")
        waiter: HubWaiter[Any] = HubWaiter()
        try:
            self._switch = waiter.switch
            while not self._ready():
                waiter.get()
        finally:
            self._switch = None
