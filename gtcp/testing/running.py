"""A real server for a ``Server`` or ``Commands``, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from gevent import get_hub
from gevent.event import Event

from gtcp.server.commands.handler import Commands
from gtcp.server.server import Server
from gtcp.server.settings import Settings

#: Seconds to wait for the thread to start or to end before something must be wrong.
PATIENCE = 30.0


class InThread:
    """An OS thread with an event loop of its own.

    Args:
        set_up: called in the thread before the constructor returns; what it raises, the
            constructor raises.
        tear_down: called in the thread when ``join`` is.
    """

    def __init__(self, set_up: Callable[[], None], tear_down: Callable[[], None]) -> None:
        self._set_up = set_up
        self._tear_down = tear_down
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._hub: Any = None
        self._end: Any = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        if not self._started.wait(PATIENCE):
            raise RuntimeError("the thread did not start")
        if self._failure is not None:
            raise self._failure

    def do(self, function: Callable[..., Any], *args: Any) -> None:
        """Have a function called in the thread's hub, soon; it must not block."""
        self._hub.loop.run_callback_threadsafe(function, *args)

    def join(self) -> None:
        """Tear down and end the thread. Harmless when it has ended."""
        if self._thread.is_alive():
            self.do(self._end.set)
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError("the thread did not end")

    def _main(self) -> None:
        self._hub, self._end = get_hub(), Event()
        try:
            self._set_up()
        except BaseException as exc:  # it is raised where the thread was started
            self._failure = exc
        self._started.set()
        if self._failure is None:
            self._end.wait()
            self._tear_down()
        if not self._hub.loop.default:
            self._hub.destroy(destroy_loop=True)


class Running:
    """A running server, as ``running`` and the fixture ``gtcp_server`` give it.

    Args:
        make: creates the server, at each start.

    Attributes:
        server: the ``gtcp.Server``; its handlers run in a thread of their own.
        address: where it listens; the same after a restart.
    """

    def __init__(self, make: Callable[[], Server]) -> None:
        self._make = make
        self.server = make()
        self.address = ""
        self._thread: InThread | None = None
        self.start()

    def start(self) -> None:
        """Start it again after a stop, on the same address.

        Raises:
            OSError: the address is in use meanwhile.
        """
        if self.address:
            self.server = self._make()
            settings = msgspec.structs.replace(self.server.settings, bind=(self.address,))
            self.server.settings = settings
        self._thread = InThread(self.server.start, self._stop)
        self.address = self.server.addresses[0]

    def stop(self, timeout: float | None = None) -> None:
        """Drain and stop the server, as SIGTERM does; do nothing if it is stopped.

        Args:
            timeout: seconds before calls in flight are cancelled; by default the setting
                ``graceful_timeout``.
        """
        self._timeout = timeout
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    _timeout: float | None = None

    def _stop(self) -> None:
        self.server.stop(self._timeout)


@contextmanager
def running(commands: Server | Commands, settings: Settings | None = None) -> Iterator[Running]:
    """Serve on a free loopback port, in a thread, until the ``with`` block ends.

    Args:
        commands: a table, or a server, whose commands and hooks are used.
        settings: the settings to serve with, except for the address; by default the server's own.

    Yields:
        Running: the server, with its ``address``.
    """
    table = commands.commands if isinstance(commands, Server) else commands
    own = commands.settings if isinstance(commands, Server) else Settings()
    chosen = msgspec.structs.replace(settings or own, bind=("127.0.0.1:0",))

    def make() -> Server:
        server = Server(chosen)
        server.include(table)
        server.commands.hooks = table.hooks.copy()
        return server

    one = Running(make)
    try:
        yield one
    finally:
        one.stop(timeout=1.0)
