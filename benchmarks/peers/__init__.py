"""The libraries that gtcp is compared with, a module each.

A module says NAME (as tables show it), REQUIRES (modules to import, or "$name" for a program),
PATCHED (whether its processes are monkey-patched for gevent), and has

    serve(port)             serve echo on 127.0.0.1 until killed
    callers(port, count)    a context manager with so many functions, each of which echoes
                            PARAMS when called; each is called by one thread or greenlet
    CALLERS                 "threads" or "greenlets": what those are

Third-party imports are in the functions, so that every module can be imported anywhere.
"""

from __future__ import annotations

import importlib
import shutil
from importlib.util import find_spec
from types import ModuleType

#: Servers of lines, which lineload can drive.
LINE_SERVERS = (
    "gtcp_greenlets", "uvloop_floor", "watcher_floor", "gevent_floor", "tornado_structure",
)  # fmt: skip

#: Servers that come with a client.
CALLED = (
    "gtcp_greenlets",
    "gtcp_threads",
    "bare_socket",
    "thriftpy2_threads",
    "thriftpy2_gevent",
    "mprpc_gevent",
    "redis_threads",
    "tornado_structure",
    "pyro5_threads",
    "rpyc_threads",
    "grpc_threads",
    "zerorpc_gevent",
    "fastapi_httpx",
    "flask_requests",
)

ALL = tuple(dict.fromkeys([*LINE_SERVERS, *CALLED]))

#: Distributions whose versions a run notes.
PACKAGES = (
    "gevent", "greenlet", "msgspec", "gunicorn", "uvloop", "thriftpy2", "mprpc", "redis", "tornado",
    "Pyro5", "rpyc", "grpcio", "zerorpc", "fastapi", "uvicorn", "httpx", "flask", "requests",
)  # fmt: skip


def find(name: str) -> ModuleType:
    """The module of a peer."""
    return importlib.import_module(f"{__name__}.{name}")


def name_of(peer: ModuleType) -> str:
    """The name that `find` takes."""
    return peer.__name__.rpartition(".")[2]


def missing(peer: ModuleType) -> str:
    """Return what is missing for it to run; empty when it can run."""
    for need in peer.REQUIRES:
        if need.startswith("$"):
            if shutil.which(need[1:]) is None:
                return f"no {need[1:]} on the PATH"
        elif find_spec(need) is None:
            return f"{need} is not installed"
    return ""
