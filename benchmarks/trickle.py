"""Slow senders: connections that each send a byte a second of a line that never ends."""

from __future__ import annotations

import socket
import time
from typing import NoReturn

from benchmarks.echo import HOST


class Sender:
    """One slow sender. When it is cut off, it connects again immediately."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock = self._connect()

    def send_a_byte(self) -> None:
        if self._is_cut():
            self._sock.close()
            self._sock = self._connect()
        try:
            self._sock.send(b"{")
        except OSError:  # it was cut just now, which the next turn will notice
            pass

    def _connect(self) -> socket.socket:
        sock = socket.create_connection((HOST, self._port))
        sock.setblocking(False)
        return sock

    def _is_cut(self) -> bool:
        try:
            self._sock.recv(65536)  # the last line, or the end of the stream
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


def trickle(port: int, count: int, seconds: int) -> NoReturn:
    """Say "ready" when all of them have begun their lines, and go on for ever.

    Args:
        seconds: over which the lines begin, so that they are not cut all at once.
    """
    senders = [Sender(port) for _ in range(count)]
    start = time.monotonic()
    turn = 0
    while True:
        number = turn % count
        if number * seconds <= turn:
            senders[number].send_a_byte()
        turn += 1
        if turn == seconds * count:
            print("ready", flush=True)
        time.sleep(max(0.0, start + turn / count - time.monotonic()))
