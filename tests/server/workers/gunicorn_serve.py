"""`gtcp serve --workers N`, without the command line: `gunicorn_serve.py ADDRESS WORKERS NAME`."""

from __future__ import annotations

import sys

from gunicorn_app import loader

from gtcp import Settings
from gtcp.server.master import serve

if __name__ == "__main__":
    address, workers, name, *flags = sys.argv[1:]
    settings = Settings(bind=(address,), workers=int(workers))
    serve(loader(name), settings, commands=7, patch="--no-patch" not in flags)
