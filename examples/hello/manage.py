"""Starts the server: ``python manage.py``, from any directory.

Then, for one::

    echo '{"cmdid":10000,"params":{"content":"Hello world!"}}' | nc -N 127.0.0.1 8889
"""

# ruff: noqa: E402
from gevent import monkey

# First thing: from here on what waits (time.sleep, a database) lets other requests run.
# `gtcp serve` does this by itself.
monkey.patch_all()

import sys
from pathlib import Path

from handlers import commands
from loggers import ServerLogger

import gtcp

SETTINGS = Path(__file__).with_name("settings.toml")


def main() -> None:
    ServerLogger()
    try:
        server = gtcp.Server(gtcp.Settings.load(SETTINGS))
        server.include(commands)
        server.serve_forever()
    except gtcp.SettingsError as exc:
        print(f"manage.py: {exc}", file=sys.stderr)
        sys.exit(2)
    except OSError as exc:  # most often another server listens there
        sys.exit(f"manage.py: {exc.strerror}")


if __name__ == "__main__":
    main()
