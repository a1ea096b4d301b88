"""Load shedding: which requests are refused, and how long queued requests wait.

A refused request costs a look at its head: its params are not decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import msgspec

from gtcp.protocol.messages import DEADLINE_EXCEEDED, OVERLOADED, OWN_CMDID, Failure, Head
from gtcp.server.commands.command import RETRY_AFTER
from gtcp.server.commands.table import Table
from gtcp.server.connections.scheduler import SLICE_SECONDS, Scheduler

#: An expected wait shorter than this refuses nothing: the refusal would not arrive earlier.
SHORT_SECONDS = 0.01

#: Factor between an estimated wait and the one that is refused: a request that runs at the last
#: moment is often answered too late.
MARGIN = 1.25

#: Weight of a new duration in the moving average of its command.
WEIGHT = 0.1

#: Durations of a command that make an estimate: a single slow call says nothing about the next.
ENOUGH = 3

#: Factor over the average up to which a new duration counts, for the same reason.
MAX_JUMP = 4.0

#: Seconds after which an estimate is forgotten: what made the command slow may be over.
FRESH_SECONDS = 1.0


class Refusal(msgspec.Struct, gc=False):
    """A request that is refused.

    Attributes:
        head: the request without its params.
        reply: what its caller receives, unless it is oneway.
        size: bytes of its line, newline included.
    """

    head: Head
    reply: Failure
    size: int


#: Decides about one request, given when it arrived: its reply when it is refused, else None.
Decide = Callable[[Any, float], Failure | None]


def late(request_id: int | str | None) -> Failure:
    """Return the reply to a request whose deadline passed before its handler started."""
    message = "the deadline passed before the call"
    return Failure(DEADLINE_EXCEEDED, message, request_id, {"executed": "no"})


def would_expire(request_id: int | str | None, wait: float) -> Failure:
    """Return the reply to a request that would wait in the queue beyond its deadline."""
    message = "its deadline would pass before its turn"
    return Failure(OVERLOADED, message, request_id, {"retry_after": round(wait, 3)})


def over_limit(request_id: int | str | None) -> Failure:
    """Return the reply to a request that exceeds a limit of requests in flight."""
    return Failure(OVERLOADED, "too many calls in flight", request_id, {"retry_after": RETRY_AFTER})


def shed(table: Table, lines: bytes, arrived: float, decide: Decide) -> tuple[list[Refusal], bytes]:
    """Refuse some of these requests.

    Requests of unknown commands are kept, and so is everything from a line on that is not a
    request: the decoder finds out what to answer. Behind a request without an id that is kept,
    those without an id are kept too: their replies are in order.

    Returns:
        The refusals, and the lines that are kept.
    """
    refusals: list[Refusal] = []
    kept: list[bytes] = []
    behind = False
    rest = iter(lines.split(b"\n")[:-1])
    for line in rest:
        head = table.read_head(line)
        if head is None:
            kept += [line, *rest]
            break
        in_order = head.id is None and not head.oneway
        reply = None
        if head.cmdid in table.commands and not (behind and in_order):
            reply = decide(head, arrived)
        if reply is None:
            kept.append(line)
            behind = behind or in_order
        else:
            refusals.append(Refusal(head, reply, len(line) + 1))
    return refusals, b"".join(line + b"\n" for line in kept)


def decide_by_limit(ordered: bool) -> Decide:
    """Refuse requests while a limit of requests in flight is reached.

    Those behind a command of gtcp's own are kept: a cancellation makes room. Without an id they
    are kept if one is in flight, for which they have to wait anyway.

    Args:
        ordered: whether a request without an id is in flight or queued.
    """
    room = False

    def decide(head: Any, arrived: float) -> Failure | None:
        nonlocal room
        room = room or head.cmdid == OWN_CMDID
        keeps_order = ordered and head.id is None
        return None if room or keeps_order else over_limit(head.id)

    return decide


class Durations:
    """Estimates of how long handlers compute, one for each command. Belongs to one hub.

    They are moving averages of processor time: the wall clock also counts the time in which other
    processes had the processor.
    """

    def __init__(self) -> None:
        self._known: dict[int, list[float]] = {}  # cmdid -> [seconds, number, when]

    def of(self, cmdid: int | None, now: float) -> float:
        """Return the estimate for a command in seconds; 0 when there is none."""
        known = None if cmdid is None else self._known.get(cmdid)
        if known is None or known[1] < ENOUGH or now - known[2] > FRESH_SECONDS:
            return 0.0
        return known[0]

    def total(self, number_of: Mapping[int | None, int], now: float) -> float:
        """Return how long so many requests of each command compute, in seconds."""
        return sum(number * self.of(cmdid, now) for cmdid, number in number_of.items() if number)

    def note(self, cmdid: int | None, seconds: float, now: float) -> None:
        """Learn how long a handler has computed."""
        if cmdid is None:  # not a request
            return
        known = self._known.get(cmdid)
        if known is None or now - known[2] > FRESH_SECONDS + seconds:
            self._known[cmdid] = [seconds, 1, now]
            return
        average, number, _ = known
        if number >= ENOUGH:
            seconds = min(seconds, MAX_JUMP * average)
        known[0] = average + max(WEIGHT, 1 / (number + 1)) * (seconds - average)
        known[1], known[2] = number + 1, now


def decide_by_wait(
    scheduler: Scheduler, durations: Durations, own: float, ahead: float, in_order: bool
) -> Decide | None:
    """Refuse requests that would wait in the queue beyond their deadline; None if none would.

    One without an id that is not the first of its connection is kept: its reply has to wait for
    the replies before it.

    Args:
        own: seconds that the requests queued on their connection will compute.
        ahead: seconds of these that are before them.
        in_order: whether a request of their connection is queued, or in flight without an id.
    """
    now = monotonic()
    seconds = durations.total(scheduler.queued, now)
    if seconds < SHORT_SECONDS / MARGIN:
        return None
    others = max(0.0, seconds - own)
    # Each slice of this connection is followed by one of each other connection in the queue.
    average = seconds / max(1, scheduler.queued.total())
    slice_of_others = len(scheduler) * max(SLICE_SECONDS, average)

    def decide(head: Any, arrived: float) -> Failure | None:
        nonlocal ahead, in_order
        cost = durations.of(head.cmdid, now)
        before = min(others, (1 + ahead // SLICE_SECONDS) * slice_of_others)
        wait = ahead + cost + before
        keeps_order = in_order and head.id is None and not head.oneway
        if head.timeout is not None and head.cmdid != OWN_CMDID and not keeps_order:
            left = arrived + head.timeout / 1000 - now
            if left < 0:
                return late(head.id)
            if wait >= SHORT_SECONDS and left <= MARGIN * wait:
                return would_expire(head.id, wait)
        ahead += cost
        in_order = True
        return None

    return decide
