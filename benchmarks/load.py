"""The load generators: lineload.c and openload.c, compiled when they are first needed; their
request lines, and what they found."""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.echo import ECHO, PARAMS

#: The id in a request line of openload, in whose place it puts each request's own.
PLACE_FOR_ID = 1_000_000_000


class NoCompiler(Exception):
    """There is no load generator, and one line says why."""


class Shape(NamedTuple):
    """How many connections, and how many requests are outstanding on each."""

    connections: int
    depth: int

    def __str__(self) -> str:
        return f"{self.connections:,} x {self.depth}"


class Load(msgspec.Struct, frozen=True):
    """The output of lineload: replies a second, latencies in microseconds (None when no request
    was both sent and answered while it counted), what went wrong."""

    rps: float
    p50: float | None
    p99: float | None
    p999: float | None
    bad: int
    broken: int
    unanswered: int


class Answer(NamedTuple):
    """The record of a request by openload: when it was due (monotonic seconds), how long
    its reply took from then, its code; -1 when there was no reply within a second after the end.
    """

    due: float
    seconds: float
    code: int


_ANSWER = struct.Struct("dfi")


def answers(path: Path) -> list[Answer]:
    """Return the records of an openload, in the order in which the requests were due."""
    return [Answer(*each) for each in _ANSWER.iter_unpack(path.read_bytes())]


def compiled(folder: Path, name: str = "lineload") -> Path:
    """The program of a load generator.

    Raises:
        NoCompiler: this is not Linux, or there is no C compiler, or it refuses.
    """
    program = folder / name
    if program.exists():
        return program
    if sys.platform != "linux":
        raise NoCompiler("the load generator needs Linux (epoll)")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise NoCompiler(
            f"no C compiler: install gcc or clang, or set CC (looked for {compiler[0]})"
        )
    source = Path(__file__).with_name(f"{name}.c")
    command = [*compiler, "-O2", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise NoCompiler(f"{compiler[0]} can't compile {source.name}: {said}")
    return program


def request_line(params: Any = PARAMS, *, with_id: bool = False, **more: Any) -> bytes:
    """A request as a client of 2015 writes it, or with an id, or with more keys."""
    request = {"cmdid": ECHO, "timestamp": 1760000000, "params": params, **more}
    if with_id:
        request["id"] = 7
    return msgspec.json.encode(request) + b"\n"
