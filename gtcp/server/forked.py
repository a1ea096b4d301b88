"""A forked child of a server's process: only the greenlet that called ``fork`` goes on in it.

A child inherits the hub with all its watchers and greenlets. If they went on, other handlers would
run to their end twice, in the parent and in the child: an order would be paid twice. So, right
after ``fork``:

- every watcher of the hub's loop is stopped, and every queued callback;
- the other greenlets are kept, since freeing a greenlet runs its cleanup, and they are never
  resumed: code of the child may still try to, by releasing a lock or setting an event on which one
  of them waits;
- the hub's parent, the main greenlet, is replaced by one that ends the process.

The hub itself stays, and so do locks, events and gevent's sockets: the child may use them all.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import greenlet
from gevent import get_hub
from gevent.exceptions import LoopExit
from gevent.lock import Semaphore
from greenlet import getcurrent

from gtcp.server.logger import SERVER

log = logging.getLogger(SERVER)

#: Exit status of a child that does not end by itself.
FAILED = 1

#: What gevent's locks, events and results have in common. Their notifications are not stopped:
#: they would never notify anything again.
_Linkable: type[Any] = Semaphore.__mro__[-2]

# Mutable, at module level: they belong to the process. In a child: the greenlets of the parent,
# and those of them that something has tried to resume, with the greenlet to switch back to.
_parents: set[Any] = set()
_resumed_by: dict[Any, Any] = {}
_previous_trace: Any = None


def run_only_caller(hub: Any) -> list[Any]:
    """Let only the calling greenlet go on, in a child that has just been forked.

    Returns:
        The calling greenlet, and those that wait for it as its parents, without the hub.
    """
    mine = _chain(getcurrent(), hub)
    watchers, greenlets = _find(hub.loop)
    for watcher in watchers:
        if not _is_for(watcher, mine):
            watcher.stop()
    for callback in list(hub.loop._callbacks):
        if not isinstance(getattr(callback.callback, "__self__", None), _Linkable):
            callback.stop()
    _parents.update(each for each in greenlets if each is not hub and not _is_of(each, mine, hub))
    if hub.parent not in mine:
        _replace_main(hub)
    _never_resume_parents()
    return mine


def reset_signals(owner: object, numbers: Iterable[int]) -> None:
    """Take back the signal handlers that are methods of this object: it is the parent's."""
    for each in numbers:
        if getattr(signal.getsignal(each), "__self__", None) is owner:
            signal.signal(each, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def end(message: str, *args: object, exc: BaseException | None = None) -> NoReturn:
    """Log why and end the child, without the parent's ``atexit`` functions and ``finally``."""
    try:
        log.error(message, *args, exc_info=exc)
        _flush()
    finally:
        os._exit(FAILED)


def exit_as(exc: SystemExit) -> NoReturn:
    """End the child with the status of ``sys.exit``."""
    status = FAILED
    try:
        if exc.code is None or isinstance(exc.code, int):
            status = (exc.code or 0) & 0xFF
        else:
            sys.stderr.write(f"{exc.code}\n")
        _flush()
    finally:
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _chain(me: Any, hub: Any) -> list[Any]:
    """Return a greenlet and its parents below the hub."""
    chain = []
    while me is not None and me is not hub:
        chain.append(me)
        me = me.parent
    return chain


def _find(loop: Any) -> tuple[list[Any], list[Any]]:
    """Return the active watchers of a loop, and all greenlets.

    gevent has no list of them, so the garbage collector is asked: 10 ms for 200,000 objects.
    """
    watcher_type, kept = loop.WatcherType, type(loop.fork(ref=False))
    internal = getattr(loop, "_threadsafe_async", None)
    if gc.get_freeze_count():
        gc.unfreeze()  # what is frozen is not listed
    watchers, greenlets = [], []
    kinds: dict[int, int] = {}
    # By type(): isinstance() would ask lazy objects for their class, which may do anything.
    for each in gc.get_objects():
        kind = type(each)
        number = kinds.get(id(kind))
        if number is None:
            mro = kind.__mro__
            number = 1 if watcher_type in mro else 2 if greenlet.greenlet in mro else 0
            kinds[id(kind)] = number
        if number == 0:
            continue
        if number == 2:
            greenlets.append(each)
        elif kind is not kept and each is not internal and each.loop is loop and each.active:
            watchers.append(each)
    return watchers, greenlets


def _is_for(watcher: Any, mine: list[Any]) -> bool:
    """Whether a watcher wakes up one of these greenlets: a ``gevent.Timeout`` around ``fork``."""
    receiver = getattr(watcher.callback, "__self__", None)
    return any(each is receiver or each in (watcher.args or ()) for each in mine)


def _is_of(each: Any, mine: list[Any], hub: Any) -> bool:
    """Whether a greenlet is one of these, or their coroutine: not a child of the hub."""
    return any(ancestor in mine for ancestor in _chain(each, hub))


def _replace_main(hub: Any) -> None:
    """Have what the hub raises end the child: its parent goes on in the parent process only."""
    last: Any = greenlet.greenlet(_end_with_hub, parent=hub.parent)
    last.switch(getcurrent())
    hub.parent = last


def _end_with_hub(caller: Any) -> None:
    try:
        caller.switch()
    except SystemExit as exc:
        exit_as(exc)
    except LoopExit:
        end("forked child %d has nothing left to run: ending it", os.getpid())
    except BaseException as exc:
        end("forked child %d failed: ending it", os.getpid(), exc=exc)


def _never_resume_parents() -> None:
    global _previous_trace
    if greenlet.gettrace() is not _on_switch:  # as it is in the child of a child
        _previous_trace = greenlet.settrace(_on_switch)


def _on_switch(event: str, args: tuple[Any, Any]) -> None:
    """Called in each greenlet that is switched to, before it goes on: the parent's never do."""
    origin, target = args
    if target not in _parents:
        if _previous_trace is not None:
            _previous_trace(event, args)
        return
    again = target in _resumed_by
    _resumed_by[target] = origin
    while not again:
        back = _resumed_by[target]
        try:
            (get_hub() if back.dead else back).switch()
        except BaseException:
            continue
