"""The programs of the benchmarks' processes:

python -m benchmarks.child serve PEER PORT [VARIANT]    a server, until it is killed
python -m benchmarks.child call PEER PORT               a caller, see drive.py
python -m benchmarks.child hold PORT COUNT              connections that do nothing
python -m benchmarks.child unread PORT COUNT KIND       streams that are not read
python -m benchmarks.child trickle PORT COUNT SECONDS   connections that never finish a line
python -m benchmarks.child restarts ADDRESS...          calls while servers are restarted
python -m benchmarks.child busy                         keeps the processor busy
python -m benchmarks.child idle PORT                    what an idle client weighs
"""

import importlib
import sys
from typing import NoReturn


def main() -> None:
    what, *args = sys.argv[1:]
    known = {"serve": serve, "call": call, "hold": hold, "trickle": trickle, "unread": unread}
    known |= {"busy": busy, "idle": idle, "restarts": restarts}
    known[what](*args)


def serve(name: str, port: str, variant: str = "") -> None:
    peer = _peer(name)
    peer.serve(int(port), *([variant] if variant else []))


def call(name: str, port: str) -> None:
    peer = _peer(name)
    drive = importlib.import_module("benchmarks.drive")
    drive.answer_questions(peer, int(port))


def _peer(name: str):
    """The peer's module; it is patched before anything that it needs is imported."""
    peer = importlib.import_module(f"benchmarks.peers.{name}")
    if peer.PATCHED:
        from gevent import monkey

        monkey.patch_all()
    return peer


def hold(port: str, count: str) -> NoReturn:
    """Open connections, each of which has made one call, and keep them."""
    import socket

    from benchmarks.echo import HOST
    from benchmarks.load import request_line

    kept = []
    for _ in range(int(count)):
        sock = socket.create_connection((HOST, int(port)))
        sock.sendall(request_line())
        sock.recv(65536)
        kept.append(sock)
    print("ready", flush=True)
    while True:
        sys.stdin.read(1)


def unread(port: str, count: str, kind: str) -> NoReturn:
    """Open connections, each with a stream of large items, and read nothing."""
    import select
    import socket

    from benchmarks.echo import HOST
    from benchmarks.peers.gtcp_greenlets import STREAM

    keys = ', "id": 1, "credit": 16' if kind == "credit" else ""
    kept = []
    for _ in range(int(count)):
        sock = socket.create_connection((HOST, int(port)))
        sock.sendall(f'{{"cmdid": {STREAM}, "stream": true{keys}}}\n'.encode())
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.poll()  # it has begun
        kept.append(sock)
    print("ready", flush=True)
    while True:
        sys.stdin.read(1)


def trickle(port: str, count: str, seconds: str) -> NoReturn:
    """Open connections that send a little now and then, and keep them."""
    importlib.import_module("benchmarks.trickle").trickle(int(port), int(count), int(seconds))


def restarts(*addresses: str) -> None:
    """Call a service whose servers are restarted."""
    importlib.import_module("benchmarks.restarts").main(*addresses)


def busy() -> NoReturn:
    """Keep the processor busy until killed."""
    print("ready", flush=True)
    while True:
        pass


def idle(port: str) -> None:
    """Print how much memory a client that has made a call takes on top of its imports."""
    import gc
    import os

    import gevent
    import msgspec  # noqa: F401

    from benchmarks.echo import ECHO, HOST, PARAMS
    from benchmarks.resident import resident_bytes

    gevent.sleep(0)
    gc.collect()
    before = resident_bytes(os.getpid())
    import gtcp

    imported = resident_bytes(os.getpid())
    client = gtcp.Client(f"{HOST}:{port}")
    client.call(ECHO, PARAMS)
    gc.collect()
    print(imported - before, resident_bytes(os.getpid()) - before, flush=True)


if __name__ == "__main__":
    main()
