"""One request over a plain blocking socket, its reply line as it came: ``gtcp call --raw``."""

from __future__ import annotations

import socket
from time import monotonic

from gtcp.address import Address
from gtcp.client.dial import Options
from gtcp.errors import CallTimeout, ConnectError, ConnectionLost, ProtocolError
from gtcp.protocol import LineBuffer, Outgoing, encode_request

RECV_BYTES = 65536


def call_raw(address: Address, cmdid: int, params: object, timeout: float) -> bytes:
    """Send a request without an id, return the next line with its newline.

    Args:
        timeout: seconds for everything but the resolution of a name.

    Raises:
        ConnectError, CallTimeout, ConnectionLost, ProtocolError: no line came.
        TypeError, ValueError: params are not JSON; nothing was sent.
    """
    line = encode_request(Outgoing(cmdid, None, max(1, int(timeout * 1000)), params))
    deadline = monotonic() + timeout
    with _connected(address, timeout) as sock:
        try:
            sock.sendall(line)
            return _received(sock, address, deadline)
        except TimeoutError as exc:
            raise CallTimeout(f"{address}: the deadline passed") from exc
        except OSError as exc:
            raise ConnectionLost(f"{address}: {exc.strerror or exc}") from exc


def _connected(address: Address, timeout: float) -> socket.socket:
    try:
        if address.path:
            return _connected_unix(address.path, timeout)
        return socket.create_connection((address.host, address.port), timeout)
    except OSError as exc:
        raise ConnectError(f"can't connect to {address}: {exc.strerror or exc}") from exc


def _connected_unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _received(sock: socket.socket, address: Address, deadline: float) -> bytes:
    buffer = LineBuffer(Options().max_reply_bytes)
    while True:
        sock.settimeout(max(0.001, deadline - monotonic()))
        data = sock.recv(RECV_BYTES)
        if not data:
            raise ConnectionLost(f"{address}: the server closed the connection")
        lines = buffer.feed(data)
        if lines:
            return lines[: lines.index(b"\n") + 1]
        if buffer.overflow:
            raise ProtocolError(f"{address}: a reply line is too long")
