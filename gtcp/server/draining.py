"""The end of a drain: waiting for what is in flight, and cutting off what is left."""

from __future__ import annotations

from time import monotonic

import gevent

from gtcp.server.connections.context import Context
from gtcp.server.connections.streams import end_streams

#: Seconds between two looks at what a drain still waits for.
DRAIN_POLL_SECONDS = 0.01

#: Seconds that handlers which were cut get for their cleanup.
CUT_SECONDS = 1.0


def wait_until_empty(context: Context, until: float) -> None:
    """Wait until no connection is open and no handler is blocked."""
    while context.busy and monotonic() < until:
        gevent.sleep(DRAIN_POLL_SECONDS)


def cut(context: Context) -> None:
    """End what is left: its callers see the connection break, those of streams a reply."""
    end_streams(context, CUT_SECONDS)
    for connection in list(context.connections):
        connection.cut()
    context.in_flight.stop_all()
    wait_until_empty(context, monotonic() + CUT_SECONDS)
