"""The command in processes of its own, and servers for it to call."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers import PATIENCE, Line, free_port

COMMAND = [sys.executable, "-W", "error", "-m", "gtcp"]

APP = """\
import os
import time

import gtcp
from gevent import monkey

server = gtcp.Server()

@server.handler(1)
def echo(request):
    "Say it back."
    return request.params

@server.handler(2)
def patched(request):
    return monkey.is_module_patched("time")

@server.handler(3)
def parent(request):
    return os.getppid()

@server.handler(4)
def nap(request):
    open(request.params["path"], "w").close()
    time.sleep(request.params["seconds"])
    return "slept"

@server.handler(5)
def refuse(request):
    raise gtcp.CommandError(1001, "no more\\x1b[31m tea", {"left": 0})
"""


def environment(**extra: str) -> dict[str, str]:
    plain = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("GTCP_") and name != "WEB_CONCURRENCY"
    }
    return {**plain, **extra}


def run(
    *args: str, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, to its end."""
    return subprocess.run(
        [*COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(**(env or {})),
        check=False,
        **options,
    )


class Served:
    """A running ``gtcp serve``, from the line that says where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.said: list[str] = []
        self.addresses: list[str] = []
        while not self.addresses:
            line = process.stderr.readline()
            assert line, f"it ended: {self.said}"
            self.said.append(line)
            where = re.search(r"listening on (.*), \d+ commands?, ", line)
            self.addresses = where[1].split(", ") if where else []

    @property
    def address(self) -> str:
        return self.addresses[0]

    def ask(self, cmdid: int, **params: Any) -> Any:
        with Line(self.address) as line:
            return line.ask({"cmdid": cmdid, "params": params})["result"]

    def end(self, sig: signal.Signals = signal.SIGTERM) -> str:
        """Send a signal, expect a drain; returns all that it said on stderr."""
        self.process.send_signal(sig)
        return self.drained()

    def drained(self) -> str:
        """Expect a drain; returns all that it said on stderr."""
        _, rest = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0
        return "".join(self.said) + rest


@contextmanager
def served(
    folder: Path,
    *args: str,
    env: dict[str, str] | None = None,
    before: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[Served]:
    """``gtcp serve`` with these arguments; ``before`` them, a program that executes it."""
    process = subprocess.Popen(
        [*before, *COMMAND, "serve", *args],
        cwd=folder,
        env=environment(**(env or {})),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def peer(*chunks: bytes, close: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says these bytes once it has a line, whatever the line is."""
    got: list[bytes] = []
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        sock, _ = listener.accept()
        with sock:
            got.append(sock.makefile("rb").readline())
            for chunk in chunks:
                sock.sendall(chunk)
            if not close:
                over.wait(PATIENCE)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", got
    finally:
        over.set()
        thread.join()
        listener.close()


def free_address() -> str:
    """Where nobody listens."""
    return f"127.0.0.1:{free_port()}"


def only_line(text: str) -> str:
    """The one line of a text, which must be one, with something in it."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert len(text) > 1
    return text[:-1]


def fails(status: int, *args: str, **options: Any) -> str:
    """The only line that the command prints, which must fail with this status."""
    ended = run(*args, **options)
    assert (ended.returncode, ended.stdout) == (status, "")
    return only_line(ended.stderr)
