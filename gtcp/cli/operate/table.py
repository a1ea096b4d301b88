"""The status of a server as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from gtcp.cli.output import aligned
from gtcp.server.ops.logger import escape
from gtcp.server.ops.status import RunningCall, Status

#: Running calls that are shown.
CALLS = 10


def lines(status: Status) -> Iterator[str]:
    """Yield the lines of ``gtcp top``."""
    processes = status.processes
    in_flight = sum(each.in_flight for each in processes)
    queued = sum(each.queued for each in processes)
    connections = sum(each.connections for each in processes)
    yield f"{connections} connections, {in_flight} in flight, {queued} queued"
    if not status.counted:
        yield "The server has no admin port: it counts no calls, and one process is shown."
    yield ""
    head = ("METHOD", "CALLS/S", "ERRORS/S", "P50 MS", "P99 MS", "IN FLIGHT", "QUEUED")
    rows = [
        (
            each.name,
            f"{each.rate:.1f}" if status.counted else "-",
            f"{each.errors:.1f}" if status.counted else "-",
            _milliseconds(each.p50),
            _milliseconds(each.p99),
            str(each.in_flight),
            str(each.queued),
        )
        for each in status.methods
    ]
    yield from aligned([head, *rows], range(1, len(head)))
    yield ""
    head = ("PID", "HEALTH", "UP", "CONNECTIONS", "IN FLIGHT", "QUEUED", "REQUESTS")
    rows = [
        (
            str(each.pid),
            each.health,
            _duration(each.seconds),
            str(each.connections),
            str(each.in_flight),
            str(each.queued),
            str(each.requests),
        )
        for each in processes
    ]
    yield from aligned([head, *rows], range(1, len(head)))
    if status.calls:
        yield ""
        yield "The calls that have been running longest (gtcp stacks shows where they wait):"
        yield from (f"  {heading(each)}" for each in status.calls[:CALLS])


def heading(call: RunningCall) -> str:
    """Return one line that says which call it is."""
    which = "" if call.id is None else f", id {call.id}"
    text = f"{call.method} of {call.peer}{which}, pid {call.pid}, for {_duration(call.seconds)}"
    return escape(text)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
