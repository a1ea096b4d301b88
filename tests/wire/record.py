"""Record a transcript with the gtcp that is installed: python -m tests.wire.record FILE

It is run once for a release, and its file is kept as it is.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

import gevent

import gtcp
from tests.wire.script import calls, server


def main() -> None:
    """Run the script through a proxy that writes down each line."""
    lines: list[tuple[str, str]] = []
    running = server()
    running.start()
    host, port = running.addresses[0].split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket, direction: str) -> None:
        for line in source.makefile("rb"):
            lines.append((direction, line.decode()))
            target.sendall(line)
        target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        upstream = socket.create_connection((host, int(port)))
        threading.Thread(target=copy, args=(client, upstream, ">"), daemon=True).start()
        copy(upstream, client, "<")

    threading.Thread(target=serve, daemon=True).start()
    with gtcp.Client(f"127.0.0.1:{listener.getsockname()[1]}") as client:
        outcomes = calls(client)
        gevent.spawn(running.stop).join()
        gevent.sleep(0.1)
    rows = ",\n".join(map(json.dumps, lines))  # a line for each
    ends = ",\n".join(f'"{name}": {json.dumps(each)}' for name, each in outcomes.items())
    head = f'{{"version": "{gtcp.__version__}",\n"lines": [\n{rows}\n],\n"outcomes": {{\n'
    Path(sys.argv[1]).write_text(f"{head}{ends}\n}}}}\n")


if __name__ == "__main__":
    main()
