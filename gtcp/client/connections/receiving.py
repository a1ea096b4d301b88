"""A client connection's callbacks of the event loop: replies, deadlines, refusals.

All of it runs in the connection's keeper, see ``closing.py``, and never blocks.
"""

from __future__ import annotations

from time import monotonic

from gtcp.client.connections.closing import ClosingConnection
from gtcp.client.connections.waiter import Waiter
from gtcp.deadline import earliest
from gtcp.errors import (
    REFUSALS,
    CallTimeout,
    Executed,
)
from gtcp.protocol.messages import (
    GOING_AWAY,
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    OVERLOADED,
    Reply,
)
from gtcp.transport.sockets import unheard

#: Below what glibc's malloc maps and unmaps on its own (128 KB), which costs each read more
#: than the read itself.
RECV_BYTES = 120 * 1024

#: Codes with which a server refuses a connection, in a line without an id.
NOT_LET_IN = frozenset({NOT_AUTHENTICATED, NOT_ALLOWED, OVERLOADED})


class ReceivingConnection(ClosingConnection):
    """Delivers replies to the calls in flight, and ends those whose deadline has passed."""

    def _expire(self, now: float) -> float | None:
        """Fail the calls whose deadline has passed, unless their replies have arrived."""
        due = self._due(now)
        if due and not self._closed:
            self._on_readable()
        for number, waiter in due:
            if waiter.deadline is None:  # an item of a stream has arrived
                continue
            for calls in (self.waiting, self._notifiers):
                if calls.get(number) is waiter:
                    executed: Executed = "no"
                    if not self.writer.take_back(number):
                        executed = "maybe"
                        self._first_silent = min(self._first_silent, number)
                    error = CallTimeout(f"{self._name}: the deadline passed", executed=executed)
                    self._fail(number, waiter, error)
                    del calls[number]  #
        if due and not self._closed:
            if unheard(self._sock):
                self.usable = False  # the next call gets a connection that may work
            self._places_freed()
        left = (*self.waiting.values(), *self._notifiers.values())
        return earliest(*(each.deadline for each in left))

    def _due(self, now: float) -> list[tuple[int, Waiter]]:
        both = [*self.waiting.items(), *self._notifiers.items()]
        return [each for each in both if each[1].deadline is not None and each[1].deadline <= now]

    def on_written(self) -> None:
        """The kernel has taken lines that it did not take at first."""
        for number in [each for each in self._notifiers if each <= self.writer.written]:
            self._notifiers[number].deliver(Reply(0))
            del self._notifiers[number]

    def on_write_error(self, exc: OSError) -> None:
        """The server takes no more: what it said before that is read first."""
        self.usable = False
        self._loop.run_callback(self.keeper.switch, lambda: self._read_the_rest(exc))

    def _read_the_rest(self, exc: OSError) -> None:
        while not self._closed and self._on_readable():
            pass
        self._broken(exc)

    def _on_readable(self) -> bool:
        """Read once and deliver replies; return whether there was anything."""
        try:
            data = self._receive()
            if data is None:
                return False
            if not data:
                self._deliver_refusal()
                self._end(lambda number: self._lost(number, "the server closed the connection"))
                return False
            reply = self._replies.alone(data)
            if reply is None:
                self.take(data)
            else:
                self._deliver([reply])
            return True
        except BaseException as exc:
            self.interrupted(exc)  # what was received is lost
            raise

    def _receive(self) -> bytes | None:
        """Return data received, b"" at the end; None if there is none, or the connection broke."""
        try:
            data = self._sock.recv(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            self._broken(exc)
            return None
        self._active = monotonic()
        return data

    # Replies

    def take(self, data: bytes) -> None:
        """Deliver the replies in data that was received."""
        replies, wrong = self._replies.feed(data)
        if replies:
            self._deliver(replies)
        if wrong:
            self._protocol_error(wrong)

    def _deliver(self, replies: list[Reply]) -> None:
        waiting = self.waiting
        for reply in replies:
            waiter = waiting.get(reply.id)  # type: ignore[arg-type]
            if waiter is not None:
                if not waiter.deliver(reply):
                    waiting.pop(reply.id, None)  # type: ignore[arg-type]
            elif reply.id is None:
                self._on_line_without_id(reply)
            else:
                self.dropped += 1
        self._places_freed()

    def _on_line_without_id(self, reply: Reply) -> None:
        """A line that answers no call in particular: the server goes away, or refuses."""
        if reply.code == GOING_AWAY:
            self.usable = False
            self._said_goodbye = True
        elif reply.code in NOT_LET_IN:  # it has read nothing
            self.usable = False
            for number, waiter in list(self.waiting.items()):
                waiter.deliver(reply)
                self.waiting.pop(number, None)
        elif reply.code in REFUSALS and self.waiting:
            self._on_refused_line(reply)
        else:
            self._protocol_error(f"a reply without an id: {reply.code} {reply.message[:200]}")

    def _on_refused_line(self, reply: Reply) -> None:
        """The server refuses a line that this client has sent, and is about to close."""
        self.usable = False
        self._refusal = reply
        if self.waiting.keys() == {self.writer.count}:  # it can't be another one
            self._deliver_refusal()

    def _deliver_refusal(self) -> None:
        """The connection has ended after a refusal.

        The server has answered everything before the line, and ran nothing behind it. So no call
        that has no reply ran, and the first of them is at fault; unless it may have been a line
        that gets no reply. Then all are tried again, and the one at fault is found there.
        """
        reply, self._refusal = self._refusal, None
        if reply is None or not self.waiting:
            return
        self._said_goodbye = True
        first = min(self.waiting)
        if first < self._first_silent:
            self.waiting[first].deliver(reply)
            self.waiting.pop(first, None)
