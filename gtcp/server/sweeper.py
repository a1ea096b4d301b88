"""Finds the connections that take too long.

A timer for each would cost every call something. So they are looked at together: twice a second
those that owe something, the rest of a line or the taking of replies. Whether one is idle need
not be known as exactly: of all connections a share is looked at each time, so that everyone has
its turn in a small part of the time it may be idle. Looking at all ten thousand each time took
2% of a server's time, which was the p99 of a caller beside them.

Even a share is cut into pieces, between which the loop goes round: half a second passes when ten
thousand are to be closed at once, and a thousand slow senders have to be looked at twice a second.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub

if TYPE_CHECKING:
    from gtcp.server.connection import Connection

#: Seconds between two looks.
SECONDS = 0.5

#: Seconds that a piece of one takes, and from one to the next: no timer of libuv's is shorter.
PIECE_SECONDS, PAUSE_SECONDS = 0.0002, 0.001

#: Of the time that a connection may be idle, as much passes until all have been looked at.
IDLE_SHARE = 0.02


class Sweeper:
    """Sweeps connections until it is stopped. Belongs to the hub it was made in.

    Args:
        connections: all of them.
        owing: those that are to be looked at each time.
        idle_timeout: seconds after which one is closed, about; None if none is.
    """

    def __init__(
        self,
        connections: Collection[Connection],
        owing: Collection[Connection],
        idle_timeout: float | None,
    ) -> None:
        self._connections = connections
        self._owing = owing
        self._idle_timeout = idle_timeout
        self._unseen: list[Connection] = []  # not looked at in this round through all of them
        self._share = 0
        self._left: list[Connection] = []
        loop: Any = get_hub().loop
        self._begin_timer = loop.timer(SECONDS, SECONDS)
        self._go_on_timer = loop.timer(PAUSE_SECONDS, PAUSE_SECONDS)
        self._begin_timer.start(self._begin)

    def stop(self) -> None:
        """Look no more."""
        for timer in (self._begin_timer, self._go_on_timer):
            timer.stop()
            timer.close()

    def _begin(self) -> None:
        if self._left:
            return
        self._left = list(self._owing)
        if self._idle_timeout is not None:
            self._left += self._next_share(self._idle_timeout)
        if self._left:
            self._go_on_timer.again(self._go_on)

    def _next_share(self, idle_timeout: float) -> list[Connection]:
        if not self._unseen:
            self._unseen = list(self._connections)
            looks = max(1.0, IDLE_SHARE * idle_timeout / SECONDS)
            self._share = ceil(len(self._unseen) / looks)
        share = self._unseen[-self._share :]
        del self._unseen[-self._share :]
        return share

    def _go_on(self) -> None:
        now = monotonic()
        while self._left:
            connection = self._left.pop()
            if connection in self._connections:  # and has not closed since
                connection.sweep(now)
            if monotonic() - now >= PIECE_SECONDS:
                break
        if not self._left:
            self._go_on_timer.stop()
