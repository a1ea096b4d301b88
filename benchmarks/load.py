"""The load generator: lineload.c, compiled when it is first needed, and its request lines."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.echo import ECHO, PARAMS

SOURCE = Path(__file__).with_name("lineload.c")


class NoCompiler(Exception):
    """There is no load generator, and one line says why."""


class Shape(NamedTuple):
    """How many connections, and how many requests are outstanding on each."""

    connections: int
    depth: int

    def __str__(self) -> str:
        return f"{self.connections:,} x {self.depth}"


class Load(msgspec.Struct, frozen=True):
    """What lineload prints: replies a second, latencies in microseconds (None when no request
    was both sent and answered while it counted), what went wrong."""

    rps: float
    p50: float | None
    p99: float | None
    p999: float | None
    bad: int
    broken: int
    unanswered: int


def compiled(folder: Path) -> Path:
    """lineload's program.

    Raises:
        NoCompiler: this is not Linux, or there is no C compiler, or it refuses.
    """
    program = folder / "lineload"
    if program.exists():
        return program
    if sys.platform != "linux":
        raise NoCompiler("the load generator needs Linux (epoll)")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise NoCompiler(
            f"no C compiler: install gcc or clang, or set CC (looked for {compiler[0]})"
        )
    command = [*compiler, "-O2", "-o", str(program), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise NoCompiler(f"{compiler[0]} can't compile lineload.c: {said}")
    return program


def request_line(params: Any = PARAMS, *, with_id: bool = False) -> bytes:
    """A request as a client of 2015 writes it, or with an id."""
    request = {"cmdid": ECHO, "timestamp": 1760000000, "params": params}
    if with_id:
        request["id"] = 7
    return msgspec.json.encode(request) + b"\n"
