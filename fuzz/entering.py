"""A peer that connects to a server with a handshake, over a real pair of sockets."""

from __future__ import annotations

import json
import socket
from typing import Any
from unittest import mock

import gevent

import gtcp
from fuzz.app import commands
from fuzz.inputs import Input
from fuzz.watch import turn, until
from gtcp.server.connections.context import Context
from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.handshake.admission import Admission
from gtcp.server.handshake.steps import Entrant, Handshake
from gtcp.transport.secret import Key

# What the handlers ran, of one input at a time: a table is costly to make.
RAN: list[gtcp.Request[Any]] = []
TABLE = commands(RAN, gevent.idle).table(8)


class Stranger:
    """The peer's end.

    Attributes:
        ran: the requests that were run.
    """

    def __init__(self, given: Input, keys: tuple[Key, ...] = (), **settings: Any) -> None:
        self.given = given
        self.ran = RAN
        self.ran.clear()
        self.received = bytearray()
        self.ended = False
        self.context = Context(TABLE, gtcp.Settings(**settings))
        handshake = Handshake(self.context.settings, None, list(keys))
        self._admission = Admission(self.context, lambda: handshake)
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)
        self._theirs.setblocking(False)

    # A pair of unix sockets stands for TCP, of which so many would use up the ports.
    @mock.patch.object(Entrant, "is_unix", False)
    def play(self) -> None:
        """Connect, send all, and check that the server keeps nothing of it."""
        try:
            ServingGreenlet(self._admission.serve, self._theirs, ("127.0.0.1", 1)).start()
            turn()
            self.introduce()
            for piece in self.given.pieces:
                self.send(piece)
            self.finish()
        finally:
            self.sock.close()
            for each in list(self.context.connections):
                each.close()
            self.context.close()
        answered = [json.loads(each) for each in bytes(self.received).split(b"\n")[:-1]]
        assert self.received.endswith(b"\n") or not self.received, "half a reply"
        assert all(isinstance(each, dict) for each in answered)

    def introduce(self) -> None:
        """Send what precedes the stream."""

    def send(self, data: bytes) -> None:
        """Send, as far as the server takes it."""
        while data and not self.ended:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                return
            turn()
            self.hear()

    def hear(self) -> None:
        """Read what there is."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.received += data
        self.ended = self.ended or not data

    def finish(self) -> None:
        """Hang up; the server forgets us."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was faster

        def gone() -> bool:
            self.hear()
            return not self.context.busy and not self.context.entering

        until(gone, "the server keeps the connection")
        assert not self.context.hosts
        self._theirs.close()
