"""Failures that no input may cause: an error in the hub, a hang, much time or memory.

Time is the processor's, not the clock's: a busy machine is no finding.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, process_time
from typing import Any

import gevent

#: Seconds until something that has to happen counts as hanging.
PATIENCE = 10.0

#: Processor seconds that any input may take, and what each byte of its stream may add. It is
#: far more than it takes; what grows faster than the stream is over it all the same.
SECONDS = 2.0
SECONDS_A_BYTE = 20e-6

#: Kilobytes that one input may add to the peak of memory.
KILOBYTES = 128 * 1024


@contextmanager
def watched(stream: bytes) -> Iterator[None]:
    """Fail when what is done meanwhile costs too much, or breaks something in the hub."""
    errors = _Errors()
    hub = gevent.get_hub()
    log = logging.getLogger("gtcp")
    log.addHandler(errors)
    log.propagate = False  # what peers do wrong would fill the screen
    hub.handle_error = errors.of_hub
    before, memory = process_time(), _peak()
    try:
        yield
        turn()
    finally:
        del hub.handle_error
        log.propagate = True
        log.removeHandler(errors)
    took = process_time() - before
    assert not errors.found, errors.found
    assert took < SECONDS + SECONDS_A_BYTE * len(stream), f"{took:.1f} s"
    assert _peak() - memory < KILOBYTES, f"{_peak() - memory} KB more"


def turn() -> None:
    """Let all greenlets run that can, after one poll of the sockets.

    ``sleep(0)`` would do for greenlets, but gevent runs many of those before it looks.
    """
    gevent.idle()


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something that has to happen."""
    for _ in range(50):
        if condition():
            return
        turn()
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, f"hangs: {what}"
        gevent.sleep(0.001)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Errors(logging.Handler):
    """Collects what went wrong outside of a handler."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "gtcp itself" in record.getMessage():
            self.found.append(logging.Formatter().format(record))

    def of_hub(self, context: Any, kind: Any, value: Any, _traceback: Any) -> None:
        if not issubclass(kind, (gevent.GreenletExit, SystemExit)):
            self.found.append(f"{context!r}: {kind.__name__}: {value}")
