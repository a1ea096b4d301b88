"""thriftpy2, its Cython protocol and transport: its threaded server, threads that call."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "thriftpy2, threads"
REQUIRES = ("thriftpy2",)
PATCHED = False
CALLERS = "threads"

IDL = """
struct Message { 1: string content }
service Echo { Message echo(1: Message message) }
"""


def _thrift() -> Any:
    from thriftpy2.parser import load_fp

    return load_fp(io.StringIO(IDL), "echo_thrift")


class Handler:
    def echo(self, message: Any) -> Any:
        return message


def serve(port: int) -> None:
    from thriftpy2.rpc import make_server

    make_server(_thrift().Echo, Handler(), HOST, port, client_timeout=None).serve()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    from thriftpy2.rpc import make_client

    thrift = _thrift()
    clients = [make_client(thrift.Echo, HOST, port, timeout=30_000) for _ in range(count)]

    def caller(client: Any) -> Any:
        return lambda: {"content": client.echo(thrift.Message(**PARAMS)).content}

    try:
        yield [caller(each) for each in clients]
    finally:
        for each in clients:
            each.close()
