"""Requests that are not run, for what else there is to do: only heads are decoded."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import msgspec

from gtcp.protocol import LATE, OVERLOADED, OWN_CMDID, Failure, Head, count_lines
from gtcp.server.command import RETRY_AFTER
from gtcp.server.table import Table

#: Waiting for less is not worth a look at whether it is too long: the refusal comes as soon.
SHORT_SECONDS = 0.01

#: How much longer than estimated the wait for a turn may turn out to be: what would be served
#: at the last moment is served in vain.
MARGIN = 1.25


class Refusal(msgspec.Struct, gc=False):
    """A request that is refused.

    Attributes:
        head: what was asked for.
        reply: what is answered, if an answer is wanted.
        size: bytes of the line, with its newline.
    """

    head: Head
    reply: Failure
    size: int


def late(request_id: int | str | None) -> Failure:
    """The answer to a request whose deadline passed before its handler could start."""
    return Failure(LATE, "the deadline passed before the call", request_id, {"executed": "no"})


def in_vain(request_id: int | str | None, wait: float) -> Failure:
    """The answer to a request whose deadline would pass before its turn, in so many seconds."""
    message = "its deadline would pass before its turn"
    return Failure(OVERLOADED, message, request_id, {"retry_after": round(wait, 3)})


def overloaded(request_id: int | str | None) -> Failure:
    """The answer to a request that would be one too many."""
    return Failure(OVERLOADED, "too many calls in flight", request_id, {"retry_after": RETRY_AFTER})


def refuse_first(
    table: Table, lines: bytes, *, behind_another: bool
) -> tuple[list[Refusal], bytes]:
    """Refuse what would be one too many.

    Args:
        behind_another: whether one without an id is in flight.

    Returns:
        The refusals, and the lines that are left. Those begin with one of gtcp's own, which
        makes room; or with what has to wait for its turn, since it has no id and neither has
        one in flight; or with what is unknown or can't be read.
    """
    refusals = []
    start = 0
    while start < len(lines):
        end = lines.index(b"\n", start) + 1
        head = table.read_head(lines[start:end])
        if head is None or head.cmdid not in table.commands or head.cmdid == OWN_CMDID:
            break
        if head.id is None and behind_another:
            break
        refusals.append(Refusal(head, overloaded(head.id), end - start))
        start = end
    return refusals, lines[start:]


def refuse_late(
    table: Table, lines: bytes, arrived: float, ahead: int, wait_of: Callable[[int], float]
) -> tuple[list[Refusal], bytes]:
    """Refuse what would be too late by its turn.

    What has no id and is not the first keeps its place, in which it is told.

    Args:
        arrived: when the lines came, monotonic seconds.
        ahead: how many requests of their connection are before them.
        wait_of: seconds until the turn of a request with so many before it.

    Returns:
        The refusals, and the lines that are left.
    """
    now = monotonic()
    if wait_of(ahead + count_lines(lines)) < SHORT_SECONDS:
        return [], lines
    refusals: list[Refusal] = []
    left: list[bytes] = []
    each = iter(lines.split(b"\n")[:-1])
    for line in each:
        before = ahead + len(left)
        wait = wait_of(before)
        head = table.read_head(line)
        if head is None:  # if it can't be read, nothing behind it is answered
            left += [line, *each]
            break
        known = head.cmdid in table.commands
        if not known or head.timeout is None or head.cmdid == OWN_CMDID:
            left.append(line)
            continue
        time_left = arrived + head.timeout / 1000 - now
        if time_left > MARGIN * wait or (before and head.id is None and not head.oneway):
            left.append(line)
            continue
        reply = late(head.id) if time_left < 0 else in_vain(head.id, wait)
        refusals.append(Refusal(head, reply, len(line) + 1))
    return refusals, b"".join(line + b"\n" for line in left)


def without_callers(table: Table, lines: bytes) -> bytes:
    """What is left of lines whose sender has hung up before their turn.

    As when calls in flight are cancelled: what has an id is left out, unless its command is to
    run to its end. What can't be read ends the stream, when it is its turn.
    """

    def stays(line: bytes) -> bool:
        head = table.read_head(line)
        if head is None or head.id is None:
            return True
        command = table.commands.get(head.cmdid)
        return command is not None and command.run_to_end

    return b"".join(line + b"\n" for line in lines.split(b"\n")[:-1] if stays(line))
