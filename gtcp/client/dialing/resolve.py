"""Name resolution: from a host name to the addresses behind it.

``getaddrinfo`` blocks, so it has to run in an OS thread. gevent would take one of the ten of
``hub.threadpool``, and a lookup would queue there behind the application's own blocking jobs.
Here each lookup gets a thread of its own, which ends with the lookup: there is no pool to size,
to destroy with its hub, or to make again after a fork. The threads are daemon threads, so they
do not keep the interpreter from exiting.

Lookups that take long (the DNS server does not answer) can't be interrupted. Calls that look up
a name for which a lookup is in progress share it, whatever their client and thread; so a name
that hangs has one thread, and never delays another name. A lookup that was started more than
``STALE_AFTER`` seconds ago is not joined any more, in case it never ends: the next call starts
another one, up to ``MAX_LOOKUPS`` for each name.

A resolver that was chosen with ``GEVENT_RESOLVER``, ``gevent.config.resolver`` or
``hub.resolver`` is used instead, unless it is gevent's default.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
from collections.abc import Callable, Iterable
from itertools import zip_longest
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent import get_hub
from gevent.event import Event

from gtcp.transport.sockets import encoded, original

#: Seconds after which a lookup that has not ended is not joined by further calls.
STALE_AFTER = 10.0

#: Lookups of one name that may be in progress at the same time.
MAX_LOOKUPS = 4

_new_lock: Callable[[], Any] = original("_thread", "RLock")
_start_thread: Callable[..., int] = original("_thread", "start_new_thread")


class Endpoint(NamedTuple):
    """Where to connect: an address family, and a socket address of it."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if self.family == socket.AF_INET6:
            return f"[{self.sockaddr[0]}]:{self.sockaddr[1]}"
        return f"{self.sockaddr[0]}:{self.sockaddr[1]}"


def resolve(host: str, port: int) -> list[Endpoint]:
    """Return the addresses of a host, with their families interleaved (RFC 8305, section 4).

    A numeric address is parsed here, without a thread. Only the calling greenlet waits.

    Raises:
        OSError: the name can't be resolved (``socket.gaierror``), or no thread can be started.
        ValueError: the text can't be a host name.
    """
    name = encoded(host)
    try:
        found = _socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except OSError:
        found = _look_up(name, port)
    if len(found) == 1:
        return [Endpoint(found[0][0], found[0][4])]
    return interleaved(Endpoint(each[0], each[4]) for each in found)


def interleaved(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Return the distinct endpoints, alternating between families; the first's family first."""
    families: dict[int, list[Endpoint]] = {}
    for each in dict.fromkeys(endpoints):
        families.setdefault(each.family, []).append(each)
    rounds = zip_longest(*families.values())
    return [each for some in rounds for each in some if each is not None]


def _look_up(name: bytes, port: int) -> list[Any]:
    chosen = _chosen_resolver()
    if chosen is not None:
        found: list[Any] = chosen.getaddrinfo(name, port, 0, socket.SOCK_STREAM)
        return found
    return _current_lookups().get(name, port)


def _chosen_resolver() -> Any:
    """Return the hub's resolver if the application chose one, else None.

    The attribute is read without the property ``hub.resolver``, which would create gevent's
    default resolver and the thread pool.
    """
    from gevent.resolver.thread import Resolver  # here: it loads the idna codec

    hub = get_hub()
    resolver = getattr(hub, "_resolver", None)
    kind = gevent.config.resolver if resolver is None else type(resolver)
    return None if kind is Resolver else hub.resolver


class _Lookup:
    """One lookup in progress, and what it found.

    Attributes:
        waiting: an async watcher for each greenlet that waits for it, in any hub.
        found: what ``getaddrinfo`` returned.
        error: what it raised, or None.
    """

    def __init__(self) -> None:
        self.started = monotonic()
        self.waiting: list[Any] = []
        self.found: list[Any] = []
        self.error: BaseException | None = None

    def result(self) -> list[Any]:
        """Return what was found, or raise an exception equal to the lookup's."""
        if self.error is not None:
            # One object raised in several greenlets would mix their tracebacks.
            raise type(self.error)(*self.error.args)
        return self.found


class _Lookups:
    """The lookups in progress in this process. For any number of threads.

    Attributes:
        pid: the process that they belong to.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        # Reentrant: garbage collection inside may end a greenlet that waits for a lookup.
        self._lock = _new_lock()
        self._running: dict[tuple[bytes, int], list[_Lookup]] = {}

    def get(self, name: bytes, port: int) -> list[Any]:
        """Return what ``getaddrinfo`` says; the calling greenlet waits for it.

        Raises:
            OSError: it can't be resolved, or no thread can be started.
        """
        done = Event()
        watcher = get_hub().loop.async_()
        watcher.start(done.set)
        lookup = None
        try:
            lookup = self._join((name, port), watcher)
            done.wait()
        finally:
            if lookup is not None:
                self._leave(lookup, watcher)
            watcher.stop()
            watcher.close()
        return lookup.result()

    def _join(self, key: tuple[bytes, int], watcher: Any) -> _Lookup:
        with self._lock:
            running = self._running.setdefault(key, [])
            stale = not running or monotonic() - running[-1].started > STALE_AFTER
            if stale and len(running) < MAX_LOOKUPS:
                running.append(self._started(key, running))
            running[-1].waiting.append(watcher)
            return running[-1]

    def _started(self, key: tuple[bytes, int], running: list[_Lookup]) -> _Lookup:
        lookup = _Lookup()
        try:
            _start_thread(self._run, (key, lookup))
        except RuntimeError as exc:
            if not running:
                del self._running[key]
            raise OSError(errno.EAGAIN, f"no thread to look up the name: {exc}") from exc
        return lookup

    def _leave(self, lookup: _Lookup, watcher: Any) -> None:
        """Do not wake this watcher any more: it is about to be closed."""
        if self.pid != os.getpid():
            return  # a forked child's copy: another thread may have held the lock
        with self._lock:
            if watcher in lookup.waiting:
                lookup.waiting.remove(watcher)

    def _run(self, key: tuple[bytes, int], lookup: _Lookup) -> None:
        """Look up a name, in a thread of its own."""
        try:
            lookup.found = _socket.getaddrinfo(*key, 0, socket.SOCK_STREAM)
        except BaseException as exc:
            lookup.error = exc.with_traceback(None)
        with self._lock:
            running = self._running[key]
            running.remove(lookup)
            if not running:
                del self._running[key]
            for watcher in lookup.waiting:
                _send(watcher)
            lookup.waiting.clear()


def _send(watcher: Any) -> None:
    try:
        watcher.send()
    except (AttributeError, ValueError):
        pass  # its thread has ended, and the event loop was destroyed: nothing waits any more


# Mutable, at module level: clients that are made and thrown away have to share lookups, too.
_lookups = _Lookups()


def _current_lookups() -> _Lookups:
    """Return this process's lookups: those of the process it was forked from never end here."""
    global _lookups
    if _lookups.pid != os.getpid():
        _lookups = _Lookups()
    return _lookups
