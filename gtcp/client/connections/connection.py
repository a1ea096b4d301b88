"""One socket, many calls in flight on it.

A call that is the only one sends its line at once. Others queue theirs: the lines queued in one
iteration of the event loop leave in one ``send``. A reply finds its call by the id. A call that
stops waiting (deadline, kill) removes its id, so a late reply is recognised and dropped, and the
connection stays usable.

``closing.py`` holds the connection's state and how it ends, ``receiving.py`` what the event loop
calls, this module what a caller does. The only call of a thread in which nothing else happens waits
for its reply outside the event loop (see ``busy_poll``).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

from gevent.exceptions import BlockingSwitchOutError
from greenlet import getcurrent

from gtcp.client.connections.busy_poll import OUTSIDE_HUB_SECONDS, is_only_watcher
from gtcp.client.connections.closing import ASK_ABOVE
from gtcp.client.connections.receiving import ReceivingConnection
from gtcp.client.connections.reply import Limits, result_of
from gtcp.client.connections.waiter import Call, Waiter
from gtcp.errors import (
    CallTimeout,
    GtcpError,
    RemoteError,
)
from gtcp.protocol.messages import (
    OWN_CMDID,
    TOO_LARGE,
    Outgoing,
    Reply,
    encode_request,
)
from gtcp.transport.sockets import unheard

#: Seconds after which an idle connection is read from before it is used again.
STALE_AFTER = 0.001


class Connection(ReceivingConnection):
    """An open connection to a server; see ``ClosingConnection``. Belongs to the hub it was made in.

    It can be used once ``start`` was called.

    Attributes:
        commands: what ``gtcp.client.names`` knows of the server's commands; None before it asked.
        watchers: the connections that the event loop reads from, if calls are in flight on this one
            only.
    """

    commands: tuple[Any, ...] | None = None
    watchers = 1

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
        self,
        waiter: Waiter,
        cmdid: int,
        params: Any,
        meta: dict[str, str] | None = None,
        request: Callable[..., Outgoing] = Outgoing,
    ) -> None:
        """Queue one request whose reply goes to ``waiter``, which gets its number.

        Args:
            request: makes the request, of the arguments of ``Outgoing``.
        """
        writer = self.writer
        try:
            writer.busy = True  # a call that a signal handler makes here uses another connection
            number = writer.handed_over + len(writer.lines) + 1
            deadline = waiter.deadline
            timeout = None if deadline is None else self._milliseconds_until(deadline)
            line = encode_request(request(cmdid, number, timeout, params, False, meta))
            if len(line) > self._fits:
                writer.busy = False
                self._check_length(line, deadline)
                writer.busy = True
                number = writer.count + 1  # other calls may have been sent meanwhile
                line = encode_request(request(cmdid, number, timeout, params, False, meta))
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
            self.cancel(waiter.number)
        self._places_freed()

    def cancel(self, number: int) -> None:
        """Tell the server to stop the handler of a request that was sent."""
        self._first_silent = min(self._first_silent, number)
        self.tell({"op": "cancel", "id": number})

    def tell(self, params: dict[str, Any]) -> None:
        """Send a oneway request to gtcp's own command, together with other lines."""
        if not self._closed:
            self.writer.queue(encode_request(Outgoing(OWN_CMDID, None, None, params, True)))

    def watch_deadline(self, deadline: float) -> None:
        """Have a waiter told when its deadline passes, which is this one."""
        if not self._closed and deadline < self._alarm.at:
            self._alarm.by(deadline)

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

    def is_silent(self, now: float, seconds: float) -> bool:
        """Return whether the server's host acknowledges nothing, after so long without a reply."""
        return now - self._active > seconds and unheard(self._sock)

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
        if caller is self.hub or caller is self.keeper:  # it would wait for itself, for ever
            raise BlockingSwitchOutError("a call can't wait in a callback of the event loop")
        return Call(deadline, self.hub)

    def _milliseconds_until(self, deadline: float) -> int:
        """The time left, as on the wire; raises CallTimeout when there is none."""
        milliseconds = int((deadline - monotonic()) * 1000)
        if milliseconds <= 0:
            raise CallTimeout(f"{self._name}: the deadline passed", executed="no")
        return milliseconds

    def _reply_outside_the_hub(self, call: Call) -> Reply | None:
        """Wait in the calling greenlet for the reply of the only call; None to wait in the hub."""
        written = call.number == self.writer.written
        if self._notifiers or not written or not is_only_watcher(self._loop, self.watchers):
            return None
        seconds = OUTSIDE_HUB_SECONDS
        if call.deadline is not None:
            seconds = max(0.0, min(seconds, call.deadline - monotonic()))
        if not self._busy_poll.wait(seconds):
            return None
        # Checked again: a signal handler may have run meanwhile, and may have done anything.
        if is_only_watcher(self._loop, self.watchers) and self.waiting.keys() == {call.number}:
            self._on_readable()
        return call.outcome if isinstance(call.outcome, Reply) else None
