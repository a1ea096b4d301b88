"""Forward bytes between a client and a server, and record the lines."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import gevent
from gevent.server import StreamServer
from gevent.socket import create_connection

from gtcp.protocol.framing import LineBuffer
from gtcp.transport.address import Address

RECV_BYTES = 65536


class Relay:
    """A proxy on a free loopback port that forwards each connection to the target.

    Attributes:
        seen: (whether it is a request, the line), in the order in which they were forwarded.
    """

    def __init__(self, target: Address) -> None:
        self.seen: list[tuple[bool, bytes]] = []
        self._target = target
        self._server = StreamServer(("127.0.0.1", 0), self._handle)

    def __enter__(self) -> Relay:
        self._server.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.stop(0)

    @property
    def address(self) -> str:
        """The relay's address, "host:port"."""
        return f"127.0.0.1:{self._server.server_port}"

    def _handle(self, client: Any, _name: Any) -> None:
        target = (self._target.host, self._target.port)
        # Where the server refuses, the client's connection is closed.
        with client, contextlib.suppress(OSError), create_connection(target) as server:
            back = gevent.spawn(self._copy, server, client, False)
            self._copy(client, server, True)
            back.join()

    def _copy(self, source: Any, sink: Any, is_request: bool) -> None:
        buffer = LineBuffer(None)
        with contextlib.suppress(OSError):  # a reset connection has ended as well
            while data := source.recv(RECV_BYTES):
                lines = buffer.feed(data).split(b"\n")[:-1]
                self.seen += [(is_request, line) for line in lines]
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
