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
VARIANTS = (DICT, TYPED, LOGGED, LISTENERS, COMMANDS)


def serve(port: int, variant: str = DICT) -> None:
    import gtcp
    from gtcp.server.ops import logger

    settings = gtcp.Settings(
        host=HOST,
        port=(port, 0) if variant == LISTENERS else port,
        access_log=variant == LOGGED,
        max_connections=None,
    )
    server = gtcp.Server(settings)
    server.handler(ECHO)(_typed() if variant == TYPED else echo)
    if variant == COMMANDS:
        for cmdid in range(ECHO + 1, ECHO + 1000):
            server.handler(cmdid)(echo)
    if variant == LOGGED:
        logger.configure("info")
        logging.getLogger(logger.SERVER).setLevel("WARNING")
    server.serve_forever()


def echo(request: Any) -> Any:
    return request.params


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
def mapped(port: int, count: int) -> Iterator[Iterator[Any]]:
    """What `client.map` yields for so many calls."""
    import gtcp

    with gtcp.Client(f"{HOST}:{port}") as client:
        yield client.map(ECHO, (PARAMS for _ in range(count)))
