"""A proxy between client and server that breaks the network on command.

It runs in a thread of its own and copies bytes both ways. What is wrong with the network at
the moment is one frozen ``Faults``: the copiers look at it for every piece they copy, so a
change takes effect at once, from whatever thread it is made.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from time import monotonic
from typing import Any, Literal

import gevent
import msgspec
from gevent import socket as gevent_socket

from gtcp.testing.running import InThread
from gtcp.transport.address import Address, parse

Direction = Literal["requests", "replies"]

RECV_BYTES = 65536

#: Seconds between two looks at whether a silence is over.
TICK = 0.005


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of the network. The defaults are no fault.

    Attributes:
        delay: seconds by which every piece of data is delayed.
        bandwidth: bytes per second, in each direction; None for no limit.
        slice: pass bytes on in pieces of this size; None for as received.
        drop: "requests" or "replies": the direction in which data is lost. A connection that has
            lost data is reset when this ends, as TCP would do in the end.
        silent: no data passes; it is kept, and passes when this ends.
        refuse: new connections are reset as soon as they are accepted.
    """

    delay: float = 0.0
    bandwidth: float | None = None
    slice: int | None = None
    drop: Direction | None = None
    silent: bool = False
    refuse: bool = False


class FaultProxy:
    """A proxy that breaks the network on command.

    It listens on a free loopback port and passes all data on to a server. Its methods may be called
    from any thread. It is a context manager: the end of the block closes it.

    Args:
        target: the server's address; nothing needs to listen there yet.

    Attributes:
        address: the address that clients connect to.
        faults: the current ``Faults``; changed by ``set`` and ``heal``.
        injected: how often each kind of fault was set.
    """

    def __init__(self, target: str) -> None:
        self.faults = Faults()
        self.injected: Counter[str] = Counter()
        self.address = ""
        self._target = parse(target)
        self._pairs: set[_Pair] = set()
        self._listener: Any = None
        self._acceptor: Any = None
        self._pending: dict[str, int] = {"duplicate": 0, "garble": 0}
        self._cuts: dict[Direction, int] = {}
        self._thread = InThread(self._start, self._stop)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def set(self, **faults: Any) -> None:
        """Replace the current faults.

        Args:
            **faults: the fields of ``Faults``.

        Raises:
            TypeError: there is no such fault.
        """
        self.faults = Faults(**faults)
        self.injected.update(faults.keys())

    def heal(self) -> None:
        """End all faults. Connections that have lost data are reset."""
        self.faults = Faults()
        self._cuts.clear()
        self._pending = {"duplicate": 0, "garble": 0}
        self._thread.do(self._end_all, True, True)

    def reset(self) -> None:
        """Reset every connection, both sides (RST)."""
        self.injected["reset"] += 1
        self._thread.do(self._end_all, True)

    def cut(self) -> None:
        """Close every connection, both sides (FIN)."""
        self.injected["cut"] += 1
        self._thread.do(self._end_all, False)

    def cut_after(self, count: int, direction: Direction = "replies") -> None:
        """Reset a connection after more bytes.

        Args:
            count: the number of bytes that still pass.
            direction: "requests" or "replies".
        """
        self.injected["cut_after"] += 1
        self._cuts[direction] = count

    def duplicate(self, lines: int = 1) -> None:
        """Pass the next reply lines on twice.

        Args:
            lines: how many.
        """
        self.injected["duplicate"] += 1
        self._pending["duplicate"] = lines

    def garble(self, lines: int = 1) -> None:
        """Corrupt a byte in each of the next reply lines.

        Args:
            lines: how many.
        """
        self.injected["garble"] += 1
        self._pending["garble"] = lines

    def close(self) -> None:
        """Close everything and end the thread."""
        self._thread.join()

    def run_schedule(self, seed: int, seconds: float) -> None:
        """Inject random faults, then heal the network. Blocks the calling greenlet or thread.

        Args:
            seed: the same seed gives the same faults in the same order, at the same times.
            seconds: how long.
        """
        chance = random.Random(seed)
        end = monotonic() + seconds
        while monotonic() < end:
            gevent.sleep(min(chance.uniform(0.02, 0.3), max(0.0, end - monotonic())))
            self._something(chance)
            gevent.sleep(min(chance.uniform(0.0, 0.2), max(0.0, end - monotonic())))
            self.heal()

    def _something(self, chance: random.Random) -> None:
        kind = chance.choice(
            ("delay", "bandwidth", "slice", "drop", "silent", "refuse",
             "reset", "cut", "cut_after", "duplicate", "garble")
        )  # fmt: skip
        way: Direction = chance.choice(("requests", "replies"))
        values: dict[str, Any] = {
            "delay": chance.uniform(0.001, 0.05),
            "bandwidth": chance.uniform(2_000, 200_000),
            "slice": chance.randint(1, 20),
            "drop": way,
            "silent": True,
            "refuse": True,
        }
        if kind in values:
            self.set(**{kind: values[kind]})
        elif kind == "cut_after":
            self.cut_after(chance.randint(0, 500), way)
        else:
            getattr(self, kind)()

    # In the proxy's own thread

    def _start(self) -> None:
        self._listener = gevent_socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1024)
        host, port = self._listener.getsockname()
        self.address = str(Address(host, port))
        self._acceptor = gevent.spawn(self._accept)

    def _stop(self) -> None:
        self._acceptor.kill()
        self._listener.close()
        self._end_all(False)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self.faults.refuse:
                _close(client, reset=True)
            else:
                gevent.spawn(self._connect, client)

    def _connect(self, client: Any) -> None:
        try:
            server = _open(self._target)
        except OSError:
            _close(client, reset=True)
            return
        pair = _Pair(self, client, server)
        self._pairs.add(pair)
        pair.start()

    def _end_all(self, reset: bool, only_losers: bool = False) -> None:
        for pair in list(self._pairs):
            if pair.lost or not only_losers:
                pair.end(reset)

    def _ended(self, pair: _Pair) -> None:
        self._pairs.discard(pair)

    def _spoiled(self, line: bytes) -> bytes:
        """Return a reply line with the faults that were asked for."""
        if self._pending["duplicate"] > 0:
            self._pending["duplicate"] -= 1
            return line + line
        if self._pending["garble"] > 0:
            self._pending["garble"] -= 1
            return b"\x00" + line[1:]
        return line

    def _passes(self, direction: Direction, piece: bytes) -> tuple[bytes, bool]:
        """Return the part of a piece that passes, and whether the connection is cut after it."""
        left = self._cuts.get(direction)
        if left is None:
            return piece, False
        self._cuts[direction] = left - len(piece)
        if left > len(piece):
            return piece, False
        del self._cuts[direction]
        return piece[:left], True


