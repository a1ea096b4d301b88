"""What callers and server say to each other."""

from __future__ import annotations

from typing import Literal

import msgspec

RUN, RUN_TO_END = 1, 2


class Work(msgspec.Struct):
    """What a handler is to do, after it has been written down."""

    id: str
    sleep: float = 0.0
    fork: float | None = None  # seconds for which a child sleeps that the handler forks
    end: Literal["result", "error", "crash"] = "result"


class Done(msgspec.Struct):
    id: str
