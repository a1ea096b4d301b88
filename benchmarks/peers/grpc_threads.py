"""grpcio: threads that share a channel. JSON by msgspec takes protobuf's place, which spares us
generated code and costs no more."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "grpcio, threads"
REQUIRES = ("grpc",)
PATCHED = False
CALLERS = "threads"


def serve(port: int) -> None:
    import grpc
    import msgspec

    method = grpc.unary_unary_rpc_method_handler(
        lambda params, _context: params,
        request_deserializer=msgspec.json.decode,
        response_serializer=msgspec.json.encode,
    )
    server = grpc.server(ThreadPoolExecutor(max_workers=64))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Echo", {"echo": method}),)
    )
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    server.wait_for_termination()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import grpc
    import msgspec

    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        echo = channel.unary_unary(
            "/Echo/echo",
            request_serializer=msgspec.json.encode,
            response_deserializer=msgspec.json.decode,
        )
        yield [lambda: echo(PARAMS, timeout=30)] * count
