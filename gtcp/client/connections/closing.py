"""The state of a client's connection, its keeper, and how it ends.

**The keeper.** Everything that the event loop calls (data to read, the socket is writable, a
deadline, queued lines to send) runs in a greenlet of the connection, its keeper: the watchers'
callback is the keeper's ``switch``. It never blocks. In a callback of the hub itself, an exception
raised by a signal handler would end in gevent, which stops the watcher; in the keeper it closes
the connection, fails the calls in flight and is raised again in the main greenlet.

**Exceptions at any point.** Wherever a ``BaseException`` is raised in here, by a signal handler
between any two instructions, the connection afterwards is either intact or closed, and
``executed`` is right. What was received and not yet delivered would be lost, and of a send that
was interrupted nobody knows how much has left: both close the connection.
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
from greenlet import GreenletExit, getcurrent, greenlet

from gtcp.client.connections.busy_poll import OUTSIDE_HUB_SECONDS, BusyPoll
from gtcp.client.connections.forks import handle_fork, same_process
from gtcp.client.connections.reply import Replies
from gtcp.client.connections.waiter import Call, Waiter
from gtcp.client.connections.write_buffer import WriteBuffer
from gtcp.deadline import Alarm
from gtcp.errors import (
    ConnectionLost,
    Executed,
    GtcpError,
    ProtocolError,
    ServerLeaving,
)
from gtcp.protocol.messages import (
    Reply,
)
from gtcp.transport.sockets import READ, Stream, close_quietly

#: Bytes of a line that is sent without asking the server how long lines may be.
ASK_ABOVE = 64 * 1024


class ClosingConnection:
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
        hub: the hub that it belongs to.
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
        self.hub = get_hub()
        self._loop = self.hub.loop
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
        keeper.parent = self.hub
        self._alarm.through = keeper.switch
        self._reader.start(keeper.switch, self._on_readable)
        self.usable = True

    def _keep(self) -> None:
        try:
            # Not a loop here: from Python 3.12 on, a signal handler's exception between two rounds
            # of a loop is not caught by a `try` around it in the same function.
            self._keep_on()
        except GreenletExit:
            pass  # the connection is closed, or the process forgets it
        except BaseException as exc:  # raised by a signal handler, or out of memory
            self.interrupted(exc)
            if self.keeper.parent is not self.hub:
                raise  # in the greenlet that opens the connection
            if not isinstance(exc, MemoryError):
                # Raises it in the main greenlet, as gevent does for a signal's handler.
                self.hub.handle_system_error(*sys.exc_info())

    def _keep_on(self) -> None:
        function: Callable[[], object] = self.keeper.parent.switch()
        while not self._closed:
            if same_process[0]:
                function()
            else:
                handle_fork()
            function = self.hub.switch()

    def _end_keeper(self) -> None:
        """End the keeper of a closed connection, unless it is the caller, which ends by itself.

        Not in a callback of the event loop, which may never run again: a greenlet that waits for
        ever is never freed, and neither is what it refers to.
        """
        keeper, caller = self.keeper, getcurrent()
        if keeper is None or keeper is caller:
            return
        if not keeper.dead:
            keeper.parent = caller
            keeper.throw(GreenletExit)
        keeper.parent = self.hub  # callbacks that still are to switch to it end up there

    # Closing

    def close(self) -> None:
        """Close at once; calls in flight raise ConnectionLost."""
        if not self._closed:
            # The goodbye of TLS: without it, a server would take the last bytes for cut off.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._end(self._lost)

    def shut(self) -> None:
        """Shut the socket down. For other threads, which may do no more than this.

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
                self._fail(number, waiter, outcome(number))
                calls.pop(number, None)  #
        self._end_keeper()
        self._ended()
        self._finished = True

    def _fail(self, _number: int, waiter: Waiter, error: GtcpError) -> None:
        """Give a call the error that ended it."""
        waiter.deliver(error)

    def _executed(self, number: int) -> Executed:
        return "no" if self._said_goodbye or number > self.writer.handed_over else "maybe"

    def _lost(self, number: int, why: str = "the connection is closed") -> ConnectionLost:
        kind = ServerLeaving if self._said_goodbye else ConnectionLost
        return kind(f"{self._name}: {why}", executed=self._executed(number))

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

    # Added by subclasses

    def on_written(self) -> None:
        """Act on lines that the kernel took later than they were sent."""
        raise NotImplementedError

    def on_write_error(self, exc: OSError) -> None:
        """Act on a failed write."""
        raise NotImplementedError

    def _expire(self, now: float) -> float | None:
        raise NotImplementedError

    def _on_readable(self) -> bool:
        raise NotImplementedError
