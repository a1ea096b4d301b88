"""Several requests that came together on a connection, on their way through the runners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, final

from gevent import spawn

from gtcp.protocol import Batch, Request, count_lines
from gtcp.server.outcome import checked
from gtcp.server.table import Item

if TYPE_CHECKING:
    from gtcp.server.connection import Connection


@final
class Work(Batch, gc=False):
    """A batch on its way through the runners; its peer is the connection it came by.

    Attributes:
        items: what was read from the lines, in their order; taken away when all have run,
            since they refer to the work.
        pending: the items that no runner has taken yet; shared by the runners that follow
            one another.
        replies: the lines of the requests that ran quickly, in their order, without newlines.
        quick: whether nothing needs a closer look: all requests, none to be queued or refused.
    """

    peer: Connection
    items: Sequence[Item]
    pending: Iterator[Any]
    replies: list[bytes]
    quick: bool = True

    def current(self) -> Request[Any]:
        """The request that was taken last: a list's iterator tells how many are left."""
        item = self.items[len(self.items) - length_hint(self.pending) - 1]
        assert isinstance(item, Request)
        return item

    def said(self) -> bytes:
        """The replies as what is sent; they are taken away."""
        lines = self.replies
        limit = self.peer.outlet.longest_reply
        data = b"\n".join(lines) + b"\n"
        if count_lines(data) != len(lines) or len(data) > limit:
            requests = (each for each in self.items if isinstance(each, Request))
            wanted = (each for each in requests if not each.oneway)
            data = b"".join(
                checked(line, request, limit, spawn)
                for line, request in zip(lines, wanted, strict=False)
            )
        lines.clear()
        return data

    def sizes(self) -> Iterator[int]:
        """How long each line is, with its newline."""
        return (len(line) + 1 for line in self.data.split(b"\n"))

    def line_of(self, request: Request[Any]) -> bytes:
        """The line that this request was read from; empty when the items were taken away."""
        if self.data.find(b"\n") == len(self.data) - 1:
            return super().line_of(request)
        lines = self.data.split(b"\n")
        found = (line for line, item in zip(lines, self.items, strict=False) if item is request)
        return next(found, b"").removesuffix(b"\r")

    def narrowed(self, request: Request[Any]) -> Batch:
        """A batch of this request alone, for one that outlives its wake-up."""
        return Batch(self.peer, self.line_of(request) + b"\n", self.arrived)
