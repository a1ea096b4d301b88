"""zerorpc: greenlets that share a client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "zerorpc"
REQUIRES = ("zerorpc",)
PATCHED = False
CALLERS = "greenlets"


class Echo:
    def echo(self, params: Any) -> Any:
        return params


def serve(port: int) -> None:
    import zerorpc

    server = zerorpc.Server(Echo(), heartbeat=None)
    server.bind(f"tcp://{HOST}:{port}")
    server.run()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import zerorpc

    client = zerorpc.Client(f"tcp://{HOST}:{port}", heartbeat=None)
    try:
        yield [lambda: client.echo(PARAMS)] * count
    finally:
        client.close()
