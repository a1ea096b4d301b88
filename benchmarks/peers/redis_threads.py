"""redis-py against redis-server, which is C: `get` of the content, threads sharing a client."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "redis-py, threads"
REQUIRES = ("redis", "$redis-server")
PATCHED = False
CALLERS = "threads"


def serve(port: int) -> None:
    options = ["--port", str(port), "--bind", HOST, "--save", "", "--loglevel", "warning"]
    os.execvp("redis-server", ["redis-server", *options])


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import redis

    with redis.Redis(HOST, port, decode_responses=True, max_connections=count + 1) as client:
        client.set("content", PARAMS["content"])
        yield [lambda: {"content": client.get("content")}] * count
