"""The environment of a part: processes to start, loads to run, options."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NamedTuple

import msgspec

from benchmarks import load, peers
from benchmarks.echo import HOST
from benchmarks.load import Answer, Load, Shape
from benchmarks.machine import Cores, pick_cores
from benchmarks.processes import PATIENCE, Child, Failed, Processes, free_port


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
        quick: everything small: to see that it works, not how fast.
        only: names of the peers to measure; empty for all.
    """

    rounds: int = 5
    seconds: float = 0.3
    quick: bool = False
    only: tuple[str, ...] = ()

    def size(self, full: int, quick: int) -> int:
        """A number of connections, calls or bytes."""
        return quick if self.quick else full


class OpenLoad(NamedTuple):
    """An openload that runs: its process, the file it writes at the end, how long it asks."""

    child: Child
    path: Path
    seconds: float


@dataclass
class Bench:
    """Starts servers on one core and what drives them on another; ends them all.

    Attributes:
        left_out: a line for everything that could not be measured.
    """

    options: Options
    cores: Cores = field(default_factory=pick_cores)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processes = Processes()
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-")

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.processes.__exit__(kind, exc, traceback)
        self._folder.cleanup()

    # The participants

    def present(self, names: Sequence[str]) -> list[ModuleType]:
        """Those of the peers that were asked for and can run here; the others are noted."""
        found = []
        for name in names:
            peer = peers.find(name)
            if self.options.only and name not in self.options.only:
                continue
            if missing := peers.missing(peer):
                self.left_out.append(f"{peer.NAME}: left out, {missing}")
            else:
                found.append(peer)
        return found

    # Servers and clients

    def server(self, peer: ModuleType, variant: str = "") -> tuple[Child, int]:
        """Start a peer's server; it listens when this returns.

        Raises:
            Failed: it does not start.
        """
        port = free_port()
        child = self.processes.python(
            "serve", peers.name_of(peer), str(port), variant, core=self.cores.server
        )
        child.wait_until_it_listens(port)
        return child, port

    def servers(self, found: Sequence[ModuleType]) -> dict[str, tuple[Child, int]]:
        """Start the peers' servers; return them by title. Those that do not start are noted."""
        started = {}
        for peer in found:
            try:
                started[peer.NAME] = self.server(peer)
            except Failed as exc:
                self.left_out.append(f"{peer.NAME}: its server {exc}")
        return started

    def caller(self, peer: ModuleType, port: int) -> Child:
        """Start a process that calls a server the way the peer's users do.

        Raises:
            Failed: it does not start.
        """
        child = self.processes.python("call", peers.name_of(peer), str(port), core=self.cores.load)
        child.line()
        return child

    # Lines

    @property
    def lineload(self) -> Path:
        """The load generator's program.

        Raises:
            NoCompiler: there is none.
        """
        return load.compiled(Path(self._folder.name))

    def request(self, line: bytes) -> Path:
        """A file with a request line, for `start_load` and `start_open_load`."""
        path = Path(self._folder.name) / f"{abs(hash(line)):x}"
        if not path.exists():  # another load may be reading it
            path.write_bytes(line)
        return path

    def start_load(
        self, port: int, shape: Shape, seconds: float, line: bytes, rate: float | None = None
    ) -> Child:
        """Start driving a server; `finish_load` has the outcome."""
        args = [HOST, port, shape.connections, shape.depth, seconds, self.request(line)]
        if rate is not None:
            args.append(rate)
        return self.processes.start([str(self.lineload), *map(str, args)], core=self.cores.load)

    def finish_load(self, child: Child, seconds: float) -> Load:
        """The result of a load.

        Raises:
            Failed: a connection broke, or a reply was an error.
        """
        try:
            found = msgspec.json.decode(child.line(seconds + 25), type=Load)
        finally:
            self.processes.end(child)
        if found.bad or found.broken:
            raise Failed(f"{found.bad} bad replies, {found.broken} broken connections")
        return found

    def start_open_load(
        self, port: int, connections: int, rate: float, seconds: float, line: bytes
    ) -> OpenLoad:
        """Start asking at a rate, whatever becomes of it; `finish_open_load` has every answer.

        Raises:
            NoCompiler: there is no load generator.
        """
        folder = Path(self._folder.name)
        descriptor, path = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        program = load.compiled(folder, "openload")
        args = [HOST, port, connections, rate, seconds, self.request(line), path]
        child = self.processes.start([str(program), *map(str, args)], core=self.cores.load)
        return OpenLoad(child, Path(path), seconds)

    def finish_open_load(self, started: OpenLoad) -> list[Answer]:
        """The outcome of each request.

        Raises:
            Failed: a connection broke.
        """
        try:
            said = msgspec.json.decode(started.child.line(started.seconds + PATIENCE))
        finally:
            self.processes.end(started.child)
        if said["broken"]:
            raise Failed(f"{said['broken']} broken connections")
        return load.answers(started.path)

    def load(
        self, port: int, shape: Shape, seconds: float, line: bytes, rate: float | None = None
    ) -> Load:
        """Drive a server and wait for the outcome."""
        return self.finish_load(self.start_load(port, shape, seconds, line, rate), seconds)
