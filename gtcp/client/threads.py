"""The OS thread that runs, and functions to run in another one's event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gtcp.transport.sockets import original

#: The system's own, whether or not gevent has patched the modules.
thread_ident: Callable[[], int] = original("_thread", "get_ident")


def run_in_thread_of(hub: Any, function: Callable[[], Any]) -> None:
    """Have a function run in the hub of another thread; not at all if that thread has ended."""
    try:
        hub.loop.run_callback_threadsafe(function)
    except (AttributeError, ValueError):
        pass  # its event loop is destroyed
