"""One socket, many calls in flight on it.

A call that is the only one sends its line at once. Others queue theirs and give the turn away:
the lines queued in one turn of the event loop leave in one ``send``. Replies are read in the
hub, which finds the waiting call by its id and switches straight into it; but the only call of
a thread where nothing else goes on waits by itself, for a moment. A call that stops
waiting (its deadline, a kill) takes its id with it, so its late reply is recognised and
dropped, and the connection lives on.

Ids count the lines that were queued (see ``outbox``), so an id also says whether its line was
handed over to the kernel.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.exceptions import BlockingSwitchOutError
from greenlet import getcurrent

from gtcp.client.lone import TURN, BusyPoll, is_alone
from gtcp.client.outbox import Outbox
from gtcp.client.reply import Replies
from gtcp.client.waiting import Call, Waiting
from gtcp.deadline import Alarm, earliest
from gtcp.errors import (
    REFUSALS,
    CallTimeout,
    ConnectionLost,
    Executed,
    GtcpError,
    ProtocolError,
    ServerLeaving,
)
from gtcp.protocol import (
    GOING_AWAY,
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    OVERLOADED,
    OWN_CMDID,
    Outgoing,
    Reply,
    encode_request,
)
from gtcp.sockets import READ, close_quietly, unheard

if TYPE_CHECKING:
    from gtcp.tls_socket import TlsSocket

#: Below what glibc's malloc maps and unmaps on its own (128 KB), which costs each read more
#: than the read itself.
RECV_BYTES = 120 * 1024

#: Codes of a line without an id by which a server does not let a connection in.
NOT_LET_IN = frozenset({NOT_AUTHENTICATED, NOT_ALLOWED, OVERLOADED})

#: Seconds after which an idle connection is looked at before it is used again.
STALE_AFTER = 0.001


class Connection:
    """An open connection to a server. Belongs to the hub it was made in.

    Args:
        sock: connected, non-blocking; the connection's own from now on.
        name: the server, for error messages.
        max_reply_bytes: the longest reply line taken, None for no limit.
        busy_poll: seconds for which the only call of a thread stays awake for its reply.
        ended: called when it has closed, by whatever cause; must not block.
        freed: called when calls have ended and others may take their places; must not block.

    Attributes:
        usable: whether new calls may be sent on it.
        waiting: the calls in flight, by id.
        outbox: by which its lines leave.
        dropped: replies that nobody waited for any more.
    """

    def __init__(
        self,
        sock: socket.socket | TlsSocket,
        name: str,
        max_reply_bytes: int | None,
        busy_poll: float,
        ended: Callable[[], None],
        freed: Callable[[], None],
    ) -> None:
        self.usable = True
        self.waiting: dict[int, Waiting] = {}
        self.dropped = 0
        self._name = name
        self._sock = sock
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._replies = Replies(max_reply_bytes)
        self._alarm = Alarm(self._expire, ref=False)
        self._active = monotonic()
        self._turn_due = self._active + TURN
        self.outbox = Outbox(sock, self)
        self._delivering = False  # lines that have been received are still to be looked at
        self._said_goodbye = False
        self._closed = False
        self._ended = ended
        self._freed = freed
        self._senders: dict[int, Call] = {}
        self._reader = self._loop.io(sock.fileno(), READ)
        self._reader.start(self._readable)
        self._busy_poll = BusyPoll(sock.fileno(), busy_poll)

    def __repr__(self) -> str:
        return f"<Connection to {self._name} in_flight={len(self.waiting)} usable={self.usable}>"

    # Calling

    def call(
        self, cmdid: int, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> Reply:
        """Send one request and wait for its reply.

        Raises:
            CallTimeout: the deadline passed; the connection stays usable.
            ConnectionLost, ProtocolError: the connection is closed.
            TypeError, ValueError: params are not JSON; nothing was sent.
        """
        call = self._caller(deadline)
        number = self.send(call, cmdid, params, meta)
        try:
            reply = None
            if number == self.outbox.handed_over and self._active < self._turn_due:
                reply = self._reply_outside_the_hub(number, deadline)
            if reply is None:
                reply = call.wait()
                self._turn_due = self._active + TURN
            return reply
        except BaseException:
            self.forget(number)
            raise

    def send(
        self, waiting: Waiting, cmdid: int, params: Any, meta: dict[str, str] | None = None
    ) -> int:
        """Queue one request whose reply goes to ``waiting``; returns its id."""
        number = self.outbox.count + 1
        deadline = waiting.deadline
        timeout = None if deadline is None else self._milliseconds_until(deadline)
        line = encode_request(Outgoing(cmdid, number, timeout, params, False, meta))
        together = bool(self.waiting)
        # First of all: while it is sent, a signal's handler may close us, or run the hub.
        self.waiting[number] = waiting
        if together:
            self.outbox.queue(line)
        else:
            self.outbox.send(line)
        if deadline is not None and deadline < self._alarm.at:
            self._alarm.by(deadline)
        return number

    def notify(
        self, cmdid: int, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> None:
        """Send one oneway request; returns when the kernel has its line.

        Raises:
            CallTimeout, ConnectionLost: ``executed`` is "no" if the line did not leave whole.
        """
        timeout = None if deadline is None else self._milliseconds_until(deadline)
        self.outbox.queue(encode_request(Outgoing(cmdid, None, timeout, params, True, meta)))
        number = self.outbox.count
        self.outbox.flush()
        if self._closed:
            raise self._lost(number)
        if number > self.outbox.handed_over:
            call = None
            try:
                call = self._senders[number] = self._caller(deadline)
                if deadline is not None and deadline < self._alarm.at:
                    self._alarm.by(deadline)
                call.wait()
            except BaseException:
                if call is None or self._senders.pop(number, None) is not None:
                    self.outbox.take_back(number)
                raise

    def forget(self, number: int) -> None:
        """A call is given up: its line is taken back, or the server told to stop its handler."""
        if self.waiting.pop(number, None) is None or self._closed:
            return
        if not self.outbox.take_back(number):
            cancel = {"op": "cancel", "id": number}
            self.outbox.queue(encode_request(Outgoing(OWN_CMDID, None, None, cancel, True)))
        self._places_freed()

    def retire(self) -> None:
        """Take no more calls; close when those in flight have their replies."""
        self.usable = False
        if not self.waiting:
            self.close()

    def look(self) -> bool:
        """Whether a connection that lay idle is still usable: reads what has come meanwhile."""
        if not self.waiting and monotonic() - self._active > STALE_AFTER and not self._closed:
            self._readable()
        return self.usable

    # Ending

    def close(self) -> None:
        """Close at once; calls in flight raise ConnectionLost."""
        if not self._closed:
            # TLS's goodbye: without it, a server would take what was sent last for cut off.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._end(lambda number: self._lost(number))

    def shut(self) -> None:
        """Tell the server that we go, from another thread; the rest is done in its own.

        Only the thread itself may close the descriptor: it may be about to use its number.
        """
        self.usable = False
        with contextlib.suppress(OSError):  # the server was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def abandon(self, stop_watching: bool) -> None:
        """Close the descriptor without a word: for a child process that inherited it.

        Args:
            stop_watching: False when the event loop is not the calling thread's, or is gone.
        """
        self._closed = True
        self.usable = False
        self.outbox.end()
        if stop_watching:
            self._stop_watching()
        close_quietly(self._sock)

    @property
    def sent(self) -> int:
        """Lines queued so far, which is the last id given."""
        return self.outbox.count

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def _stop_watching(self) -> None:
        self._alarm.stop()
        self._reader.stop()
        self._reader.close()
        self.outbox.stop_watching()

    def _end(self, outcome: Callable[[int], GtcpError]) -> None:
        if self._closed:
            return
        self._closed = True
        self.usable = False
        self._stop_watching()
        self.outbox.end()
        close_quietly(self._sock)
        ended = [*self.waiting.items(), *self._senders.items()]
        self.waiting.clear()
        self._senders.clear()
        for number, waiting in ended:
            # Not at once: this may be running in a greenlet that must not be left.
            self._loop.run_callback(waiting.deliver, outcome(number))
        self._ended()

    def _executed(self, number: int) -> Executed:
        return "no" if self._said_goodbye or number > self.outbox.handed_over else "maybe"

    def _lost(self, number: int, why: str = "the connection is closed") -> ConnectionLost:
        kind = ServerLeaving if self._said_goodbye else ConnectionLost
        return kind(f"{self._name}: {why}", executed=self._executed(number))

    def _caller(self, deadline: float | None) -> Call:
        """The calling greenlet; raises BlockingSwitchOutError when it is the hub itself."""
        greenlet = getcurrent()
        if greenlet is self._hub:  # switching to itself returns at once, for ever
            raise BlockingSwitchOutError("a call can't wait in a callback of the event loop")
        return Call(deadline, self._hub, greenlet)

    def _milliseconds_until(self, deadline: float) -> int:
        """What is left, as the wire says it; raises CallTimeout when nothing is."""
        milliseconds = int((deadline - monotonic()) * 1000)
        if milliseconds <= 0:
            raise CallTimeout(f"{self._name}: the deadline passed", executed="no")
        return milliseconds

    def _expire(self, now: float) -> float | None:
        """Fail the calls whose deadline has passed; what came in time still counts."""
        due = self._due(now)
        if due and not self._closed:
            self._readable()
        for number, waiting in due:
            for those in (self.waiting, self._senders):
                if those.get(number) is waiting:
                    del those[number]
                    executed: Executed = "no" if self.outbox.take_back(number) else "maybe"
                    error = CallTimeout(f"{self._name}: the deadline passed", executed=executed)
                    waiting.deliver(error)
        if due and not self._closed:
            if unheard(self._sock):
                self.usable = False  # the next call gets a connection that may work
            self._places_freed()
        left = (*self.waiting.values(), *self._senders.values())
        return earliest(*(each.deadline for each in left))

    def _places_freed(self) -> None:
        """Calls have ended: others may take their places, unless this connection ends too."""
        if not self.usable and not self.waiting:
            self.close()
        else:
            self._freed()

    def _due(self, now: float) -> list[tuple[int, Waiting]]:
        both = [*self.waiting.items(), *self._senders.items()]
        return [each for each in both if each[1].deadline is not None and each[1].deadline <= now]

    # What becomes of what was sent

    def goes_on(self) -> None:
        """The kernel has taken what it did not take at first."""
        for number in [each for each in self._senders if each <= self.outbox.handed_over]:
            call = self._senders.pop(number, None)  # the one before may have closed us
            if call is not None:
                call.deliver(Reply(0))

    def unwritable(self, exc: OSError) -> None:
        """The server takes no more: what it said before that is read first.

        Not at once: this may be running in a greenlet that must not be left.
        """
        self.usable = False
        self._loop.run_callback(self._read_the_rest, exc)

    def interrupted(self) -> None:
        """A line may have left in part: nothing can follow it."""
        self._end(lambda number: self._lost(number, "interrupted while sending"))

    def _read_the_rest(self, exc: OSError) -> None:
        while not self._closed and self._readable():
            pass
        self._broken(exc)

    # Reading

    def _reply_outside_the_hub(self, number: int, deadline: float | None) -> Reply | None:
        """The reply of the only call, waited for in its own greenlet; None to wait in the hub."""
        # Behind a reply that woke its caller, who calls again, there may be a goodbye.
        if self._delivering or self._senders or not is_alone(self._loop):
            return None
        seconds = TURN if deadline is None else max(0.0, min(TURN, deadline - monotonic()))
        if not self._busy_poll.wait(seconds):
            return None
        # Looked at again: a signal's handler may have run meanwhile, and may have done anything.
        if not is_alone(self._loop) or len(self.waiting) != 1 or number not in self.waiting:
            return None
        data = self._receive()
        if data is None:
            return None
        reply = self._replies.alone(data)
        if reply is None or reply.id != number:
            self._take_all(data)
            return None
        del self.waiting[number]
        self._places_freed()
        return reply

    def _readable(self) -> bool:
        """Read once and deliver; returns whether there was anything."""
        data = self._receive()
        return data is not None and self._take_all(data)

    def _receive(self) -> bytes | None:
        """What comes next, b"" at the end; None when there is nothing, or it just broke."""
        try:
            data = self._sock.recv(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            self._broken(exc)
            return None
        self._active = monotonic()
        return data

    def _take_all(self, data: bytes) -> bool:
        """Deliver what was received; False at the end of the stream."""
        if self._take_one(data):
            return True
        if not data:
            self._end(lambda number: self._lost(number, "the server closed the connection"))
            return False
        self.take(data)
        return True

    def take(self, data: bytes) -> None:
        """Deliver what was received."""
        before, self._delivering = self._delivering, True
        try:
            replies, wrong = self._replies.feed(data)
            if replies:
                self._deliver(replies)
            if wrong:
                self._misspoken(wrong)
        finally:
            self._delivering = before

    def _take_one(self, data: bytes) -> bool:
        """Deliver a reply that came alone; False when it needs the long way."""
        reply = self._replies.alone(data)
        if reply is None:
            return False
        call = self.waiting.pop(reply.id, None)  # type: ignore[arg-type]
        if call is None:
            return False
        call.deliver(reply)
        self._places_freed()
        return True

    def _deliver(self, replies: list[Reply]) -> None:
        waiting = self.waiting
        for reply in replies:
            call = waiting.pop(reply.id, None)  # type: ignore[arg-type]
            if call is not None:
                call.deliver(reply)
            elif reply.id is None:
                self._without_id(reply)
            else:
                self.dropped += 1
        self._places_freed()

    def _without_id(self, reply: Reply) -> None:
        """A line that answers no call in particular: the server goes, or refuses us.

        After a refusal it reads nothing more. So the call whose line was the last did not run,
        whether it was the one refused or came after it; of others nothing is certain. Whom it
        does not let in at all, of them it has read nothing.
        """
        if reply.code == GOING_AWAY:
            self.usable = False
            self._said_goodbye = True
        elif reply.code in NOT_LET_IN:
            self.usable = False
            waiting, self.waiting = self.waiting, {}
            for call in waiting.values():
                call.deliver(reply)
        elif reply.code in REFUSALS and self.waiting.keys() == {self.outbox.count}:
            self.usable = False
            self.waiting.popitem()[1].deliver(reply)
        else:
            self._misspoken(f"a reply without an id: {reply.code} {reply.message[:200]}")

    def _misspoken(self, why: str) -> None:
        self._end(lambda number: ProtocolError(f"{self._name}: {why}", executed="maybe"))

    def _broken(self, exc: OSError) -> None:
        why = exc.strerror or str(exc)

        def outcome(number: int) -> ConnectionLost:
            error = self._lost(number, why)
            error.__cause__ = exc
            return error

        self._end(outcome)
