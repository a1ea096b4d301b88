"""The status page: what a server does, for a browser, as HTML, as JSON and as events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from gevent import sleep

from gtcp.server.admin.http import Page, text
from gtcp.server.ops.status import Status

#: Seconds between two events.
EVENT_SECONDS = 1.0

#: Browsers that may follow the events at a time.
MAX_FOLLOWERS = 20

_JSON = "application/json; charset=utf-8"


class StatusPage:
    """Shows the status of a server.

    Args:
        status: returns it.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._followers = 0

    def html(self) -> Page:
        """Return the page; it asks for the events."""
        body = Path(__file__).with_name("status_page.html").read_bytes()
        return Page("200 OK", "text/html; charset=utf-8", body)

    def json(self) -> Page:
        """Return the current status of the service as JSON."""
        return Page("200 OK", _JSON, msgspec.json.encode(self._status()))

    def events(self) -> Page:
        """Return an endless stream of server-sent events, one status each second."""
        if self._followers >= MAX_FOLLOWERS:
            return text("too many browsers follow the status", "503 Service Unavailable")
        return Page("200 OK", "text/event-stream; charset=utf-8", self._follow())

    def _follow(self) -> Iterator[bytes]:
        self._followers += 1
        try:
            while True:
                yield b"data: " + msgspec.json.encode(self._status()) + b"\n\n"
                sleep(EVENT_SECONDS)
        finally:
            self._followers -= 1
