"""Functions that an application has run around its requests, and at start and stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent

from gtcp.deadline import Carrier
from gtcp.protocol.messages import Request
from gtcp.server.commands.annotations import check_arguments, name_of, refuse_unsupported
from gtcp.server.commands.command import Handler
from gtcp.server.ops.logger import SERVER

log = logging.getLogger(SERVER)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
After = Callable[[Any, BaseException | None], Any]

#: The functions that there may be, and the arguments that each takes.
ARGUMENTS = {
    "before_request": ("the request",),
    "after_request": ("the request", "the error or None"),
    "on_start": (),
    "on_stop": (),
}

#: Raised to end the process or the greenlet: not a failure of the function.
ENDING = (KeyboardInterrupt, SystemExit, GreenletExit)


class StartError(RuntimeError):
    """A function registered with ``on_start`` failed; its exception is the cause."""


class Hooks:
    """The functions of one server.

    Attributes:
        fixed: whether the server has started: no more functions can be registered.
    """

    def __init__(self) -> None:
        self.fixed = False
        self._functions: dict[str, list[Callable[..., Any]]] = {name: [] for name in ARGUMENTS}

    def add(self, name: str, function: FunctionT) -> FunctionT:
        """Register a function and return it.

        Args:
            name: a key of ``ARGUMENTS``.

        Raises:
            TypeError: it is an async or generator function, or takes other arguments.
            RuntimeError: the server has started.
        """
        called = name_of(function)
        refuse_unsupported(function, called, f"{name} takes a plain function")
        check_arguments(name, function, ARGUMENTS[name])
        if self.fixed:
            raise RuntimeError(f"{name} {called}: the server has started already")
        self._functions[name].append(function)
        return function

    def copy(self) -> Hooks:
        """Return the same functions for another server, which has not started."""
        copied = Hooks()
        copied._functions = {name: list(each) for name, each in self._functions.items()}
        return copied

    @property
    def around_requests(self) -> bool:
        """Whether there are functions to run before or after requests."""
        return bool(self._functions["before_request"] or self._functions["after_request"])

    def around(self, handler: Handler) -> Handler:
        """Return the handler with what runs before and after it."""
        before = tuple(self._functions["before_request"])
        after = tuple(reversed(self._functions["after_request"]))

        def run(request: Request[Any]) -> Any:
            error: BaseException | None = None
            try:
                request._source.refusable = True
                for function in before:
                    function(request)
                request._source.refusable = False
                return handler(request)
            except BaseException as exc:  # also Cancelled
                error = exc
                raise
            finally:
                # The greenlet does not switch before it can't be cancelled any more.
                me = getcurrent()
                if isinstance(me, Carrier):
                    me.uncancelled(_run_after, after, request, error)
                else:
                    _run_after(after, request, error)
                error = None  # its traceback refers to this frame

        return run

    def start(self) -> None:
        """Run what runs at start, in the order of registration.

        Raises:
            StartError: one has failed; those behind it were not run.
        """
        for function in self._functions["on_start"]:
            try:
                function()
            except ENDING:
                raise
            except BaseException as exc:  # a gevent.Timeout, too
                log.debug("on_start %s failed", name_of(function), exc_info=exc)
                reason = " ".join(f"{type(exc).__name__}: {exc}".split())
                raise StartError(f"on_start {name_of(function)} failed: {reason}") from exc

    def stop(self) -> None:
        """Run what runs at stop, in reverse order. Each is run; a failure is logged."""
        ending: BaseException | None = None
        for function in reversed(self._functions["on_stop"]):
            try:
                function()
            except ENDING as exc:
                ending = exc
            except BaseException as exc:
                log.error("on_stop %s failed", name_of(function), exc_info=exc)
        if ending is not None:
            raise ending


def _run_after(after: tuple[After, ...], request: Any, error: BaseException | None) -> None:
    """Run them all, whatever each of them does."""
    for function in after:
        try:
            function(request, error)
        except BaseException as exc:  # as a handler, it may raise anything
            address = request.address
            request._command.failures.log(f"after_request {name_of(function)} raised", address, exc)
