"""The floor of greenlets: a bare gevent StreamServer with msgspec."""

import socket
from typing import Any

NAME = "bare gevent StreamServer"
REQUIRES = ()
PATCHED = False


def serve(port: int) -> None:
    from gevent.server import StreamServer

    from benchmarks.echo import HOST
    from benchmarks.peers.lines import Cutter, answer

    def handle(sock: Any, _address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cutter = Cutter()
        while data := sock.recv(65536):
            if lines := cutter.lines(data):
                sock.sendall(answer(lines))

    StreamServer((HOST, port), handle, backlog=1024).serve_forever()
