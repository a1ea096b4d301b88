"""Commands that stream: their handler is a generator function, or returns another iterator.

A request of such a command has the key ``stream``. The handler's items are sent one by one, and the
reply that ends the stream has no result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from time import monotonic
from typing import Any, get_args, get_origin

import msgspec

from gtcp.deadline import earliest
from gtcp.errors import Cancelled
from gtcp.protocol.messages import STREAMING_MISMATCH, Milliseconds
from gtcp.server.commands.outcome import Refusal

#: What a handler that streams may be annotated to return.
ITERATORS = (Iterator, Generator, Iterable)

#: The keys of a request that only commands that stream read, with their types. Credit that makes no
#: sense is ignored, so it may be anything.
FIELDS = {"_stream": bool | None, "_credit": Any, "_total": Milliseconds | None}


def streaming_of(
    function: Callable[..., Any], name: str, result_type: Any, run_to_end: bool
) -> tuple[bool, Any]:
    """Return whether a handler streams, and the type of its result or of one item.

    Args:
        function: the function that would be called.
        name: the handler, for error messages.
        result_type: what its return annotation says; Any without one.
        run_to_end: whether it was registered with ``run_to_end``.

    Raises:
        TypeError: a generator function is annotated to return something else than an iterator, or
            ``run_to_end`` is given for one.
    """
    annotated = (get_origin(result_type) or result_type) in ITERATORS
    if not (annotated or inspect.isgeneratorfunction(function)):
        return False, result_type
    if run_to_end:
        raise TypeError(f"run_to_end: {name} streams, and ends with its caller")
    if result_type is Any:
        return True, Any
    if not annotated:
        raise TypeError(
            f"{name} is a generator function, annotated to return {result_type!r}: "
            f"expected Iterator[T]"
        )
    arguments = get_args(result_type)
    return True, arguments[0] if arguments else Any


def extend(namespace: dict[str, Any]) -> None:
    """Add the fields and the deadline of a request that streams to the body of its class."""
    for name in FIELDS:
        namespace[name] = msgspec.field(default=None, name=name[1:])
    namespace["deadline"] = property(_deadline)


def mismatch(streaming: bool) -> str:
    """Return why a request is refused, for a command that streams or does not."""
    if streaming:
        return 'this command streams: call it with "stream": true, and not oneway'
    return "this command does not stream: call it without stream"


def streamed(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the handler as one that sends its items and returns the result of the last reply."""

    def run(request: Any) -> Any:
        if not request._stream or request.oneway:
            raise Refusal(STREAMING_MISMATCH, mismatch(streaming=True))
        request._source.connection.stream(request, iter(handler(request)))
        return msgspec.UNSET  # no result

    return run


#: There is no item.
_NOTHING: Any = object()


def drive(items: Iterator[Any], wait: Callable[[], None], send: Callable[[Any], None]) -> None:
    """Call ``wait``, take an item, ``send`` it, until there are no more.

    An exception that ``wait`` raises is raised at the ``yield`` of a generator, which may clean up,
    or go on with another item: that is sent after the next ``wait``. After ``Cancelled`` it may not
    go on. The iterator is closed in any case. During any other ``wait`` nothing here refers to an
    item.

    Raises:
        BaseException: what the iterator or ``send`` raises; what ``wait`` raises, if the iterator
            is no generator or lets it through.
    """
    throw: Any = getattr(items, "throw", None)
    close: Any = getattr(items, "close", None)
    following = items.__next__
    item = _NOTHING
    try:
        while True:
            try:
                wait()
            except BaseException as exc:  # a gevent.Timeout, for one
                if throw is None or isinstance(exc, Refusal):
                    raise
                item = throw(exc)
                if isinstance(exc, Cancelled):
                    raise
                continue
            send(following() if item is _NOTHING else item)
            item = _NOTHING
    except StopIteration:
        pass
    finally:
        if close is not None:
            close()


def _deadline(request: Any) -> float | None:
    """When the caller stops waiting for the next item, or for the rest of the stream.

    Monotonic seconds; None when it waits for ever.
    """
    source = request._source
    now = monotonic()
    arrived = now if source is None else source.arrived
    progress = None if source is None else source.progress
    asked = arrived if progress is None else progress.asked
    timeout, total = request.timeout, request._total
    return earliest(
        None if timeout is None or asked is None else asked + timeout / 1000,
        None if total is None else arrived + total / 1000,
    )
