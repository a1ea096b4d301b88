"""The server whose runs are written down. Run by gunicorn, in several workers."""

from __future__ import annotations

import os

import gevent

import gtcp
from tests.ledger.messages import RUN, RUN_TO_END, Done, Work

server = gtcp.Server()
_file = os.open(os.environ["LEDGER_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def work(request: gtcp.Request[Work]) -> Done:
    params = request.params
    os.write(_file, f"{params.id}\n".encode())  # O_APPEND: whole lines, from any process
    if params.sleep:
        gevent.sleep(params.sleep)
    if params.end == "error":
        raise gtcp.CommandError(1000, "as asked")
    if params.end == "crash":
        raise RuntimeError("as asked")
    return Done(params.id)


server.handler(RUN)(work)
server.handler(RUN_TO_END, run_to_end=True)(work)
