"""mprpc (Cython, gevent), where it can be built: its last release does not compile on Pythons
of today (0.1.17 was measured with its .pyx files changed: no `encoding` for msgpack, absolute
imports in server.pyx, and built with today's Cython), so it is not in the extra."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "mprpc"
REQUIRES = ("mprpc",)
PATCHED = False
CALLERS = "greenlets"


def serve(port: int) -> None:
    from gevent.server import StreamServer
    from mprpc import RPCServer

    class Echo(RPCServer):
        def echo(self, params: Any) -> Any:
            return params

    StreamServer((HOST, port), Echo(), backlog=1024).serve_forever()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    from mprpc import RPCClient

    clients = [RPCClient(HOST, port) for _ in range(count)]

    def caller(client: Any) -> Any:
        return lambda: client.call("echo", PARAMS)

    try:
        yield [caller(each) for each in clients]
    finally:
        for each in clients:
            each.close()
