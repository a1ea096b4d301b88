"""The structure of tornado-TCP, gtcp's ancestor, on today's tornado: a coroutine that reads
to the next newline, a table of handlers by cmdid, a new handler for every request, json.

It has no client of its own: greenlets with a socket each call it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.echo import ECHO, HOST, PARAMS

NAME = "tornado-TCP's structure"
REQUIRES = ("tornado",)
PATCHED = False
CALLERS = "greenlets"

encode = json.JSONEncoder(separators=(",", ":")).encode


class Request:
    def __init__(self, address: Any, body: bytes) -> None:
        self.address = address
        self.raw_body = body
        found = json.loads(body)
        self.cmdid = int(found["cmdid"])
        self.timestamp = found.get("timestamp")
        self.params = found.get("params", {})
        self.id = found.get("id")


class EchoHandler:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.res: Any = None

    def process(self) -> None:
        self.res = self.request.params


handlers = {ECHO: EchoHandler}


def serve(port: int) -> None:
    import asyncio

    from tornado.iostream import IOStream, StreamClosedError
    from tornado.tcpserver import TCPServer

    class Server(TCPServer):
        async def handle_stream(self, stream: IOStream, address: Any) -> None:
            stream.set_nodelay(True)
            try:
                while True:
                    request = Request(address, await stream.read_until(b"\n"))
                    handler = handlers[request.cmdid](request)
                    handler.process()
                    reply = {"code": 0, "result": handler.res}
                    if request.id is not None:
                        reply["id"] = request.id
                    stream.write(encode(reply).encode() + b"\n")
            except StreamClosedError:
                return

    async def main() -> None:
        server = Server(max_buffer_size=100 << 20)
        server.listen(port, HOST, backlog=1024)
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    from gevent import socket

    line = encode({"cmdid": ECHO, "timestamp": 1760000000, "params": PARAMS}).encode() + b"\n"

    def caller(sock: Any) -> Any:
        def call() -> Any:
            sock.sendall(line)
            data = sock.recv(65536)
            while not data.endswith(b"\n"):
                data += sock.recv(65536)
            return json.loads(data)["result"]

        return call

    with ExitStack() as stack:
        where = (HOST, port)
        yield [caller(stack.enter_context(socket.create_connection(where))) for _ in range(count)]
