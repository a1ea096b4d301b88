"""The messages of callers and server."""

from __future__ import annotations

from typing import Literal

import msgspec

RUN, RUN_TO_END, STREAM = 1, 2, 3


class Work(msgspec.Struct):
    """The work of a handler, after its run was recorded."""

    id: str
    sleep: float = 0.0
    fork: float | None = None  # seconds for which a child sleeps that the handler forks
    end: Literal["result", "error", "crash"] = "result"


class Rows(msgspec.Struct):
    """What a handler is to send: so many items, after it has been written down."""

    id: str
    items: int
    sleep: float = 0.0  # before each item
    end: Literal["result", "error", "crash"] = "result"


class Done(msgspec.Struct):
    id: str


class Row(msgspec.Struct):
    """One item of a stream."""

    id: str
    number: int
    size: int  # how many of them there will be
    filling: str = ""
