"""Host names that tests make up, and addresses at which nothing answers."""

from __future__ import annotations

import _socket
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers import PATIENCE

Where = tuple[Any, ...]


class FakeNames:
    """Takes the place of ``getaddrinfo``: knows the names that a test gives it, and localhost.

    Attributes:
        lookups: the names looked up so far, in the order of the calls.
        hanging: names whose lookups hang until ``release``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lookups: list[str] = []
        self.hanging: set[str] = set()
        self._known: dict[str, list[Where]] = {}
        self._released = threading.Event()
        self._original = _socket.getaddrinfo
        monkeypatch.setattr(_socket, "getaddrinfo", self._getaddrinfo)

    def add(self, name: str, *wheres: Where) -> None:
        """Make up a name with these socket addresses, in this order."""
        self._known[name] = list(wheres)

    def release(self) -> None:
        """Let the lookups that hang go on."""
        self._released.set()

    def _getaddrinfo(self, host: bytes, *args: int) -> Any:
        if socket.AI_NUMERICHOST in args[4:]:
            return self._original(host, *args)
        name = host.decode()
        self.lookups.append(name)
        if name in self.hanging:
            assert self._released.wait(PATIENCE)
        if name == "localhost":
            return self._original(host, *args)
        if name not in self._known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family_of(each), socket.SOCK_STREAM, 6, "", each) for each in self._known[name]]


def family_of(where: Where) -> int:
    return socket.AF_INET6 if ":" in where[0] else socket.AF_INET


@contextmanager
def dead_address(host: str, port: int = 0) -> Iterator[Where]:
    """A socket address at which packets to connect are dropped: its accept queue is full."""
    family = family_of((host,))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[:2]
