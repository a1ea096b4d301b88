"""gtcp: a client of two hosts, which balances each call; both are one server process."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.echo import ECHO, HOST, PARAMS
from benchmarks.peers.gtcp_greenlets import SECOND_HOST, serve

__all__ = ["callers", "serve"]

NAME = "two hosts"
REQUIRES = ()
PATCHED = False
CALLERS = "greenlets"


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import gtcp

    with gtcp.Client([f"{HOST}:{port}", f"{SECOND_HOST}:{port}"]) as client:
        client.connect()
        yield [partial(client.call, ECHO, PARAMS)] * count
