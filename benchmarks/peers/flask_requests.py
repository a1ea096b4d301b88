"""Flask under gunicorn with one gevent worker, called with requests: a session a thread."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "Flask + gunicorn, requests"
REQUIRES = ("flask", "gunicorn", "requests")
PATCHED = False
CALLERS = "threads"


def make_app() -> Any:
    from flask import Flask, request

    app = Flask("echo")
    app.post("/echo")(lambda: request.json)
    return app


def serve(port: int) -> None:
    options = ["-k", "gevent", "-w", "1", "-b", f"{HOST}:{port}", "--keep-alive", "60"]
    app = f"{__name__}:make_app()"
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, app])


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import requests

    url = f"http://{HOST}:{port}/echo"

    def caller(session: Any) -> Any:
        return lambda: session.post(url, json=PARAMS, timeout=30).json()

    with ExitStack() as stack:
        yield [caller(stack.enter_context(requests.Session())) for _ in range(count)]
