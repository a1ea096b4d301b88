"""A client's pools: one for every OS thread that uses it.

A socket's watchers belong to the event loop of one thread, so threads share the client but no
connection. A pool is made when its thread first calls, and ended with the thread. A forked
child inherits descriptors that are still its parent's: it closes its copies without a word on
the wire and starts anew.
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

from gtcp.client.forks import handle_fork, on_fork, same_process
from gtcp.client.pool import CLOSED, Pool
from gtcp.errors import ClientClosed
from gtcp.sockets import original

#: The system's own, whether or not gevent has patched the modules: threads are meant here.
_SystemLocal: type[Any] = original("_thread", "_local")
_new_lock: Callable[[], Any] = original("_thread", "allocate_lock")
_thread_ident: Callable[[], int] = original("_thread", "get_ident")


class Pools:
    """The pools of one client, by hub. For any number of threads.

    Args:
        make: makes the pool of the calling thread.
    """

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make
        self._pools: dict[Any, Pool] = {}
        # The counts of threads that have ended.
        self._past = Counter(connections=0, in_flight=0, opened=0, sent=0, dropped=0)
        self._past_lock = _new_lock()
        self._closed = False
        _in_this_process.add(self)

    def here(self) -> Pool:
        """The calling thread's pool.

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
        for hub, pool in list(self._pools.items()):
            if hub.thread_ident == _thread_ident():
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
        """In a forked child: forget what is the parent's.

        Args:
            here: the thread that lives on in the child; the others' event loops may have
                been in any state, and are not touched.
        """
        pools, self._pools = self._pools, {}
        self._past_lock = _new_lock()
        for hub, pool in pools.items():
            pool.left_to_parent = True
            pool.abandon(stop_watching=hub.thread_ident == here and hub.loop is not None)
        _orphans.append(pools)

    def counts(self) -> Counter[str]:
        """The sum over all threads of what ``Pool.counts`` says."""
        total = Counter(self._past)
        for pool in list(self._pools.values()):
            total.update(pool.counts())
        return total

    def _new(self, hub: Any) -> Pool:
        pool = self._make()
        if not self._closed:
            self._pools[hub] = pool
            _used_in_this_thread(hub).add(self)
        if self._closed:  # looked at again: another thread may have closed it meanwhile
            self.end(hub)
            raise ClientClosed(CLOSED)
        return pool

    def _end_from_outside(self, hub: Any, pool: Pool) -> None:
        """End another thread's pool: its calls in flight have to be told in its own hub.

        A thread that is not in its hub may not come there for long, so the server is told now.
        """
        pool.shut()
        try:
            hub.loop.run_callback_threadsafe(self.end, hub)
        except (AttributeError, ValueError):
            pass  # the thread has ended this moment, and ended its pools


#: Counts that say how things are, not what has been.
_NOW = frozenset({"connections", "in_flight"})


class _Thread:
    """What is to be given back when an OS thread ends: it is freed then, with its locals.

    A forked child frees the locals of the threads that it does not have; nothing is its to
    give back, and the hubs are not of its own thread.
    """

    def __init__(self) -> None:
        self.used: dict[Any, set[Pools]] = {}
        weakref.finalize(self, _thread_ended, self.used, os.getpid()).atexit = False


class _Locals(_SystemLocal):  # type: ignore[misc]
    """Where an OS thread keeps it."""

    thread: _Thread


_locals = _Locals()


def _used_in_this_thread(hub: Any) -> set[Pools]:
    """The clients to be closed when this thread ends, of those that used this hub."""
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
    """Give back the descriptors of a hub whose thread ends.

    By now gevent may have lost its own note of the thread's hub. Ending the hub's thread pool
    (names are resolved there) sleeps, and for that gevent would make a new one.
    """
    set_hub(hub)
    hub.destroy(destroy_loop=True)


# Mutable, at module level: a fork has to find every client, and what the parent's
# greenlets wait for in the child has to be kept, since freeing a greenlet runs its cleanup.
_in_this_process: weakref.WeakSet[Pools] = weakref.WeakSet()
_orphans: list[Any] = []


def never_return() -> NoReturn:
    """Stop the calling greenlet for good: it is a copy of one that goes on in the parent.

    Whatever it were told about its call would be wrong: the call is the parent's.
    """
    _orphans.append(getcurrent())
    while True:
        get_hub().switch()


def _after_fork_in_child() -> None:
    for pools in list(_in_this_process):
        pools.leave_to_parent(_thread_ident())
    gevent.reinit()


on_fork(_after_fork_in_child)
