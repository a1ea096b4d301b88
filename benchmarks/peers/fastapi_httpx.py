"""FastAPI on uvicorn, called with httpx: threads that share a client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.echo import HOST, PARAMS

NAME = "FastAPI + uvicorn, httpx"
REQUIRES = ("fastapi", "uvicorn", "httpx")
PATCHED = False
CALLERS = "threads"


def serve(port: int) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Message(BaseModel):
        content: str

    app = FastAPI()

    @app.post("/echo")
    async def echo(message: Message) -> Message:
        return message

    uvicorn.run(app, host=HOST, port=port, log_level="error", access_log=False)


@contextmanager
def callers(port: int, count: int) -> Iterator[list[Any]]:
    import httpx

    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    with httpx.Client(base_url=f"http://{HOST}:{port}", limits=limits, timeout=30) as client:
        yield [lambda: client.post("/echo", json=PARAMS).json()] * count
