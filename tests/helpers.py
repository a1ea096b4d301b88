"""Helpers of tests: a real server in a thread or a process, and a client that knows only lines."""

from __future__ import annotations

import json
import logging
import os
import posix
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import gevent

import gtcp
from gtcp.server.ops.logger import SERVER
from gtcp.transport.address import parse

#: Seconds after which a test gives up on something that has to happen.
PATIENCE = 20.0


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the value of the condition once it is true; polls, so it works across threads.

    Polls less often the longer it takes: what is waited for may need the processor.

    Raises:
        AssertionError: it did not come true in time.
    """
    until = time.monotonic() + seconds
    pause = 0.002
    while True:
        outcome = condition()
        if outcome:
            return outcome
        assert time.monotonic() < until, f"not within {seconds} s: {condition}"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.02)


def in_fork(function: Callable[[], object]) -> int:
    """Run a function in a forked child; return the child's status: 0, 1 if it fails, 2 if False."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are other threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 2 if function() is False else 0
        finally:
            _leave(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _leave(status: int) -> NoReturn:
    """End a forked child; what was measured in it is saved once.

    Coverage replaces ``os._exit`` as often as it is started: the child would write as many times
    what its parent has measured.
    """
    coverage = sys.modules.get("coverage")
    measured = None if coverage is None else coverage.Coverage.current()
    if measured is not None:
        measured.stop()
        measured.save()
    posix._exit(status)


class Gate:
    """A gate at which handlers wait until the test opens it; for a server in another thread."""

    def __init__(self) -> None:
        self.waiting = 0
        self.passed = 0
        self.stopped = 0
        self._opened = threading.Event()

    def open(self) -> None:
        """Let everybody pass."""
        self._opened.set()

    def wait(self) -> None:
        """Block the calling greenlet, not its hub, until the gate is open."""
        self.waiting += 1
        try:
            while not self._opened.is_set():
                gevent.sleep(0.002)
            self.passed += 1
        except BaseException:
            self.stopped += 1
            raise
        finally:
            self.waiting -= 1


class Hold:
    """Holds the thread of a server in a handler: what is sent meanwhile is found together."""

    def __init__(self) -> None:
        self._held = threading.Event()
        self._ended = threading.Event()

    def handler(self, request: gtcp.Request) -> None:
        """Block all of the server's thread until the test goes on; register it as a command."""
        self._held.set()
        assert self._ended.wait(PATIENCE)

    def wait(self) -> None:
        """Wait until the server has come to the handler."""
        assert self._held.wait(PATIENCE)

    def end(self) -> None:
        """Let the server go on, now or when it comes to the handler."""
        self._ended.set()

    @contextmanager
    def held(self, line: Line, message: dict[str, Any]) -> Iterator[None]:
        """Send a message that calls the handler; the server is in it until the end."""
        self._held.clear()
        self._ended.clear()
        line.send(message)
        try:
            self.wait()
            yield
        finally:
            self.end()


def free_port() -> int:
    """Return a port that nobody listens on, outside of the ephemeral range.

    Tests run in parallel, and another one's server may get any port of that range when it is free.
    """
    while True:
        port = random.SystemRandom().randint(10_000, 32_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def compute(seconds: float) -> None:
    """Keep the processor busy, as a handler does that never waits."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Serving:
    """A server that runs in an OS thread of its own, with a hub of its own.

    Attributes:
        server: look at it from the test's thread, act on it through ``run`` only.
        errors: what went wrong in its hub outside of a handler; must stay empty.
    """

    def __init__(self, server: gtcp.Server) -> None:
        self.server = server
        self.errors: list[str] = []
        self._hub: Any = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        eventually(lambda: server.addresses or self._failed)
        if self._failed is not None:
            raise self._failed

    @property
    def address(self) -> str:
        """Where it listens first."""
        return self.server.addresses[0]

    def line(self, **options: Any) -> Line:
        """A new connection to it."""
        return Line(self.address, **options)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a greenlet of the server's thread; returns what it returns."""
        outcome: list[Any] = []

        def call() -> None:
            try:
                outcome.append((function(*args), None))
            except BaseException as exc:
                outcome.append((None, exc))

        self._hub.loop.run_callback_threadsafe(gevent.spawn, call)
        eventually(lambda: outcome)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def start_stopping(self, timeout: float | None = None) -> None:
        """Begin a drain; returns at once."""
        self._hub.loop.run_callback_threadsafe(gevent.spawn, self.server.stop, timeout)

    def wait_until_leaving(self) -> None:
        """Wait until a drain has begun: it does not listen, and its connections are leaving."""

        def leaving() -> bool:
            server = self.server
            return not server.addresses and all(each.leaving for each in server.connections)

        eventually(lambda: self.run(leaving))

    def stop(self, timeout: float | None = None) -> None:
        """Drain; returns when the thread has ended. Harmless when it has already."""
        if self._thread.is_alive():
            self.start_stopping(timeout)
        self.join()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server does not stop"

    def _main(self) -> None:
        self._hub = gevent.get_hub()
        self._hub.handle_error = self._handle_error
        try:
            self.server.serve_forever()
        except BaseException as exc:
            self._failed = exc
        finally:
            del self._hub.handle_error  # gevent's own ends the hub
            self._hub.destroy(destroy_loop=True)

    def _handle_error(self, context: Any, kind: Any, value: Any, _traceback: Any) -> None:
        if not issubclass(kind, self._hub.NOT_ERROR):
            self.errors.append(f"{context!r}: {kind.__name__}: {value}")


@contextmanager
def serving(target: gtcp.Server | gtcp.Commands, **settings: Any) -> Iterator[Serving]:
    """A running server on a free port of the loopback; stopped, at once, at the end.

    A ``Server`` brings its own settings. Fails when anything but a handler failed in it.
    """
    settings.setdefault("port", 0)
    server = target
    if isinstance(target, gtcp.Commands):
        server = gtcp.Server(gtcp.Settings(**settings))
        server.include(target)
    assert isinstance(server, gtcp.Server)
    ours = _OurErrors()
    logging.getLogger(SERVER).addHandler(ours)
    try:
        running = Serving(server)
        try:
            yield running
        finally:
            running.stop(0)
    finally:
        logging.getLogger(SERVER).removeHandler(ours)
    wrong = running.errors + ours.messages
    assert not wrong, wrong


@contextmanager
def ticking(running: Serving, ticks: list[None]) -> Iterator[None]:
    """A greenlet beside a server that adds a tick each millisecond, if it gets its turn."""

    def tick() -> None:
        while True:
            ticks.append(None)
            gevent.sleep(0.001)

    greenlet = running.run(gevent.spawn, tick)
    try:
        yield
    finally:
        running.run(greenlet.kill)


class _OurErrors(logging.Handler):
    """Collects what the server logs about failures of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "gtcp itself" in record.getMessage():
            self.messages.append(self.format(record))


class Line:
    """A client that knows nothing but lines, on a plain blocking socket."""

    def __init__(
        self, address: str, *, receive_buffer: int | None = None, source: str | None = None
    ) -> None:
        where = parse(address)
        self.sock = socket.socket(_family(where.path, where.host), socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            if source is not None:
                self.sock.bind((source, 0))
            self.sock.connect(where.unix_name or (where.host, where.port))
        except OSError:
            self.sock.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def send(self, *messages: bytes | dict[str, Any]) -> None:
        """Send messages in one go: dicts as lines, bytes as they are."""
        self.sock.sendall(b"".join(_as_line(each) for each in messages))

    def line(self) -> bytes:
        """The next line with its newline; what there is of it at the end of the stream."""
        while b"\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def reply(self) -> Any:
        """The next line, decoded."""
        line = self.line()
        assert line.endswith(b"\n"), f"the stream ended: {line!r}"
        return json.loads(line)

    def replies(self, count: int) -> list[Any]:
        """The next lines, decoded."""
        return [self.reply() for _ in range(count)]

    def ask(self, message: bytes | dict[str, Any]) -> Any:
        """Send one message, return the next reply."""
        self.send(message)
        return self.reply()

    def rest(self) -> list[Any]:
        """Everything until the server closes, decoded. A reset raises ConnectionResetError."""
        lines = []
        while line := self.line():
            assert line.endswith(b"\n"), f"half a line: {line!r}"
            lines.append(json.loads(line))
        return lines

    def at_end(self) -> bool:
        """Whether the server closes and has nothing more to say; waits until it says something."""
        return self.line() == b""

    def finish(self) -> None:
        """Shut our side, as ``nc -N`` does at the end of its input."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def _family(path: str, host: str) -> socket.AddressFamily:
    if path:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _as_line(message: bytes | dict[str, Any]) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"


@contextmanager
def process(source: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python program in a process of its own, and the first line that it prints.

    It is killed at the end, unless it has ended; its stderr is in ``folder/"stderr"``.
    """
    program = folder / "program.py"
    program.write_text(source)
    with open(folder / "stderr", "w") as stderr:
        child = subprocess.Popen(
            [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert child.stdout is not None
    try:
        first = child.stdout.readline().strip()
        assert first, (folder / "stderr").read_text()
        yield child, first
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
