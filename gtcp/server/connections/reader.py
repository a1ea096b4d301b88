"""From the bytes that one connection receives to its requests. No sockets here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gtcp.protocol.framing import LineBuffer
from gtcp.protocol.messages import BAD_REQUEST, TOO_LARGE, Origin, Request, Source
from gtcp.server.commands.table import Item, Rejection, Table, is_cancel, is_credit

NO_PROXY = "a PROXY header is not taken from this address, which is not in proxy_from"

#: First bytes of clients that speak another protocol: a TLS handshake record, a PROXY header.
OTHER_PROTOCOLS = (
    (b"\x16\x03", "TLS is not spoken here"),
    (b"PROXY ", NO_PROXY),
    (b"\r\n\r\n\x00\r\nQUIT\n", NO_PROXY),
)

#: Cancels the requests with an id that are among these, queued or in flight.
Cancel = Callable[["int | str | None", "list[Item]"], None]


class RequestReader:
    """Cuts a stream into lines and decodes them.

    Args:
        connection: where the stream is from.
        table: decodes the lines.
        max_line_bytes: the longest line taken, its newline not counted.

    Attributes:
        buffer: bytes received and not parsed yet.
        handled: requests received so far.
        uses_ids: a request with an id was among those that were not read one by one; the first
            request is one of them.
        is_over: nothing behind the last request can be read: it was not one, or was too long.
    """

    __slots__ = (
        "_connection",
        "_max_line_bytes",
        "_table",
        "_wrong",
        "buffer",
        "handled",
        "is_over",
        "uses_ids",
    )

    def __init__(self, connection: Origin, table: Table, max_line_bytes: int) -> None:
        self.buffer = LineBuffer(max_line_bytes)
        self.handled = 0
        self.is_over = self.uses_ids = False
        self._connection = connection
        self._table = table
        self._max_line_bytes = max_line_bytes
        self._wrong = ""  # the other protocol that the peer speaks

    def first_lines(self, data: bytes) -> bytes:
        """Return what ``buffer.feed`` does, unless the peer speaks another protocol.

        Called until a request was received.
        """
        if not self.buffer.begun:
            for beginning, message in OTHER_PROTOCOLS:
                if data.startswith(beginning):
                    self._wrong = message
                    return b""
        return self.buffer.feed(data)

    def one_request(self, data: bytes, arrived: float) -> Request[Any] | None:
        """Return the request when this data is just the line of one; the fast path."""
        if self.buffer.begun or not self.handled or self.is_over:
            return None
        request = self._table.read_one(data, self._connection, arrived)
        if request is not None:
            self.handled += 1
        return request

    @property
    def broken(self) -> bool:
        """Whether the data behind the complete lines breaks the protocol."""
        return bool(self._wrong) or self.buffer.overflow

    def requests(self, lines: bytes, arrived: float, cancel: Cancel) -> list[Item]:
        """Decode lines, and say what is wrong with the rest of the data.

        Args:
            arrived: when the lines arrived, monotonic seconds.
            cancel: called for each cancellation among several requests, with the requests before
                it: it takes effect before those run. Credit takes effect at once, too.
        """
        if self.is_over:
            return []
        items = self._table.read(lines, self._connection, arrived) if lines else []
        self.handled += len(items)
        self.uses_ids = self.uses_ids or any(item.id is not None for item in items)
        if lines.find(b'"cancel"') >= 0:
            for place, item in enumerate(items):
                if is_cancel(item):
                    assert isinstance(item, Request)
                    cancel(item.params.id, items[:place])
                    item.params.id = None  # when it is answered, its id may be in use again
        if lines.find(b'"credit"') >= 0:
            items = self._with_credit(items)
        if self.buffer.overflow or self._wrong:
            items.append(self._protocol_error(arrived))
        if items and isinstance(items[-1], Rejection) and items[-1].fatal:
            self.is_over = True
        return items

    def _with_credit(self, items: list[Item]) -> list[Item]:
        """Have the grants of credit that want no reply take effect; return the other requests."""
        others: list[Item] = []
        for item in items:
            if item.oneway and is_credit(item):
                assert isinstance(item, Request)
                self._connection.credit(item.params.id, item.params.n, others)
            else:
                others.append(item)
        return others

    def _protocol_error(self, arrived: float) -> Rejection:
        too_long = f"a request line may have at most {self._max_line_bytes} bytes"
        code, message = (BAD_REQUEST, self._wrong) if self._wrong else (TOO_LARGE, too_long)
        item = Rejection(code, message)
        item._source = Source(self._connection, b"", arrived)
        return item
