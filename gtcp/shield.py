"""Code that must not be stopped half-way.

A request is cancelled, and a ``with deadline(...)`` block is stopped, by an exception that is
raised where the greenlet waits. Code that does not clean up after a ``BaseException``, as in some
libraries, would leave a shared connection or pool in a wrong state.

A shield counts itself at everything that could stop the code inside: the request that runs in this
greenlet, and the deadline blocks around the shield. What is counted at keeps its exception back
while a shield is open. Without a shield nothing of this costs anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gevent import get_hub
from greenlet import getcurrent

from gtcp.deadline import Block, Carrier, block, interrupt


@contextmanager
def shield() -> Iterator[None]:
    """Defer cancellation and deadlines to the end of a ``with`` block.

    Deferred are the request's deadline, a caller that hangs up, the forced end of a drain, and
    ``deadline(...)`` blocks around the shield. Shields can be nested: the end of the outermost one
    counts. Calls inside do not inherit the deferred deadlines; ``request.remaining()`` still counts
    down. A ``deadline(...)`` block inside the shield stops its own code as usual. Outside of a
    handler only ``deadline(...)`` blocks around it are deferred.

    Not deferred: ``gevent.Timeout`` blocks and kills by the application, and the end of the
    process.

    Raises:
        Cancelled: at the end, if the request was cancelled meanwhile. An exception of the block is
            its ``__context__``.
        CallTimeout: at the end, by a ``deadline(...)`` block around it whose time has passed.
    """
    here, innermost = getcurrent(), block.get()
    shielded: list[Block | Carrier] = []  # from the inside out
    around = innermost
    while around is not None:
        if around.greenlet is here:
            shielded.append(around)
        around = around.outer
    if isinstance(here, Carrier):
        shielded.append(here)
    for each in shielded:
        each.shields += 1
    token = block.set(Block(None, innermost))
    ended: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        ended = exc
        raise
    finally:
        block.reset(token)
        _end(shielded, ended)


def _end(shielded: list[Block | Carrier], ended: BaseException | None) -> None:
    """Raise what was deferred, unless another shield is open; of several, the outermost one.

    A kill or a ``gevent.Timeout`` of the application is not replaced by a deadline: the deadline
    block is stopped where it waits next, if it catches the other.
    """
    raised = None
    for each in shielded:
        each.shields -= 1
        if each.shields or each.deferred is None:
            continue
        deferred, each.deferred = each.deferred, None
        if isinstance(each, Block) and not (ended is None or isinstance(ended, Exception)):
            get_hub().loop.run_callback(_stop, each, deferred)
        else:
            raised = deferred
    if raised is not None:
        raise raised


def _stop(stopped: Block, exc: BaseException) -> None:
    """Stop a block, unless it has ended; called in the hub."""
    if stopped.greenlet is not None:
        interrupt(stopped, stopped.greenlet, exc)
