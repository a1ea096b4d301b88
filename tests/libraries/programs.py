"""The servers of the libraries, each on a free port: real programs, and an HTTP server."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.pool import Pool
from gevent.server import StreamServer

from tests.helpers import eventually, free_port

PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/local/bin",
     *glob.glob("/usr/lib/postgresql/*/bin")]
)  # fmt: skip

HOST = "127.0.0.1"

#: Keys that the programs have values for.
KEYS = 1000


def find(name: str) -> str:
    """Return where a program is; skip the test if it is not installed."""
    path = shutil.which(name, path=PATH)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@contextmanager
def running(command: list[str], port: int, folder: Path, **options: Any) -> Iterator[int]:
    """Run a program until the end of the block; enter it when the program accepts connections."""
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **options)
    try:

        def accepts() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with socket.socket() as sock:
                return sock.connect_ex((HOST, port)) == 0

        eventually(accepts)
        yield port
    finally:
        process.kill()  # what it has stored is thrown away
        process.wait()


def ask(port: int, text: str, replies: int) -> None:
    """Send lines; wait for as many lines."""
    with socket.create_connection((HOST, port), 20) as sock, sock.makefile("rb") as file:
        sock.sendall(text.encode())
        for _ in range(replies):
            assert file.readline().strip() in {b"+OK", b"STORED"}


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    port = free_port()
    command = [find("redis-server"), "--port", str(port), "--bind", HOST, "--save", ""]
    with running(command, port, folder):
        ask(port, "".join(f"SET key-{n} value-{n}\r\n" for n in range(KEYS)), KEYS)
        yield port


@contextmanager
def memcached(folder: Path) -> Iterator[int]:
    port = free_port()
    command = [find("memcached"), "-p", str(port), "-l", HOST, *user("-u")]
    with running(command, port, folder):
        values = [(n, f"value-{n}") for n in range(KEYS)]
        lines = [f"set key-{n} 0 0 {len(value)}\r\n{value}\r\n" for n, value in values]
        ask(port, "".join(lines), KEYS)
        yield port


def user(option: str) -> list[str]:
    return [option, "nobody"] if os.getuid() == 0 else []


@contextmanager
def postgres(folder: Path) -> Iterator[int]:
    """Return the user that owns it: it refuses to run as root."""
    port, data = free_port(), folder / "data"
    options: dict[str, Any] = {}
    if os.getuid() == 0:
        options = {"user": "nobody", "env": {**os.environ, "HOME": str(folder)}}
        shutil.chown(folder, "nobody")
    initialize = [find("initdb"), "-D", str(data), "-U", "gtcp", "-A", "trust", "-N", "-E", "UTF8"]
    run(initialize, folder, **options)
    command = [find("postgres"), "-D", str(data), "-p", str(port), "-h", HOST, "-k", "", "-F"]
    with running(command, port, folder, **options):
        yield port


@contextmanager
def mariadb(folder: Path) -> Iterator[int]:
    port, data = free_port(), folder / "data"
    server, install = find("mariadbd"), find("mariadb-install-db")
    owner = ["--user=root"] if os.getuid() == 0 else []
    run([install, "--no-defaults", f"--datadir={data}", "--skip-test-db", *owner], folder)
    command = [
        server, "--no-defaults", f"--datadir={data}", f"--socket={folder / 's'}",
        f"--port={port}", f"--bind-address={HOST}", "--skip-grant-tables", *owner,
    ]  # fmt: skip
    with running(command, port, folder):
        yield port


def run(command: list[str], folder: Path, **options: Any) -> None:
    """Run a program to its end, which must be a success."""
    with open(folder / "log", "ab") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, cwd=folder, check=False, **options)
    assert ended.returncode == 0, (folder / "log").read_text()


@contextmanager
def http(folder: Path) -> Iterator[int]:
    """A GET of a path that ends in a number returns its value. Connections are kept alive."""
    server = StreamServer((HOST, 0), _serve_http)
    server.start()
    try:
        yield server.server_port
    finally:
        server.stop()


def _serve_http(sock: Any, _address: Any) -> None:
    try:
        with sock, sock.makefile("rb") as file:
            while line := file.readline():
                while file.readline().strip():
                    pass
                value = b"value-" + line.split()[1].rsplit(b"/", 1)[1]
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(value)
                sock.sendall(head + value)
    except ConnectionError:
        pass  # the client has closed the connection in the middle, as a test wants it


PROGRAMS: dict[str, Callable[[Path], Any]] = {
    "redis": redis,
    "memcached": memcached,
    "postgres": postgres,
    "mariadb": mariadb,
    "http": http,
}


class DelayingProxy:
    """Passes bytes on to a program after a moment, so that a call can be stopped at any step.

    Runs in the hub of the test's thread.

    Attributes:
        port: where it listens.
        held: connections that have sent something which is held back.
    """

    def __init__(self, target: int, seconds: Callable[[], float]) -> None:
        self._target, self._seconds = target, seconds
        self._open = gevent.event.Event()
        self._open.set()
        self._server = StreamServer((HOST, 0), self._serve, spawn=Pool())
        self._server.start()
        self.port: int = self._server.server_port
        self.held: set[Any] = set()

    def __enter__(self) -> DelayingProxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.stop(timeout=0)

    def hold(self) -> None:
        """Keep what clients send, until ``release``."""
        self._open.clear()

    def release(self) -> None:
        """Pass on what was held back."""
        self._open.set()

    def _serve(self, client: Any, _address: Any) -> None:
        with client, gevent.socket.create_connection((HOST, self._target)) as server:
            copiers = [
                gevent.spawn(self._copy, client, server, True),
                gevent.spawn(self._copy, server, client, False),
            ]
            try:
                gevent.joinall(copiers, count=1)
            finally:
                gevent.killall(copiers)

    def _copy(self, source: Any, sink: Any, may_hold: bool) -> None:
        try:
            while data := source.recv(65536):
                gevent.sleep(self._seconds())
                if may_hold and not self._open.is_set():
                    self.held.add(source)
                    self._open.wait()
                    self.held.discard(source)
                sink.sendall(data)
        except OSError:
            pass  # one side has closed: the other is closed too
