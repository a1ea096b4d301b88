"""The greenlets that serve a connection while its owner's handler is blocked."""

from __future__ import annotations

from collections.abc import Callable

from gevent import GreenletExit, get_hub, getcurrent

from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.ops.background_log import log_left_behind

#: Idle followers that a connection keeps for the next handlers that block.
MAX_IDLE = 100


class Followers:
    """The followers of one connection. They end with it, and with them their greenlet locals.

    Idle ones are kept: a new greenlet for each handler that blocks behind another costs 14 us of 33
    for a request.

    Args:
        serve: serves the connection; called in the follower.
    """

    __slots__ = ("_closed", "_idle", "_resumed", "_serve")

    def __init__(self, serve: Callable[[ServingGreenlet], None]) -> None:
        self._serve = serve
        self._idle: list[ServingGreenlet] = []
        self._closed = False
        self._resumed: ServingGreenlet | None = None

    def __len__(self) -> int:
        """Return how many are idle."""
        return len(self._idle)

    def resume(self) -> None:
        """Have a follower serve the connection; called in the hub."""
        follower = self._idle.pop() if self._idle else ServingGreenlet(self._run)
        self._resumed = follower
        follower.switch()

    def end_idle(self) -> None:
        """End those that are idle."""
        idle, self._idle = self._idle, []
        for follower in idle:
            get_hub().loop.run_callback(follower.throw, GreenletExit)

    def close(self) -> None:
        """End those that are idle, and the others when their handlers have returned."""
        self._closed = True
        self.end_idle()

    def _run(self) -> None:
        me = getcurrent()
        assert isinstance(me, ServingGreenlet)
        while True:
            self._serve(me)
            if self._closed or len(self._idle) >= MAX_IDLE:
                return
            self._idle.append(me)
            if not self._wait(me):
                return

    def _wait(self, me: ServingGreenlet) -> bool:
        """Wait until there is something to serve; return False if the follower has to end."""
        hub = get_hub()
        while True:
            self._resumed = None
            try:
                hub.switch()
                if self._resumed is me:
                    return True
            except BaseException as exc:
                if isinstance(exc, GreenletExit) and me not in self._idle:
                    return False
                log_left_behind(exc)
