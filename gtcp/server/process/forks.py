"""A forked child of a server's process: only the greenlet that called ``fork`` goes on in it.

A child inherits the hub with all its watchers and greenlets. If they went on, other handlers would
run to their end twice, in the parent and in the child: an order would be paid twice. So in the
child:

- every watcher of the hub's loop is stopped, and every queued callback;
- the other greenlets are kept, since freeing a greenlet runs its cleanup, and they are never
  resumed: code of the child may still try to, by releasing a lock or setting an event on which one
  of them waits;
- the hub's parent, the main greenlet, is replaced by one that ends the process.

The hub itself stays, and so do locks, events and gevent's sockets: the child may use them all.

gevent has no list of watchers and greenlets, so the garbage collector is asked. That copies most of
the memory that parent and child share: 100 ms for 300,000 objects. So it is asked when the child
switches greenlets for the first time, and one that executes a program never does. To tell the
parent's objects from the child's, the parent's are frozen (``gc.freeze``) until then.
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

from gtcp.server.ops.logger import SERVER

log = logging.getLogger(SERVER)

#: Exit status of a child that does not end by itself.
FAILED = 1

#: What gevent's locks, events and results have in common. Their notifications are not stopped:
#: they would never notify anything again.
_Linkable: type[Any] = Semaphore.__mro__[-2]

# Mutable, at module level: they belong to the process. In a child: the greenlets of the parent,
# those of them that something has tried to resume, with the greenlet to switch back to, and what
# else must not be freed.
_parents: set[Any] = set()
_resumed_by: dict[Any, Any] = {}
_kept: list[Any] = []
_previous_trace: Any = None


def run_only_caller(hub: Any) -> list[Any]:
    """Let only the calling greenlet go on, in a child that has just been forked.

    Returns:
        The calling greenlet, and those that wait for it as its parents, without the hub.
    """
    mine = _chain(getcurrent(), hub)
    for callback in list(hub.loop._callbacks):
        if not isinstance(getattr(callback.callback, "__self__", None), _Linkable):
            callback.stop()
    if hub.parent not in mine:
        _replace_main(hub)
    if mine:
        gc.freeze()

        def on_first_switch(event: str, args: tuple[Any, Any]) -> None:
            _trace(_on_switch)
            _part_with_parent(hub, mine, args[1])
            _on_switch(event, args)

        _trace(on_first_switch)
    else:  # the hub itself goes on, with its watchers
        _part_with_parent(hub, mine)
        _trace(_on_switch)
    return mine


def keep(*objects: object) -> None:
    """Keep what holds greenlets of the parent: to free one would run its cleanup."""
    _kept.append(objects)


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


def _part_with_parent(hub: Any, mine: list[Any], target: Any = None) -> None:
    """Stop the parent's watchers, and find its greenlets.

    Args:
        target: a greenlet that something resumes; one that is being freed is found nowhere else.
    """
    new = {id(each) for each in gc.get_objects()} if gc.get_freeze_count() else set()
    gc.unfreeze()
    own = {hub, hub.parent, *mine}
    watchers, greenlets = _find(hub.loop)
    for each in (*greenlets, *([] if target is None else [target])):
        if not (each in own or id(each) in new or _is_of(each, mine, hub)):
            _parents.add(each)
    own_ids = new.union(map(id, mine))
    for watcher in watchers:
        if not _is_for(watcher, own_ids):
            watcher.stop()


def _find(loop: Any) -> tuple[list[Any], list[Any]]:
    """Return the active watchers of a loop, and all greenlets."""
    watcher_type, kept = loop.WatcherType, type(loop.fork(ref=False))
    internal = getattr(loop, "_threadsafe_async", None)
    watchers, greenlets = [], []
    kinds: dict[int, str] = {}
    # By type(): isinstance() would ask lazy objects for their class, which may do anything.
    for each in gc.get_objects():
        kind = type(each)
        name = kinds.get(id(kind))
        if name is None:
            mro = kind.__mro__
            is_watcher, is_greenlet = watcher_type in mro, greenlet.greenlet in mro
            name = "watcher" if is_watcher else "greenlet" if is_greenlet else ""
            kinds[id(kind)] = name
        if name == "greenlet":
            greenlets.append(each)
        elif name and kind is not kept and each is not internal and _is_active(each, loop):
            watchers.append(each)
    return watchers, greenlets


def _is_active(watcher: Any, loop: Any) -> bool:
    return watcher.loop is loop and bool(watcher.active)


def _is_for(watcher: Any, own: set[int]) -> bool:
    """Return whether the child has started a watcher, or it wakes up the caller of ``fork``.

    Args:
        own: the ``id`` of the child's objects and of the caller.
    """
    callback = watcher.callback
    receiver = getattr(callback, "__self__", None)
    return any(id(each) in own for each in (watcher, callback, receiver, *(watcher.args or ())))


def _is_of(each: Any, mine: list[Any], hub: Any) -> bool:
    """Return whether a greenlet is one of these, or their coroutine: not a child of the hub."""
    return any(ancestor in mine for ancestor in _chain(each, hub))


def _replace_main(hub: Any) -> None:
    """End the child when the hub raises: its parent greenlet runs in the parent process."""
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


def _trace(function: Any) -> None:
    """Call a function at each switch of greenlets, before the previous trace function."""
    global _previous_trace
    previous = greenlet.settrace(function)
    if getattr(previous, "__module__", None) != __name__:
        _previous_trace = previous


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
