"""The requests of one connection on their way to the runners.

Lines are served as soon as they have come, in pieces whose size depends on how long the last one
took. What comes while handlers compute is held: it waits for its turn in the backlog, and what
would be too late by then is refused at once. Nothing here waits.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from gtcp.protocol import BAD_REQUEST, TOO_LARGE, LineBuffer
from gtcp.server.backlog import TURN_SECONDS, Held
from gtcp.server.ready import RECV_BYTES, SLICE_SECONDS
from gtcp.server.refusal import refuse_late, without_callers
from gtcp.server.table import Rejection, Table

if TYPE_CHECKING:
    from gtcp.server.backlog import Backlog
    from gtcp.server.connection import Connection

NO_PROXY = "a PROXY header is not taken from this address, which is not in proxy_from"

#: What a client sends first that takes us for something else: a TLS handshake record of some
#: version 3.x, and what begins the headers of the PROXY protocol.
OTHERS = (
    (b"\x16\x03", "TLS is not spoken here"),
    (b"PROXY ", NO_PROXY),
    (b"\r\n\r\n\x00\r\nQUIT\n", NO_PROXY),
)

#: How much is run before its replies are sent: it bounds what a peer that sends many requests
#: and takes no replies can make a server keep, and is more than a busy client sends at once.
PIECE_BYTES = 4096

#: The same for a connection of which nothing is known yet: its handlers may be slow.
FIRST_PIECE_BYTES = 512

#: Seconds for which a connection goes on with what it holds before others have their turn.
STRETCH_SECONDS = 0.0005

#: What will not have run by then is looked through when its sender has hung up; what takes less is
#: simply run, so that quick requests do not depend on when the end of the stream came.
LONG_SECONDS = 0.1


class Inlet:
    """What one connection has received and not served yet. Belongs to its hub.

    Args:
        owner: the connection; it serves the lines, and is told what can't be served.
        table: the commands.
        backlog: where lines wait for their turn.
        max_line_bytes: the longest line taken, its newline not counted.

    Attributes:
        buffer: what of a line has come.
        piece: bytes that are run in one piece.
    """

    __slots__ = (
        "_backlog",
        "_held",
        "_longest_piece",
        "_max_line_bytes",
        "_owner",
        "_table",
        "buffer",
        "piece",
    )

    def __init__(
        self, owner: Connection, table: Table, backlog: Backlog, max_line_bytes: int
    ) -> None:
        self.buffer = LineBuffer(max_line_bytes)
        self._longest_piece = min(PIECE_BYTES, max_line_bytes)
        self.piece = min(FIRST_PIECE_BYTES, self._longest_piece)
        self._owner = owner
        self._table = table
        self._backlog = backlog
        self._max_line_bytes = max_line_bytes
        self._held: Held | None = None  # what was received and has to wait

    @property
    def holds(self) -> bool:
        """Whether something waits for its turn, be it the end of the stream."""
        return bool(self._held)

    @property
    def full(self) -> bool:
        """Whether enough waits: no more is to be read."""
        return self._held is not None and self._held.size >= RECV_BYTES

    def receive(self, data: bytes, now: float, *, waits: bool) -> None:
        """Take what has come.

        Args:
            now: when that was, monotonic seconds.
            waits: whether it has to wait for its turn, as others do.
        """
        if not (self._owner.handled or self.buffer.begun):
            for beginning, message in OTHERS:
                if data.startswith(beginning):
                    self._owner.reject(Rejection(BAD_REQUEST, message))
                    return
        lines = self.buffer.feed(data)
        if self.buffer.begun:
            self._owner.owes_the_rest()
        several = len(lines) > self.piece and lines.find(b"\n") < len(lines) - 1
        if waits or self._held or several:
            if lines:
                self._put(lines, now)
            self.wait_for_turn() if waits else self.go_on()
            return
        if lines:
            self._owner.serve(lines, now)
            if self._owner.ordered:
                self._owner.read_on_or_not()
        self._look_for_overflow()

    def end(self, now: float) -> None:
        """Nothing more comes: what still waits, for long, is mostly for nobody."""
        if self._held:
            self._owner.callers_have_gone()
            if self._held.wait(self._held.requests) > LONG_SECONDS:
                self._held.keep(lambda lines: without_callers(self._table, lines))
            self._held.put(b"", now)
        else:
            self._owner.end_of_stream()

    def go_on(self) -> None:
        """Serve what is held for a while, as long as replies are taken and few wait.

        The rest has its turn after others.
        """
        until = monotonic() + STRETCH_SECONDS
        while self._held and self._owner.may_serve():
            if self._run_a_piece(self._held) >= until:
                break
        self.wait_for_turn()

    def wait_for_turn(self) -> None:
        """Have what is held run when those before have had their turn."""
        if self._held and self._owner.may_serve():
            self._held.wait_for_turn(self._sift)
        self._owner.read_on_or_not()
        self._look_for_overflow()

    def pace(self, seconds: float) -> None:
        """Choose how much is run in one piece, by how long the last one took.

        A piece runs whole: of handlers that compute, it must be a small one.
        """
        if seconds > SLICE_SECONDS:
            self.piece = max(self.piece // 8, 1)
        elif seconds < TURN_SECONDS and self.piece < self._longest_piece:
            self.piece = min(2 * self.piece, self._longest_piece)

    def take_all(self) -> bytes:
        """Take what is held: it is not served any more."""
        held, self._held = self._held, None
        return held.take_all() if held is not None else b""

    def _put(self, lines: bytes, now: float) -> None:
        if self._held is None:
            self._held = Held(self._backlog, self._owner.have_turn)
        self._held.put(lines, now)

    def _run_a_piece(self, held: Held) -> float:
        """Returns when that was done, monotonic seconds."""
        lines, arrived = held.take(self.piece)
        began = monotonic()
        if not lines:
            self._look_for_overflow()
            if not self._owner.leaving:
                self._owner.end_of_stream()
            return began
        count = self._owner.serve(lines, arrived)
        self._owner.active = done = monotonic()
        self.pace(done - began)
        if count:
            self._backlog.note(done - began, count)
        return done

    def _sift(self, lines: bytes, arrived: float, ahead: int) -> bytes:
        """Refuse what would be too late by its turn; the rest is returned."""
        if self._held is None:  # closed when its peer was told of refusals
            return b""
        ahead += self._owner.ordered is not None
        refusals, left = refuse_late(self._table, lines, arrived, ahead, self._held.wait)
        self._owner.tell(refusals)
        return left if self._held is not None else b""

    def _look_for_overflow(self) -> None:
        """Refuse a line that is too long, when those before it have run."""
        if self.buffer.overflow and not self._held and not self._owner.leaving:
            message = f"a request line may have at most {self._max_line_bytes} bytes"
            self._owner.reject(Rejection(TOO_LARGE, message))
