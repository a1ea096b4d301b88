"""A client's pools: one for every OS thread that uses it.

A socket's watchers belong to the event loop of one thread, so threads share the client but no
connection. A pool is created by the first call of its thread, and closed when the thread ends. A
forked child inherits descriptors that belong to its parent: it closes its copies without writing to
them, and opens connections of its own.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import gevent
from gevent import get_hub
from gevent.hub import set_hub  # type: ignore[attr-defined]
from greenlet import getcurrent

from gtcp.client.any_pool import HubPool
from gtcp.client.connections.forks import handle_fork, on_fork, same_process
from gtcp.client.pool import CLOSED
from gtcp.errors import ClientClosed
from gtcp.transport.sockets import original

#: The system's own, whether or not gevent has patched the modules: these are for OS threads.
_SystemLocal: type[Any] = original("_thread", "_local")
_new_lock: Callable[[], Any] = original("_thread", "allocate_lock")
thread_ident: Callable[[], int] = original("_thread", "get_ident")


class Pools:
    """The pools of one client, by hub. For any number of threads.

    Args:
        make: makes the pool of the calling thread.
        close: called when the client is closed, in any thread.
    """

    def __init__(
        self, make: Callable[[], HubPool], close: Callable[[], None] | None = None
    ) -> None:
        self._make = make
        self._close = close
        self._pools: dict[Any, HubPool] = {}
        # The counts of threads that have ended.
        self._past = Counter(connections=0, in_flight=0, opened=0, waits=0, sent=0, dropped=0)
        self._past_lock = _new_lock()
        self._closed = False
        _in_this_process.add(self)

    def here(self) -> HubPool:
        """Return the calling thread's pool.

        Raises:
            ConnectError: the client is closed.
        """
        if not same_process[0]:
            handle_fork()
        hub = get_hub()
        pool = self._pools.get(hub)
        return self._new(hub) if pool is None else pool

    def close(self) -> None:
        """Close every thread's connections."""
        self._closed = True
        if self._close is not None:
            self._close()
        for hub, pool in list(self._pools.items()):
            if hub.thread_ident == thread_ident():
                self.end(hub)
            else:
                self._end_from_outside(hub, pool)

    def drop(self, name: str) -> None:
        """Close the connections of a client that was garbage-collected without ``close``."""
        try:
            if self.counts()["connections"]:
                warnings.warn(f"unclosed {name}", ResourceWarning, stacklevel=1)
        finally:
            self.close()

    def end(self, hub: Any) -> None:
        """Close the connections of one thread, in that thread."""
        pool = self._pools.pop(hub, None)
        if pool is None:
            return
        if hub.loop is None:  # the hub was destroyed, and its watchers with it
            pool.abandon(stop_watching=False)
        else:
            pool.close()
        ended = {name: count for name, count in pool.counts().items() if name not in _NOW}
        with self._past_lock:
            self._past.update(ended)
        _used_in_this_thread(hub).discard(self)

    def leave_to_parent(self, here: int) -> None:
        """Drop the parent's connections; called in a forked child.

        Args:
            here: the thread that exists in the child. The event loops of the others may have been
                in any state, and are not touched.
        """
        pools, self._pools = self._pools, {}
        self._past_lock = _new_lock()
        for hub, pool in pools.items():
            pool.left_to_parent = True
            pool.abandon(stop_watching=hub.thread_ident == here and hub.loop is not None)
        _orphans.append(pools)

    def counts(self) -> Counter[str]:
        """Return the sum of ``Pool.counts`` over all threads."""
        total = Counter(self._past)
        for pool in list(self._pools.values()):
            total.update(pool.counts())
        return total

    def counts_of_hosts(self) -> dict[str, Counter[str]]:
        """Return the sum of ``counts_of_hosts`` over all threads; nothing for one host."""
        total: dict[str, Counter[str]] = {}
        for pool in list(self._pools.values()):
            for host, counts in pool.counts_of_hosts().items():
                total.setdefault(host, Counter()).update(counts)
        return total

    def _new(self, hub: Any) -> HubPool:
        pool = self._make()
        if not self._closed:
            self._pools[hub] = pool
            _used_in_this_thread(hub).add(self)
        if self._closed:  # checked again: another thread may have closed it meanwhile
            self.end(hub)
            raise ClientClosed(CLOSED)
        return pool

    def _end_from_outside(self, hub: Any, pool: HubPool) -> None:
        """End another thread's pool. Its calls in flight have to be failed in its own hub.

        That thread may not run its hub for a long time, so the connections are shut down now.
        """
        pool.shut()
        try:
            hub.loop.run_callback_threadsafe(self.end, hub)
        except (AttributeError, ValueError):
            pass  # the thread has just ended, and closed its pools


#: Counts of the present; the others are totals.
_NOW = frozenset({"connections", "in_flight"})


class _Thread:
    """Releases a thread's pools and hubs when the thread ends: it is freed with its locals.

    A forked child frees the locals of threads that it does not have. It must release nothing then:
    the hubs belong to other threads.
    """

    def __init__(self) -> None:
        self.used: dict[Any, set[Pools]] = {}
        weakref.finalize(self, _thread_ended, self.used, os.getpid()).atexit = False


class _Locals(_SystemLocal):  # type: ignore[misc]
    """The locals of an OS thread."""

    thread: _Thread


_locals = _Locals()


def _used_in_this_thread(hub: Any) -> set[Pools]:
    """Return the set of clients that used this hub and are closed when the thread ends."""
    if hub.loop is None or hub.loop.default:
        return set()  # the main thread ends with the process
    if not hasattr(_locals, "thread"):
        _locals.thread = _Thread()
    return _locals.thread.used.setdefault(hub, set())


def _thread_ended(used: dict[Any, set[Pools]], pid: int) -> None:
    if pid != os.getpid():
        return
    for hub, clients in used.items():
        for pools in list(clients):
            pools.end(hub)
        if hub.loop is not None:
            _destroy(hub)


def _destroy(hub: Any) -> None:
    """Close the descriptors of a hub whose thread ends.

    gevent may already have forgotten the thread's hub. Ending the hub's thread pool sleeps, for
    which gevent would create a new one.
    """
    set_hub(hub)
    hub.destroy(destroy_loop=True)


# Mutable, at module level: after a fork every client has to be found. Whatever the copies of the
# parent's greenlets wait for has to be kept: freeing a greenlet runs its cleanup code.
_in_this_process: weakref.WeakSet[Pools] = weakref.WeakSet()
_orphans: list[Any] = []


def never_return() -> NoReturn:
    """Block the calling greenlet for ever: it is a copy of one that goes on in the parent.

    The call belongs to the parent, so no outcome of it would be right here.
    """
    _orphans.append(getcurrent())
    while True:
        get_hub().switch()


def _after_fork_in_child() -> None:
    for pools in list(_in_this_process):
        pools.leave_to_parent(thread_ident())
    gevent.reinit()


on_fork(_after_fork_in_child)


def run_in_thread_of(hub: Any, function: Callable[[], Any]) -> None:
    """Have a function run in the hub of another thread; not at all if that thread has ended."""
    try:
        hub.loop.run_callback_threadsafe(function)
    except (AttributeError, ValueError):
        pass  # its event loop is destroyed
