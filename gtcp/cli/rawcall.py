"""``gtcp call --raw``: send one request, and print the line of its reply unchanged."""

from __future__ import annotations

from time import monotonic
from typing import Any

import click
import gevent

from gtcp.client.client import Client
from gtcp.client.connections.reply import error_of, read_reply
from gtcp.client.dialing.dial import Options, Stream
from gtcp.errors import CallTimeout, ConnectionLost, ProtocolError
from gtcp.protocol.framing import LineBuffer
from gtcp.protocol.messages import UNREADABLE, Outgoing, encode_request
from gtcp.transport.sockets import close_quietly, receive, send_all

RECV_BYTES = 65536


def print_reply_line(
    address: str,
    cmdid: int,
    params: object,
    timeout: float,
    trust: dict[str, Any] | None = None,
    *,
    meta: dict[str, str] | None = None,
) -> None:
    """Call a command, and print the line of the reply.

    Raises:
        ClickException: the line is not a reply.
        RemoteError: the reply is an error.
        Exception: as for ``call_raw``.
    """
    line = call_raw(address, cmdid, params, timeout, trust, meta=meta)
    click.echo(line, nl=False)
    try:
        reply = read_reply(line)
    except UNREADABLE as exc:
        raise click.ClickException(f"not a reply: {exc} (executed: maybe)") from exc
    if reply.code != 0:
        raise error_of(reply)


def call_raw(
    address: str,
    cmdid: int,
    params: object,
    timeout: float,
    trust: dict[str, Any] | None = None,
    *,
    meta: dict[str, str] | None = None,
) -> bytes:
    """Send a request without an id; return the next line with its newline.

    Args:
        timeout: seconds for connecting and the call.
        trust: the client's options for TLS and the secret.
        meta: strings passed along with the request.

    Raises:
        ConnectError, CallTimeout, ConnectionLost, ProtocolError: no line was received.
        TypeError, ValueError: params are not JSON; nothing was sent.
    """
    line = encode_request(Outgoing(cmdid, None, max(1, int(timeout * 1000)), params, meta=meta))
    deadline = monotonic() + timeout
    client = Client(address, **(trust or {}))
    sock, received = client.dial(deadline)
    try:
        with gevent.Timeout(max(0.001, deadline - monotonic())):
            send_all(sock, line)
            return _received(sock, received, address)
    except gevent.Timeout as exc:
        raise CallTimeout(f"{address}: the deadline passed") from exc
    except OSError as exc:
        raise ConnectionLost(f"{address}: {exc.strerror or exc}") from exc
    finally:
        close_quietly(sock)


def _received(sock: Stream, data: bytes, address: str) -> bytes:
    buffer = LineBuffer(Options().max_reply_bytes)
    while True:
        lines = buffer.feed(data)
        if lines:
            return lines[: lines.index(b"\n") + 1]
        if buffer.overflow:
            raise ProtocolError(f"{address}: a reply line is too long")
        data = receive(sock, RECV_BYTES)
        if not data:
            raise ConnectionLost(f"{address}: the server closed the connection")
