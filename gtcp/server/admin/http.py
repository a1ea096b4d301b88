"""The admin port: HTTP for probes, Prometheus and people, by gevent's own server."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gevent import sleep
from gevent.pywsgi import WSGIServer
from gevent.socket import socket as GeventSocket  # noqa: N812

from gtcp.server.ops.logger import SERVER
from gtcp.server.process.syn_filter import drop_new_connections
from gtcp.transport.address import Address
from gtcp.transport.sockets import encoded

log = logging.getLogger(SERVER)

# The stubs want a logger or a file for the error log, of which only `write` is used.
_WSGIServer: Any = WSGIServer

BACKLOG = 64

#: Seconds that a connection may take to open, once its first packet has arrived.
OPENING_SECONDS = 0.05


class Page(NamedTuple):
    """An answer: status line, content type and body."""

    status: str
    content_type: str
    body: bytes | Iterable[bytes]


def text(body: str, status: str = "200 OK") -> Page:
    """Return a page of plain text."""
    return Page(status, "text/plain; charset=utf-8", body.encode() + b"\n")


#: A function that answers GET for one path.
View = Callable[[], Page]


class AdminPort:
    """Serves views by HTTP. Belongs to the hub that it is started in.

    Args:
        address: where to listen.
        shared: whether other processes of the service listen there too. The kernel distributes the
            requests then, and any process can answer.
        views: what to answer, by path.

    Raises:
        OSError: the address is in use or not permitted; the message names it.
    """

    def __init__(self, address: Address, views: dict[str, View], *, shared: bool) -> None:
        self._views, self._shared = views, shared
        self._sock = _listening(address, shared=shared)
        self.address = Address(address.host, self._sock.getsockname()[1])
        self._server = _WSGIServer(self._sock, self._answer, log=None, error_log=_ErrorLog())
        self._server.start()

    def close(self) -> None:
        """Listen no more; connections that are open end within moments."""
        if self._shared and drop_new_connections(self._sock):
            sleep(OPENING_SECONDS)  # those in its queue would be reset, though others go on
        self._server.stop(timeout=0.1)
        self._sock.close()

    def abandon(self) -> None:
        """Close the copy of the descriptor in a forked child."""
        self._sock.close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        view = self._views.get(path)
        if method not in ("GET", "HEAD"):
            page = text("only GET is supported: the admin port changes nothing", _NOT_ALLOWED)
        elif view is None:
            page = text(f"not found; there are {', '.join(sorted(self._views))}", "404 Not Found")
        else:
            page = view()
        headers = [("Content-Type", page.content_type), ("Cache-Control", "no-store")]
        if isinstance(page.body, bytes):
            headers.append(("Content-Length", str(len(page.body))))
        start_response(page.status, [*headers, *_SECURITY])
        if method == "HEAD":
            return []
        return [page.body] if isinstance(page.body, bytes) else page.body


_NOT_ALLOWED = "405 Method Not Allowed"

_SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; frame-ancestors 'none'",
    ),
)


class _ErrorLog:
    """Where pywsgi writes tracebacks: to gtcp's own log."""

    def write(self, message: str) -> None:
        """Log what is not empty."""
        if message.strip():
            log.warning("admin port: %s", message.strip())

    def flush(self) -> None:
        """Do nothing: every line is logged at once."""


def _listening(address: Address, *, shared: bool) -> Any:
    sock: Any = None
    try:
        found = socket.getaddrinfo(encoded(address.host), address.port, type=socket.SOCK_STREAM)
        family, _, _, _, name = found[0]
        sock = GeventSocket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except (OSError, UnicodeError) as exc:
        if sock is not None:
            sock.close()
        number = getattr(exc, "errno", None) or errno.EINVAL
        why = getattr(exc, "strerror", None) or exc
        raise OSError(number, f"admin: can't listen on {address}: {why}") from exc
    return sock
