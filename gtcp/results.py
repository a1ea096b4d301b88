"""The results of a stream or map, for code around it that has to know when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any


class WatchedResults:
    """An iterator that behaves as another one, and calls a function once when that ends.

    Args:
        results: the other iterator.
        ended: called with its exception, or with None if it ended otherwise: by itself, by
            ``close``, or since nobody refers to it.
        around: makes a context manager for each step.
    """

    def __init__(
        self,
        results: Any,
        ended: Callable[[BaseException | None], None],
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._results, self._around = results, around
        self._ended: Callable[[BaseException | None], None] | None = ended

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            with self._around():
                return next(self._results)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as exc:
            self._end(exc)
            raise

    def __enter__(self) -> WatchedResults:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._end(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)

    def close(self) -> None:
        """Take no more results."""
        close = getattr(self._results, "close", None)
        if close is not None:
            close()
        self._end(None)

    def throw(self, exc: BaseException) -> Any:
        """Raise an exception where the iterator waits, as gtcp does to stop a handler."""
        throw = getattr(self._results, "throw", None)
        if throw is None:
            self._end(exc)
            raise exc
        try:
            return throw(exc)
        except BaseException as raised:
            self._end(None if isinstance(raised, StopIteration) else raised)
            raise

    def _end(self, exc: BaseException | None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(exc)
