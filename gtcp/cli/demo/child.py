"""The demo's server process. It exits at the end of its stdin, a pipe from the demo's process."""

from gtcp.patching import patch_all

patch_all()

import contextlib  # noqa: E402
import os  # noqa: E402

from gevent.socket import wait_read  # noqa: E402

from gtcp.cli.demo.app import server  # noqa: E402
from gtcp.server.settings import Settings  # noqa: E402

STDIN, STDOUT = 0, 1


def main() -> None:
    """Listen on a free port, print its address on stdout, stop at the end of stdin."""
    server.settings = Settings(port=0)
    server.start()
    with contextlib.suppress(BrokenPipeError):  # then stdin has reached its end too
        os.write(STDOUT, f"{server.addresses[0]}\n".encode())
    wait_read(STDIN)  # nothing is written there: it ends when the parent exits, for any reason
    server.stop(0)


if __name__ == "__main__":
    main()
