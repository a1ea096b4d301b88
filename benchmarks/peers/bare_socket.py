"""The floor of clients: a blocking socket and msgspec, against the bare gevent server."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count as counting
from typing import Any

from benchmarks.echo import ECHO, HOST, PARAMS
from benchmarks.peers.gevent_floor import serve

__all__ = ["callers", "serve"]

NAME = "bare blocking sockets"
REQUIRES = ()
PATCHED = False
CALLERS = "threads"


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Callable[[], Any]]]:
    import msgspec

    class Request(msgspec.Struct):
        cmdid: int
        id: int
        params: Any

    class Reply(msgspec.Struct):
        code: int
        id: int
        result: Any

    encode = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder(Reply).decode

    def caller(sock: socket.socket) -> Callable[[], Any]:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ids = counting(1)

        def call() -> Any:
            sock.sendall(encode(Request(ECHO, next(ids), PARAMS)) + b"\n")
            data = sock.recv(65536)
            while not data.endswith(b"\n"):
                data += sock.recv(65536)
            return decode(data).result

        return call

    with ExitStack() as stack:
        where = (HOST, port)
        yield [caller(stack.enter_context(socket.create_connection(where))) for _ in range(count)]
