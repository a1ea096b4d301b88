"""The server whose runs are written down. Run by gunicorn, in several workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import gevent

import gtcp
from tests.ledger.messages import RUN, RUN_TO_END, STREAM, Done, Row, Rows, Work

# What happens when the code is loaded: seconds that it takes, or "broken".
_loading = Path(os.environ["LEDGER_LOADING"])
if _loading.exists() and (_how := _loading.read_text()):
    if _how == "broken":
        raise RuntimeError("broken, as asked")
    time.sleep(float(_how))

server = gtcp.Server()

# O_APPEND: whole lines, from any process.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_runs = os.open(os.environ["LEDGER_RUNS"], _APPEND)
_waited = os.open(os.environ["LEDGER_WAITED"], _APPEND)


def work(request: gtcp.Request[Work]) -> Done:
    params = request.params
    os.write(_runs, f"{params.id}\n".encode())
    if params.fork is not None and os.fork() == 0:
        # Other handlers wait meanwhile; they may go on in the parent only.
        gevent.sleep(params.fork)
        os._exit(0)
    if params.sleep:
        gevent.sleep(params.sleep)
        os.write(_waited, f"{params.id}\n".encode())
    if params.end == "error":
        raise gtcp.CommandError(1000, "as asked")
    if params.end == "crash":
        raise RuntimeError("as asked")
    return Done(params.id)


@server.handler(STREAM)
def rows(request: gtcp.Request[Rows]) -> Iterator[Row]:
    params = request.params
    os.write(_runs, f"{params.id}\n".encode())
    for number in range(params.items):
        if params.sleep:
            gevent.sleep(params.sleep)
        yield Row(params.id, number, params.items, "x" * (number % 7 * 1000))
    if params.end == "error":
        raise gtcp.CommandError(1000, "as asked")
    if params.end == "crash":
        raise RuntimeError("as asked")


server.handler(RUN)(work)
server.handler(RUN_TO_END, run_to_end=True)(work)
