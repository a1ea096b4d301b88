"""One socket, many calls in flight on it.

A call that is the only one sends its line at once. Others queue theirs: the lines queued in one
iteration of the event loop leave in one ``send``. A reply finds its call by the id. A call that
stops waiting (deadline, kill) removes its id, so a late reply is recognised and dropped, and the
connection stays usable.

**The keeper.** Everything that the event loop calls (something to read, the socket is writable, a
deadline, queued lines to send) runs in a greenlet of the connection, its keeper: the watchers'
callback is the keeper's ``switch``. It never blocks. In a callback of the hub itself, an exception
raised by a signal handler would end in gevent, which stops the watcher; in the keeper it closes
the connection, fails the calls in flight and is raised again in the main greenlet.

**Exceptions at any point.** Wherever a ``BaseException`` is raised in here, by a signal handler
between any two instructions, the connection afterwards is either intact or closed, and
``executed`` is right. What was received and not yet delivered would be lost, and of a send that
was interrupted nobody knows how much has left: both close the connection.

The only call of a thread in which nothing else happens waits for its reply outside the event loop
(see ``busy_poll``).
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

from gevent import get_hub
from gevent.exceptions import BlockingSwitchOutError
from greenlet import GreenletExit, getcurrent, greenlet

from gtcp.client.connections.busy_poll import OUTSIDE_HUB_SECONDS, BusyPoll, is_only_watcher
from gtcp.client.connections.forks import handle_fork, same_process
from gtcp.client.connections.reply import Limits, Replies, result_of
from gtcp.client.connections.waiter import Call, Waiter
from gtcp.client.connections.write_buffer import WriteBuffer
from gtcp.deadline import Alarm, earliest
from gtcp.errors import (
    REFUSALS,
    CallTimeout,
    ConnectionLost,
    Executed,
    GtcpError,
    ProtocolError,
    RemoteError,
    ServerLeaving,
)
from gtcp.protocol.messages import (
    GOING_AWAY,
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    OVERLOADED,
    OWN_CMDID,
    TOO_LARGE,
    Outgoing,
    Reply,
    encode_request,
)
from gtcp.transport.sockets import READ, Stream, close_quietly, unheard

#: Below what glibc's malloc maps and unmaps on its own (128 KB), which costs each read more
#: than the read itself.
RECV_BYTES = 120 * 1024

#: Bytes of a line that is sent without asking the server how long lines may be.
ASK_ABOVE = 64 * 1024

#: Codes with which a server refuses a connection, in a line without an id.
NOT_LET_IN = frozenset({NOT_AUTHENTICATED, NOT_ALLOWED, OVERLOADED})

#: Seconds after which an idle connection is read from before it is used again.
STALE_AFTER = 0.001


class Connection:
    """An open connection to a server. Belongs to the hub it was made in.

    It can be used once ``start`` was called.

    Args:
        sock: connected, non-blocking; closed with the connection.
        name: the server, for error messages.
        max_reply_bytes: the longest reply line taken, None for no limit.
        busy_poll: seconds for which the only call of a thread polls busily for its reply.
        ended: called when it has closed, for any reason; must not block.
        freed: called when calls have ended and others may take their places; must not block.

    Attributes:
        usable: whether new calls may be sent on it.
        waiting: the calls in flight, by id.
        writer: the lines to be sent.
        dropped: replies that no call waited for any more.
        keeper: the greenlet that runs what the event loop calls.
    """

    def __init__(
        self,
        sock: Stream,
        name: str,
        max_reply_bytes: int | None,
        busy_poll: float,
        ended: Callable[[], None],
        freed: Callable[[], None],
    ) -> None:
        self.usable = False
        self.waiting: dict[int, Waiter] = {}
        self.dropped = 0
        self.keeper: Any = None
        self._name = name
        self._sock = sock
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._replies = Replies(max_reply_bytes)
        self._alarm = Alarm(self._expire, ref=False)
        self._active = monotonic()
        self._outside_until = self._active + OUTSIDE_HUB_SECONDS
        self.writer = WriteBuffer(sock, self)
        self._said_goodbye = False
        self._refusal: Reply | None = None  # of a line of ours: the server is about to close
        self._closed = False
        self._finished = False  # closed, and everything has been told so
        self._ended = ended
        self._freed = freed
        self._notifiers: dict[int, Call] = {}  # notify() calls whose lines have not left, by number
        self._fits: float = ASK_ABOVE  # bytes of a line, with its newline, that the server takes
        self._first_silent = inf  # the first line that gets no reply: oneway, or given up
        self._reader = self._loop.io(sock.fileno(), READ)
        self._busy_poll = BusyPoll(sock.fileno(), busy_poll)

    def __repr__(self) -> str:
        return f"<Connection to {self._name} in_flight={len(self.waiting)} usable={self.usable}>"

    # The keeper

    def start(self) -> None:
        """Start reading. Called by the greenlet that opened it; does not wait."""
        keeper = self.keeper = greenlet(self._keep, getcurrent())
        keeper.switch()
        if self._closed:  # a signal handler raised in there
            raise self._lost(0)
        keeper.parent = self._hub
        self._alarm.through = keeper.switch
        self._reader.start(keeper.switch, self._on_readable)
        self.usable = True

    def _keep(self) -> None:
        try:
            # Not a loop here: from Python 3.12 on, a signal handler's exception between two rounds
            # of a loop is not caught by a `try` around it in the same function.
            self._keep_on()
        except GreenletExit:
            pass  # the process forgets it
        except BaseException as exc:  # raised by a signal handler, or out of memory
            self.interrupted(exc)
            if self.keeper.parent is not self._hub:
                raise  # in the greenlet that opens the connection
            if not isinstance(exc, MemoryError):
                # Raises it in the main greenlet, as gevent does for a signal's handler.
                self._hub.handle_system_error(*sys.exc_info())

    def _keep_on(self) -> None:
        function: Callable[[], object] = self.keeper.parent.switch()
        while not self._closed:
            if same_process[0]:
                function()
            else:
                handle_fork()
            function = self._hub.switch()

    # Calling

    def call(
        self,
        cmdid: int,
        params: Any,
        deadline: float | None,
        meta: dict[str, str] | None,
        raw: bool = False,
    ) -> Reply:
        """Send one request and wait for its reply.

        Args:
            raw: leave the result undecoded, a ``msgspec.Raw``. It may be so without, too.

        Raises:
            CallTimeout: the deadline passed; the connection stays usable.
            ConnectionLost, ProtocolError: the connection is closed.
            TypeError, ValueError: params are not JSON; nothing was sent.
        """
        call = self._caller(deadline)
        try:
            if raw:
                self.keep_raw()
            self.send(call, cmdid, params, meta)
            # Alone on its connection, and the event loop has run lately.
            if len(self.waiting) == 1 and self._active < self._outside_until:
                reply = self._reply_outside_the_hub(call)
                if reply is not None:
                    return reply
            reply = call.wait()
            self._outside_until = self._active + OUTSIDE_HUB_SECONDS
            return reply
        except BaseException:
            self.forget(call)
            raise

    def send(
        self, waiter: Waiter, cmdid: int, params: Any, meta: dict[str, str] | None = None
    ) -> None:
        """Queue one request whose reply goes to ``waiter``, which gets its number."""
        writer = self.writer
        try:
            writer.busy = True  # a call that a signal handler makes here uses another connection
            number = writer.handed_over + len(writer.lines) + 1
            deadline = waiter.deadline
            timeout = None if deadline is None else self._milliseconds_until(deadline)
            line = encode_request(Outgoing(cmdid, number, timeout, params, False, meta))
            if len(line) > self._fits:
                writer.busy = False
                self._check_length(line, deadline)
                writer.busy = True
                number = writer.count + 1  # other calls may have been sent meanwhile
                line = encode_request(Outgoing(cmdid, number, timeout, params, False, meta))
            waiter.number = number
            together = bool(self.waiting)
            self.waiting[number] = waiter
            if deadline is not None and deadline < self._alarm.at:
                self._alarm.by(deadline)
            if together:
                writer.queue(line)
            else:
                writer.send(line)
            writer.busy = False
        except BaseException as exc:
            writer.busy = False
            if waiter.number:
                self.interrupted(exc)
            raise

    def notify(
        self, cmdid: int, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> None:
        """Send one oneway request; return when the kernel has its line.

        Raises:
            CallTimeout, ConnectionLost: ``executed`` is "no" if the line did not leave whole.
        """
        timeout = None if deadline is None else self._milliseconds_until(deadline)
        line = encode_request(Outgoing(cmdid, None, timeout, params, True, meta))
        if len(line) > self._fits:
            self._check_length(line, deadline)
        call = self._caller(deadline)
        writer = self.writer
        try:
            writer.busy = True
            call.number = number = writer.count + 1
            self._first_silent = min(self._first_silent, number)
            writer.queue(line)
            writer.flush()
            if number > writer.written and not self._closed:
                self._notifiers[number] = call
                if deadline is not None and deadline < self._alarm.at:
                    self._alarm.by(deadline)
            writer.busy = False
        except BaseException as exc:
            self.interrupted(exc)
            raise
        if number in self._notifiers:
            self._wait_until_written(call)
        elif self._closed and number > writer.written:
            raise self._lost(number)

    def _wait_until_written(self, call: Call) -> None:
        try:
            call.wait()
        except BaseException:
            if self._notifiers.pop(call.number, None) is not None:
                self.writer.take_back(call.number)
            raise

    def keep_raw(self) -> None:
        """Leave the results of all calls undecoded from now on."""
        self._replies.keep_raw()

    def forget(self, waiter: Waiter) -> None:
        """Give up a call: take its line back, or tell the server to stop its handler."""
        if self._closed:
            self._end(self._lost)  # finishes one that was interrupted
        if self.waiting.get(waiter.number) is not waiter:
            return
        del self.waiting[waiter.number]
        if not self._closed and not self.writer.take_back(waiter.number):
            self._first_silent = min(self._first_silent, waiter.number)
            cancel = {"op": "cancel", "id": waiter.number}
            self.writer.queue(encode_request(Outgoing(OWN_CMDID, None, None, cancel, True)))
        self._places_freed()

    def retire(self) -> None:
        """Take no more calls; close when those in flight have their replies."""
        self.usable = False
        if not self.waiting:
            self.close()

    def check(self) -> bool:
        """Return whether it is still usable; one that was idle is read from first."""
        if not self.waiting and monotonic() - self._active > STALE_AFTER and not self._closed:
            self._on_readable()
        return self.usable

    # Closing

    def close(self) -> None:
        """Close at once; calls in flight raise ConnectionLost."""
        if not self._closed:
            # The goodbye of TLS: without it, a server would take the last bytes for cut off.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._end(self._lost)

    def shut(self) -> None:
        """Tell the server that the client goes; for other threads, which must not do more.

        Only its own thread may close the descriptor: it may be about to use its number.
        """
        self.usable = False
        with contextlib.suppress(OSError):  # the server was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def abandon(self, stop_watching: bool) -> None:
        """Close the descriptor and write nothing: for a child process that inherited it.

        Args:
            stop_watching: False when the event loop is not the calling thread's, or is gone.
        """
        self._closed = self._finished = True
        self.usable = False
        if stop_watching:
            self.writer.close()
            self._stop_watching()
        close_quietly(self._sock)

    def interrupted(self, exc: BaseException) -> None:
        """Close after an exception where it can't go on: something is half sent or received."""
        self._end(lambda number: self._lost(number, f"interrupted by {type(exc).__name__}"), False)

    @property
    def sent(self) -> int:
        """Lines queued so far."""
        return self.writer.count

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def _stop_watching(self) -> None:
        self._alarm.stop()
        self._reader.stop()
        self._reader.close()
        self.writer.stop_watching()

    def _end(self, outcome: Callable[[int], GtcpError], known: bool = True) -> None:
        """Close, and give each call its outcome.

        It may have been interrupted in a first run: every step can be done again.

        Args:
            known: see ``WriteBuffer.close``.
        """
        if self._finished:
            return
        self.usable = False
        if not self._closed:
            self.writer.close(known)
        self._closed = True
        self._stop_watching()
        close_quietly(self._sock)
        for calls in (self.waiting, self._notifiers):
            for number, waiter in list(calls.items()):
                waiter.deliver(outcome(number))
                calls.pop(number, None)  #
        keeper = self.keeper
        if keeper is not None and not keeper.dead and keeper is not getcurrent():
            keeper.parent = self._hub
            self._loop.run_callback(keeper.switch)  # it ends
        self._ended()
        self._finished = True

    def _executed(self, number: int) -> Executed:
        return "no" if self._said_goodbye or number > self.writer.handed_over else "maybe"

    def _lost(self, number: int, why: str = "the connection is closed") -> ConnectionLost:
        kind = ServerLeaving if self._said_goodbye else ConnectionLost
        return kind(f"{self._name}: {why}", executed=self._executed(number))

    def _check_length(self, line: bytes, deadline: float | None) -> None:
        """Refuse a line that the server would refuse, together with the whole connection.

        The first long line waits until the server has said how long they may be.
        """
        if self._fits == ASK_ABOVE:
            try:
                reply = self.call(OWN_CMDID, {"op": "limits"}, deadline, None, raw=True)
                limits = result_of(reply, Limits) if reply.code == 0 else Limits()  # before 0.3.0
            except GtcpError as exc:
                exc.executed = "no"  # it tells of the question
                raise
            if self._closed:
                raise self._lost(self.writer.count + 1)
            self._fits = inf if limits.max_line_bytes is None else limits.max_line_bytes + 1
        if len(line) > self._fits:
            message = f"a request line may have at most {self._fits - 1} bytes"
            raise RemoteError(TOO_LARGE, message)

    def _caller(self, deadline: float | None) -> Call:
        """The calling greenlet; raises BlockingSwitchOutError in a callback of the event loop."""
        caller = getcurrent()
        if caller is self._hub or caller is self.keeper:  # it would wait for itself, for ever
            raise BlockingSwitchOutError("a call can't wait in a callback of the event loop")
        return Call(deadline, self._hub)

    def _milliseconds_until(self, deadline: float) -> int:
        """The time left, as on the wire; raises CallTimeout when there is none."""
        milliseconds = int((deadline - monotonic()) * 1000)
        if milliseconds <= 0:
            raise CallTimeout(f"{self._name}: the deadline passed", executed="no")
        return milliseconds

    # What the event loop calls, in the keeper

    def _expire(self, now: float) -> float | None:
        """Fail the calls whose deadline has passed, unless their replies have arrived."""
        due = self._due(now)
        if due and not self._closed:
            self._on_readable()
        for number, waiter in due:
            for calls in (self.waiting, self._notifiers):
                if calls.get(number) is waiter:
                    executed: Executed = "no" if self.writer.take_back(number) else "maybe"
                    error = CallTimeout(f"{self._name}: the deadline passed", executed=executed)
                    waiter.deliver(error)
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
                waiter.deliver(reply)
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

    def _protocol_error(self, why: str) -> None:
        self._end(lambda number: ProtocolError(f"{self._name}: {why}", executed="maybe"))

    def _broken(self, exc: OSError) -> None:
        why = exc.strerror or str(exc)

        def outcome(number: int) -> ConnectionLost:
            error = self._lost(number, why)
            error.__cause__ = exc
            return error

        self._end(outcome)

    def _places_freed(self) -> None:
        """Calls have ended: others may take their places, unless this connection ends too."""
        if not self.usable and not self.waiting:
            self.close()
        else:
            self._freed()

    def _reply_outside_the_hub(self, call: Call) -> Reply | None:
        """Wait in the calling greenlet for the reply of the only call; None to wait in the hub."""
        written = call.number == self.writer.written
        if self._notifiers or not written or not is_only_watcher(self._loop):
            return None
        seconds = OUTSIDE_HUB_SECONDS
        if call.deadline is not None:
            seconds = max(0.0, min(seconds, call.deadline - monotonic()))
        if not self._busy_poll.wait(seconds):
            return None
        # Checked again: a signal handler may have run meanwhile, and may have done anything.
        if is_only_watcher(self._loop) and self.waiting.keys() == {call.number}:
            self._on_readable()
        return call.outcome if isinstance(call.outcome, Reply) else None
