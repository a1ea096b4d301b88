"""The application of the tests' workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from gevent import monkey

import gtcp

PID, WAIT, SPIN, FAIL, ABOUT = 1, 2, 3, 4, 5

server = gtcp.Server()


@server.handler(PID)
def pid(request: gtcp.Request) -> int:
    time.sleep(request.params.get("seconds", 0))
    return os.getpid()


@server.handler(WAIT)
def wait(request: gtcp.Request) -> str:
    """Says in one file that it runs, and goes on when there is another."""
    path = Path(request.params["path"])
    path.with_suffix(".begun").touch()
    try:
        while not path.with_suffix(".go").exists():
            time.sleep(0.01)
    finally:
        path.with_suffix(".ended").touch()
    return "done"


@server.handler(SPIN)
def spin(request: gtcp.Request) -> None:
    while True:
        pass


@server.handler(FAIL)
def fail(request: gtcp.Request) -> None:
    raise RuntimeError(request.params["message"])


@server.handler(ABOUT)
def about(request: gtcp.Request) -> dict[str, int]:
    return {
        "max_connections": server.settings.max_connections,
        "patched": monkey.is_module_patched("time"),
        "level": logging.getLogger("gtcp").level,
    }


def wsgi(environ: object, start_response: object) -> None:
    """Not a server."""


def started() -> gtcp.Server:
    """A server that cannot be started, as it runs already."""
    own = gtcp.Server(gtcp.Settings(port=0))
    own.start()
    return own


def loader(name: str) -> Callable[[], gtcp.Server]:
    """Return the server, as `gtcp serve` passes it to its workers."""

    def load() -> gtcp.Server:
        if name != "server":
            from gtcp.server.master import AppImportError

            raise AppImportError(f"there is no {name}")
        return server

    return load
