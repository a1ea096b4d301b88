"""The fork hook of a process's servers: they stay the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Any

import gevent
from gevent._hub_local import get_hub_if_exists

from gtcp.server.connections.in_flight import ServingGreenlet
from gtcp.server.process import forks

#: All servers of this process: a fork has to find them. (Mutable, at module level, therefore.)
servers: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    started = [server for server in servers if server.started]
    if not started:
        return
    hub = get_hub_if_exists()  # if it is not a server's, that thread is not in the child
    callers = forks.run_only_caller(hub) if hub in [each._hub for each in started] else []
    for greenlet in callers:
        if isinstance(greenlet, ServingGreenlet):
            greenlet.forked = True
    for server in started:
        server.leave_to_parent()
    gevent.reinit()


os.register_at_fork(after_in_child=_after_fork_in_child)