class _Pair:
    """One connection through the proxy: two sockets and a greenlet for each direction.

    Attributes:
        lost: the directions in which bytes were dropped, so that no more may pass there.
    """

    def __init__(self, proxy: FaultProxy, client: Any, server: Any) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self.lost: set[Direction] = set()
        self._copiers: list[Any] = []
        self._line = b""  # the reply line that has begun, while lines are to be spoiled

    def start(self) -> None:
        """Copy until one side ends."""
        self._copiers = [
            gevent.spawn(self._copy, "requests", self._client, self._server),
            gevent.spawn(self._copy, "replies", self._server, self._client),
        ]

    def end(self, reset: bool) -> None:
        """Close both sides."""
        for copier in self._copiers:
            copier.kill(block=False)
        for sock in (self._client, self._server):
            _close(sock, reset)
        self._proxy._ended(self)

    def _copy(self, direction: Direction, source: Any, sink: Any) -> None:
        try:
            while data := source.recv(RECV_BYTES):
                if direction == "replies":
                    data = self._lines(data)
                self._pass_on(direction, sink, data)
            self._wait_for_sound()
            if direction in self.lost:  # its end is lost too
                return
            sink.shutdown(socket.SHUT_WR)
            other = self._copiers[1 if direction == "requests" else 0]
            if other.dead:
                self.end(reset=False)
        except OSError:
            self.end(reset=True)

    def _pass_on(self, direction: Direction, sink: Any, data: bytes) -> None:
        while data:
            self._wait_for_sound()
            faults = self._proxy.faults
            size = faults.slice or len(data)
            piece, data = data[:size], data[size:]
            if faults.drop == direction:
                self.lost.add(direction)
                continue
            if direction in self.lost:  # healed, or another fault came: a stream has no gaps
                self.end(reset=True)
                return
            if faults.delay or faults.bandwidth:
                gevent.sleep(faults.delay + len(piece) / (faults.bandwidth or float("inf")))
            piece, last = self._proxy._passes(direction, piece)
            sink.sendall(piece)
            if last:
                self.end(reset=True)
                return

    def _wait_for_sound(self) -> None:
        while self._proxy.faults.silent:
            gevent.sleep(TICK)

    def _lines(self, data: bytes) -> bytes:
        """Spoil the reply lines in it, if some are to be; a line that has begun is kept back."""
        pending = self._proxy._pending
        if not self._line and not any(pending.values()):
            return data
        *lines, self._line = (self._line + data).split(b"\n")
        return b"".join(self._proxy._spoiled(line + b"\n") for line in lines)


def _open(address: Address) -> Any:
    if address.path:
        sock = gevent_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(address.unix_name)
        return sock
    return gevent_socket.create_connection((address.host, address.port))


def _close(sock: Any, reset: bool) -> None:
    try:
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    except OSError:  # it is gone already, which is what was wanted
        return
