"""Served by ``gtcp serve``: reads values with a library's client that all handlers share.

LIBRARY names a function of ``clients``, PORT is where its program listens; SHIELD=1 shields calls.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

import clients
from gevent.lock import BoundedSemaphore

import gtcp

server = gtcp.Server()
get = getattr(clients, os.environ["LIBRARY"])(int(os.environ["PORT"]))
guard = gtcp.shield if os.environ["SHIELD"] == "1" else nullcontext

# Some pools raise when all places are taken. There an error must mean that a place is lost.
raises = os.environ["LIBRARY"] in clients.RAISE_WHEN_EMPTY
places = BoundedSemaphore(clients.SIZE) if raises else nullcontext()


@server.handler(1)
def read(request: gtcp.Request) -> str:
    with places, guard():
        return get(request.params["key"])
