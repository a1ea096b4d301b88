"""The state of a process for operators: connections, running calls and where they wait."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable
from heapq import nlargest, nsmallest
from itertools import islice
from time import monotonic, time
from typing import Any

from msgspec.structs import asdict

from gtcp.masking import shown
from gtcp.server.commands.table import Item
from gtcp.server.connections.context import Context
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.ops.logger import MAX_IDENTITY_CHARS, escape
from gtcp.server.ops.metrics import OTHER
from gtcp.server.ops.stacks import stack_from
from gtcp.server.ops.status import (
    LISTED,
    MethodCount,
    OpenConnection,
    ProcessStatus,
    Rates,
    RunningCall,
    Status,
    merged,
)
from gtcp.server.setting_layers import to_toml
from gtcp.transport import address
from gtcp.transport.identity import Peer, fits
from gtcp.version import __version__

#: Connections that are looked at to find the busiest ones; those with calls in flight come first.
LOOKED_AT = 1000

#: Running calls in the answer to ``{"op": "stacks"}``, those of the process that answers.
STACKS = 1000


def is_exposed(context: Context, sockets: Iterable[socket.socket]) -> bool:
    """Return whether other hosts can reach a server that listens on these sockets."""
    proxied = bool(context.settings.proxy_from)
    return proxied or any(address.is_exposed(each.getsockname()) for each in sockets)


def may_inspect(context: Context, peer: Peer) -> bool:
    """Return whether a peer may see what the server does.

    With the setting ``operators`` those that it names; else everybody, if the server can be reached
    from its own host only.
    """
    operators = context.settings.operators
    return fits(peer.names, operators) if operators else not context.exposed


def inspect(context: Context, peer: Peer, op: str) -> object:
    """Return the answer to a request about the server.

    Args:
        op: "health"; "status", or "stacks" for the running calls alone, with all of this process.

    Returns:
        None if the peer may not know.
    """
    if op == "health":
        return context.health.describe()
    if not may_inspect(context, peer):
        return None
    most = STACKS if op == "stacks" else LISTED
    if context.operations is not None:
        status: Status = context.operations.status(most)
    else:
        status = merged(process_status(context, None, most), (), most)
    return status.calls if op == "stacks" else status


def process_status(context: Context, rates: Rates | None, most: int = LISTED) -> ProcessStatus:
    """Describe the process of a server.

    Args:
        rates: of its methods; None without an admin port.
        most: how many running calls to list.
    """
    return ProcessStatus(
        os.getpid(),
        __version__,
        monotonic() - context.began,
        context.health.status,
        len(context.connections),
        len(context.in_flight),
        context.scheduler.queued.total(),
        context.handled,
        rates is not None,
        _methods(context, {} if rates is None else rates.rows()),
        _oldest(context, most),
        _busiest(context),
        {name: _shown(value) for name, value in asdict(context.settings).items()},
    )


def _requests(context: Context) -> list[tuple[ServingGreenlet, Item]]:
    """Return the requests whose handlers wait, with the greenlets that run them."""
    found = ((each, each.request) for each in context.in_flight)
    return [(each, request) for each, request in found if request is not None and request._source]


def _oldest(context: Context, most: int) -> list[RunningCall]:
    now = monotonic()
    oldest = nsmallest(most, _requests(context), key=lambda each: each[1]._source.arrived)
    return [
        RunningCall(
            os.getpid(),
            request._source.connection.address,
            request.id,
            request.cmdid or 0,
            _method_of(context, request.cmdid),
            now - request._source.arrived,
            stack_from(greenlet.gr_frame),
        )
        for greenlet, request in oldest
    ]


def _methods(context: Context, rows: dict[str, MethodCount]) -> list[MethodCount]:
    running = Counter(_method_of(context, request.cmdid) for _, request in _requests(context))
    waiting: Counter[str] = Counter()
    for cmdid, number in context.scheduler.queued.items():
        waiting[_method_of(context, cmdid)] += number
    for name in running.keys() | {name for name, number in waiting.items() if number}:
        rows.setdefault(name, MethodCount(name))
    for name, row in rows.items():
        row.in_flight, row.queued = running[name], waiting[name]
    return list(rows.values())


def _method_of(context: Context, cmdid: int | None) -> str:
    command = None if cmdid is None else context.table.commands.get(cmdid)
    return OTHER if command is None else command.name


def _busiest(context: Context) -> list[OpenConnection]:
    found: set[Any] = {request._source.connection for _, request in _requests(context)}
    found.update(islice(context.connections, LOOKED_AT))
    busiest = nlargest(LISTED, found, key=lambda each: (len(each.in_flight), each.handled))
    return [
        OpenConnection(
            os.getpid(),
            each.address,
            each.peer.identity and escape(each.peer.identity, MAX_IDENTITY_CHARS),
            len(each.in_flight),
            each.handled,
            max(0.0, time() - each.since),
        )
        for each in busiest
    ]


def _shown(value: Any) -> str:
    return to_toml(shown(value) if isinstance(value, str) else value)
