"""The floor of gtcp's shape: a greenlet per connection with a read watcher that is started once."""

import socket
from typing import Any

NAME = "bare watcher greenlets"
REQUIRES = ()
PATCHED = False


def serve(port: int) -> None:
    from gevent import get_hub
    from gevent.server import StreamServer
    from greenlet import getcurrent

    from benchmarks.echo import HOST
    from benchmarks.peers.lines import Cutter, answer

    def handle(sock: Any, _address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hub, raw, cutter = get_hub(), sock._sock, Cutter()
        readable = hub.loop.io(sock.fileno(), 1)
        readable.start(getcurrent().switch)
        while True:
            hub.switch()
            try:
                data = raw.recv(65536)
            except BlockingIOError:
                continue
            if not data:
                return
            if lines := cutter.lines(data):
                replies = answer(lines)
                if (sent := raw.send(replies)) < len(replies):
                    sock.sendall(replies[sent:])

    StreamServer((HOST, port), handle, backlog=1024).serve_forever()
