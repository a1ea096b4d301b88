"""``gtcp health``: a fast probe, which loads neither click nor the client.

Exit statuses are those of grpc_health_probe, which operators of gRPC services know.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any, NoReturn

#: Exit statuses: wrong arguments, no connection, no answer, an answer other than SERVING.
WRONG_ARGUMENTS, NOT_CONNECTED, NO_ANSWER, NOT_SERVING = 1, 2, 3, 4

#: Seconds for connecting and the answer.
TIMEOUT = 1.0

#: Bytes of an answer that are read at most.
MAX_BYTES = 1 << 20

SERVING = "SERVING"


class ProbeError(Exception):
    """There is no answer: exit status and the line that says why."""


def probe(arguments: list[str]) -> None:
    """Probe without click when the arguments are an address only; exits then, else returns."""
    if len(arguments) != 1 or {"GTCP_SECRET", "GTCP_SECRET_FILE"} & os.environ.keys():
        return
    text = arguments[0]
    if text.startswith(("-", "tls://")):
        return
    try:
        where = _where(text)
    except (ValueError, OSError):
        return  # the command says what is wrong
    end(lambda: ask(where, TIMEOUT), text)


def end(answer: Any, address: str) -> NoReturn:
    """Print the status that ``answer`` returns, or what it raises, and exit."""
    try:
        status = answer()
    except ProbeError as exc:
        number, why = exc.args
        named = why if why.startswith(address) else f"{address}: {why}"
        print(f"error: {named}", file=sys.stderr)  # noqa: T201  click is not loaded
        sys.exit(number)
    print(status)  # noqa: T201
    sys.exit(0 if status == SERVING else NOT_SERVING)


def status_of(result: object, command: str | None) -> str:
    """Return the status in the answer to ``{"op": "health"}``.

    Args:
        command: the command asked about; None for the server.

    Raises:
        ProbeError: the answer is none.
    """
    if not (isinstance(result, dict) and isinstance(result.get("status"), str)):
        raise ProbeError(NO_ANSWER, "the answer is not one of a gtcp server from 0.3 on")
    status: str = result["status"]
    if command is not None and status == SERVING:
        commands = result.get("commands")
        status = commands.get(command, SERVING) if isinstance(commands, dict) else SERVING
    return status


def ask(where: tuple[int, Any], timeout: float) -> str:
    """Return the status of a server.

    Raises:
        ProbeError: it can't be reached, or does not answer in time.
    """
    family, name = where
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(name)
        except OSError as exc:
            raise ProbeError(NOT_CONNECTED, f"can't connect: {exc.strerror or exc}") from exc
        line = b""
        try:
            sock.sendall(b'{"cmdid":0,"params":{"op":"health"}}\n')
            while b"\n" not in line and len(line) < MAX_BYTES:
                data = sock.recv(65536)
                if not data:
                    raise ProbeError(NO_ANSWER, "the connection was closed without an answer")
                line += data
        except OSError as exc:
            raise ProbeError(NO_ANSWER, f"no answer: {exc.strerror or exc}") from exc
    try:
        reply = json.loads(line.split(b"\n")[0])
    except ValueError as exc:
        raise ProbeError(NO_ANSWER, "the answer is not gtcp's") from exc
    if not isinstance(reply, dict) or reply.get("code") != 0:
        message = reply.get("message", "") if isinstance(reply, dict) else ""
        raise ProbeError(NO_ANSWER, f"the server refuses: {ascii(message)[1:-1]}")
    return status_of(reply.get("result"), None)


def _where(text: str) -> tuple[int, Any]:
    """Return family and name of an address, for ``connect``.

    Raises:
        ValueError: the text is not an address, or its host is not known.
    """
    from gtcp.transport.address import parse

    address = parse(text)
    if address.path:
        return socket.AF_UNIX, address.unix_name
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return found[0][0], found[0][4]
