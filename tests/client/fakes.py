"""Peers for the client that do what no real server does: they follow a script.

A script is a function that gets a ``Peer``, one for each connection, in an OS thread with
plain blocking sockets: the client's event loop can be blocked without blocking its peer.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent

from tests.helpers import PATIENCE

Script = Callable[["Peer"], object]


class Peer:
    """One accepted connection, from the server's side.

    Attributes:
        lines: every request line read so far, decoded.
    """

    def __init__(self, sock: socket.socket, server: FakeServer) -> None:
        self.sock = sock
        self.server = server
        self.lines: list[Any] = []
        self._buffer = b""

    def request(self) -> Any:
        """The next request line, decoded; None at the end of the stream."""
        while b"\n" not in self._buffer:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.lines.append(json.loads(line))
        return self.lines[-1]

    def requests(self, count: int) -> list[Any]:
        """The next request lines."""
        return [self.request() for _ in range(count)]

    def send(self, *messages: bytes | dict[str, Any]) -> None:
        """Send messages in one go: dicts as lines, bytes as they are."""
        lines = [
            each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n"
            for each in messages
        ]
        self.sock.sendall(b"".join(lines))

    def answer(self, request: Any, **reply: Any) -> None:
        """Send the reply of one request: success with its params, unless told otherwise."""
        self.send(answer(request, **reply))

    def echo(self) -> None:
        """Answer everything with its params until the client closes."""
        while (request := self.request()) is not None:
            if not request.get("oneway"):
                self.answer(request)

    def silence(self) -> None:
        """Read and say nothing until the client closes."""
        while self.request() is not None:
            pass

    def go_away(self) -> None:
        """Say the 503 line that has no id."""
        self.send(GOODBYE)

    def close(self) -> None:
        """Close as one should: what is unread would make it a reset."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.sock.close()

    def reset(self) -> None:
        """Close with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def answer(request: Any, **reply: Any) -> dict[str, Any]:
    """The reply to a request: success with its params, unless told otherwise."""
    if not reply:
        reply = {"result": request.get("params")}
    return {"code": 0, "id": request["id"], **reply}


#: The line of a server that drains.
GOODBYE = {"code": 503, "message": "going away"}


def says(
    *messages: bytes | dict[str, Any], after: int = 1, end: Script = Peer.silence
) -> Callable[[Peer], None]:
    """A script: read this many requests, send messages, come to this end."""

    def script(peer: Peer) -> None:
        peer.requests(after)
        peer.send(*messages)
        end(peer)

    return script


def answers(**reply: Any) -> Callable[[Peer], None]:
    """A script: answer the first request, and none after it."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request(), **reply)
        peer.silence()

    return script


class FakeServer:
    """Listens and follows scripts: the first connection the first one, and so on.

    Connections after the last script follow the last one.

    Attributes:
        peers: the connections accepted so far.
    """

    def __init__(
        self, *scripts: Script, port: int = 0, receive_buffer: int | None = None, backlog: int = 128
    ) -> None:
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self._scripts = scripts
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(backlog)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> None:
        """Begin to accept connections."""
        self._start(self._accept)

    @property
    def lines(self) -> list[Any]:
        """Every request line of every connection."""
        return [line for peer in self.peers for line in peer.lines]

    def stop_listening(self) -> None:
        """Refuse further connections; those that are open stay."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in self._threads[:1]:  # the one that accepts, if it was started
            thread.join(PATIENCE)
        self._listener.close()

    def close(self) -> None:
        """End everything; raises what went wrong in a script."""
        self.stop_listening()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a script does not end"
        for peer in self.peers:
            peer.sock.close()
        if self.failures:
            raise self.failures[0]

    def _start(self, function: Callable[..., object], *args: Any) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            peer = Peer(sock, self)
            self.peers.append(peer)
            script = self._scripts[min(len(self.peers), len(self._scripts)) - 1]
            self._start(self._follow, script, peer)

    def _follow(self, script: Script, peer: Peer) -> None:
        try:
            script(peer)
        except OSError:
            pass  # the client or the test has closed: the test says what should have happened
        except BaseException as exc:
            self.failures.append(exc)


@contextmanager
def fake_server(*scripts: Script, receive_buffer: int | None = None) -> Iterator[FakeServer]:
    """A server that follows these scripts, one for each connection."""
    server = FakeServer(*scripts, receive_buffer=receive_buffer)
    server.accept()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def full_accept_queue() -> Iterator[FakeServer]:
    """A server whose accept queue is full: connecting hangs until it begins to accept."""
    server = FakeServer(Peer.echo, backlog=0)
    host, port = server.address.split(":")
    fillers = [socket.socket() for _ in range(3)]
    try:
        for each in fillers:
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                each.connect((host, int(port)))
        yield server
    finally:
        for each in fillers:
            each.close()
        server.close()


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result of the function, or the exception that it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as exc:
        return exc


def begin(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A greenlet that has begun to run the function; it returns the outcome."""
    greenlet = gevent.spawn(outcome, function, *args, **kwargs)
    gevent.sleep(0)
    return greenlet


def soon(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the value of the condition once it is true; the event loop runs meanwhile."""
    until = monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert monotonic() < until, f"not within {seconds} s: {condition}"
        gevent.sleep(0.002)


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count
