"""gtcp: greenlets that share a client; everything on that is on by default.

The server's variants are what may cost something: see `VARIANTS`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.echo import ECHO, HOST, PARAMS

NAME = "gtcp"
REQUIRES = ()
PATCHED = False
CALLERS = "greenlets"

DICT, TYPED, LOGGED = "dict params", "typed params", "access log on"
LISTENERS, COMMANDS = "a second listener", "1,000 commands"
AS_JSON, MIDDLEWARE = "access log as JSON", "one middleware"
ADMIN = "admin port"
VARIANTS = (DICT, TYPED, LOGGED, AS_JSON, LISTENERS, COMMANDS, MIDDLEWARE, ADMIN)
TWO_HOSTS = "two hosts"  # listens on a second loopback address, too
STREAMS = "streams"  # with a command that streams, and no limits that its readers would reach

SECOND_HOST = "127.0.0.2"

#: The command that streams.
STREAM = ECHO - 1


def serve(port: int, variant: str = DICT) -> None:
    import gtcp
    from gtcp.server.ops.log_setup import configure
    from gtcp.server.ops.logger import SERVER

    second = f"{HOST}:0" if variant == LISTENERS else f"{SECOND_HOST}:{port}"
    settings = gtcp.Settings(
        bind=(f"{HOST}:{port}", *([second] if variant in (LISTENERS, TWO_HOSTS) else ())),
        access_log=variant in (LOGGED, AS_JSON),
        admin=f"{HOST}:0" if variant == ADMIN else None,
        max_connections=None,
        max_in_flight=None if variant == STREAMS else 1_000,
        write_timeout=None if variant == STREAMS else 10.0,
    )
    server = gtcp.Server(settings)
    server.handler(ECHO)(_typed() if variant == TYPED else echo)
    if variant == COMMANDS:
        for cmdid in range(ECHO + 1, ECHO + 1000):
            server.handler(cmdid)(echo)
    if variant == STREAMS:
        server.handler(STREAM)(items)
    if variant == MIDDLEWARE:
        server.middleware(passes_on)
    if variant in (LOGGED, AS_JSON):
        configure("info", None, "json" if variant == AS_JSON else "text")
        logging.getLogger(SERVER).setLevel("WARNING")
    server.serve_forever()


def echo(request: Any) -> Any:
    return request.params


def passes_on(request: Any, call_next: Any) -> Any:
    return call_next(request)


def items(request: Any) -> Iterator[Any]:
    """So many small items, or large ones without end, each an object of its own."""
    count = request.params.get("count")
    if count is not None:
        for _ in range(count):
            yield PARAMS
        return
    number = 0
    while True:
        number += 1
        yield str(number) + "x" * (1 << 20)


def _typed() -> Any:
    import msgspec

    import gtcp

    class Message(msgspec.Struct):
        content: str

    def typed_echo(request: gtcp.Request[Message]) -> Message:
        return request.params

    return typed_echo


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import gtcp

    with gtcp.Client(f"{HOST}:{port}") as client:
        yield [partial(client.call, ECHO, PARAMS)] * count


@contextmanager
def streamed(port: int, count: int) -> Iterator[Iterator[Any]]:
    """What `client.stream` yields: so many items."""
    import gtcp

    with gtcp.Client(f"{HOST}:{port}") as client:
        yield iter(client.stream(STREAM, {"count": count}))


@contextmanager
def mapped(port: int, count: int) -> Iterator[Iterator[Any]]:
    """Yield the results of `client.map` for so many calls."""
    import gtcp

    with gtcp.Client(f"{HOST}:{port}") as client:
        yield client.map(ECHO, (PARAMS for _ in range(count)))
