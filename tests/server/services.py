"""A service of several workers whose code and settings change: under gunicorn, and `gtcp serve`."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import gtcp
from tests.helpers import eventually
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

PID, VERSION, WAIT, COUNT, SETTINGS = 1, 2, 3, 4, 5

APP = """
import os
import time
from pathlib import Path

import gtcp

BEFORE
server = gtcp.Server()


@server.handler(1)
def pid(request):
    time.sleep(request.params.get("seconds", 0))
    return os.getpid()


@server.handler(2)
def version(request):
    return "VERSION"


@server.handler(3)
def wait(request):
    path = Path(request.params["path"])
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path.with_suffix(".begun"))
    while not path.with_suffix(".go").exists():
        time.sleep(0.01)
    return "done"


@server.handler(4)
def count(request):
    with open("/".join((request.params["folder"], "runs")), "a") as file:
        file.write(request.params["id"] + "\\n")
    time.sleep(0.008)
    return os.getpid()


@server.handler(5)
def settings(request):
    return {name: getattr(server.settings, name) for name in request.params["names"]}
"""


def write_app(folder: Path, version: str = "old", before: str = "") -> None:
    """Write an application; `before` is run when it is imported."""
    file = folder / "app.py"
    file.with_suffix(".new").write_text(APP.replace("BEFORE", before).replace("VERSION", version))
    file.with_suffix(".new").rename(file)


class Service(Supervised):
    """A master whose application is `app.py` in its folder."""

    def __init__(self, kind: str, folder: Path, *arguments: str, workers: int = 2) -> None:
        self.kind, self.count = kind, workers
        where = ("127.0.0.1:0",)
        if kind == "gunicorn":
            command = (*GUNICORN, "-w", str(workers), "-b", *where, *arguments, "app:server")
        else:
            command = ("-m", "gtcp", "serve", "app", "--workers", str(workers), "--bind", *where)
            command = (*command, *arguments)
        super().__init__(folder.parent / f"{folder.name}.log", *command, cwd=folder)

    @property
    def where(self) -> str:
        """Where it listens, once all workers serve."""
        return self.address(self.count).removeprefix("http://")

    @property
    def children(self) -> set[int]:
        """The master's children, as the kernel knows them."""
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def ready(self) -> int:
        """How many workers have said that they serve."""
        return len(re.findall(r"gtcp: listening on .*, pid|worker is ready", self.log)) - (
            self.kind == "serve"
        )

    def replace(self) -> None:
        """Send SIGHUP, and wait until none but new workers are left."""
        old = self.children
        self.send(signal.SIGHUP)
        self.until(lambda: len(self.children) == self.count and not old & self.children)


class Waiting:
    """A call that is in flight until it may end."""

    def __init__(self, address: str, path: Path) -> None:
        self._path = path
        self.outcome: list[object] = []
        self._client = gtcp.Client(address, retries=0)
        self._thread = threading.Thread(target=self._call)
        self._thread.start()
        eventually(path.with_suffix(".begun").exists)
        self.worker = int(path.with_suffix(".begun").read_text())

    def _call(self) -> None:
        try:
            self.outcome.append(self._client.call(WAIT, {"path": str(self._path)}, timeout=60))
        except gtcp.GtcpError as exc:
            self.outcome.append(exc)

    def let_go(self) -> object:
        """Return the result or the error of the call."""
        self._path.with_suffix(".go").touch()
        return self.end()

    def end(self) -> object:
        self._thread.join()
        self._client.close()
        return self.outcome[0]


class Load:
    """Threads that call without a pause, without idempotent calls, and count the outcomes.

    Attributes:
        running: those that were not ended: the hooks of all tests end what a failed test leaves,
            which would keep the processor from the tests after it.
    """

    running: ClassVar[set[Load]] = set()

    def __init__(self, address: str, folder: Path, threads: int = 8, clients: int = 4) -> None:
        self.told: Counter[str] = Counter()
        self.finished: list[str] = []
        self.problems: list[str] = []
        self.pids: Counter[object] = Counter()
        self._folder = folder
        self._clients = [gtcp.Client(address, min_connections=2) for _ in range(clients)]
        self._going_on = True
        self._threads = [
            threading.Thread(target=self._run, args=(n, self._clients[n % clients]))
            for n in range(threads)
        ]
        self.running.add(self)
        for each in self._threads:
            each.start()

    def _run(self, name: int, client: gtcp.Client) -> None:
        number = 0
        while self._going_on:
            number += 1
            params = {"folder": str(self._folder), "id": f"{name}.{number}"}
            try:
                self.pids[client.call(COUNT, params)] += 1
                self.finished.append(params["id"])
            except gtcp.GtcpError as exc:
                self.told[exc.executed] += 1
                self.problems.append(f"{exc.executed}: {type(exc).__name__}: {exc}")

    def goes_on(self, calls: int = 50) -> None:
        """Wait for more answers."""
        until = len(self.finished) + calls
        eventually(lambda: len(self.finished) >= until)

    def end(self) -> None:
        self._going_on = False
        self.running.discard(self)
        for each in self._threads:
            each.join()
        for client in self._clients:
            client.close()

    @property
    def runs(self) -> Counter[str]:
        """Return how often each call has run, by the application's own record."""
        return Counter((self._folder / "runs").read_text().split())


def refused(address: str) -> bool:
    """Whether a new connection is refused at once. Until then, no call may be uncertain."""
    told = attempt(address)
    assert told is None or told.executed == "no", told
    return isinstance(told, gtcp.ConnectError) and "refused" in str(told)


def attempt(address: str) -> gtcp.GtcpError | None:
    """Call once, over a new connection; return the error."""
    with gtcp.Client(address, retries=0, connect_timeout=2) as client:
        try:
            client.call(PID, timeout=2)
        except gtcp.GtcpError as exc:
            return exc
    return None


def pids(address: str, count: int = 32) -> Counter[object]:
    """Which worker answers, over so many connections that are open at the same time."""
    clients = [gtcp.Client(address) for _ in range(count)]
    try:
        return Counter(client.call(PID) for client in clients)
    finally:
        for client in clients:
            client.close()


def call(address: str, cmdid: int, **params: object) -> object:
    """One call over a connection of its own."""
    with gtcp.Client(address) as client:
        return client.call(cmdid, params)


def signal_group(process: int, number: int) -> None:
    """Signal a whole process group, as a supervisor or a terminal does."""
    os.killpg(process, number)


Start = Callable[..., Service]
