"""The decorators of a server: handlers, and functions that run around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gtcp.errors import CommandError
from gtcp.server.commands.handler import AnyLogger, Commands, HandlerT
from gtcp.server.commands.hooks import FunctionT
from gtcp.server.commands.middleware import MiddlewareT


class Registration:
    """The decorators of a ``Server``.

    Attributes:
        commands: the table of its commands.
    """

    def __init__(self) -> None:
        self.commands = Commands()

    def handler(
        self,
        cmdid: int,
        *,
        run_to_end: bool = False,
        logger: AnyLogger | None = None,
        allow: Iterable[str] | None = None,
        max_in_flight: int | None = None,
        errors: Iterable[type[CommandError]] = (),
        idempotent: bool = False,
        deprecated: str | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler: a function of one argument, or a ``BaseHandler`` subclass.

        Args:
            cmdid: the command's number, 1 or more.
            run_to_end: do not cancel the handler when its deadline passes or its caller hangs up.
            logger: logger for its failures; by default its class's ``logger``.
            allow: identities of peers that may call it; None for all peers.
            max_in_flight: maximum number of calls of it that run at a time in this process; None
                for no limit of its own.
            errors: the ``CommandError`` subclasses that it raises.
            idempotent: running it twice does no harm.
            deprecated: what to use instead; clients warn with it.

        Returns:
            A decorator that returns the handler unchanged.

        Raises:
            ValueError, TypeError, NotImplementedError, RuntimeError: as for
                :meth:`gtcp.Commands.handler`, which has the details of all arguments.
        """
        return self.commands.handler(
            cmdid,
            run_to_end=run_to_end,
            logger=logger,
            allow=allow,
            max_in_flight=max_in_flight,
            errors=errors,
            idempotent=idempotent,
            deprecated=deprecated,
        )

    def include(self, commands: Commands) -> None:
        """Add every command of a table; see :meth:`gtcp.Commands.include`.

        Args:
            commands: the table.

        Raises:
            TypeError, ValueError, RuntimeError: as for ``Commands.include``.
        """
        self.commands.include(commands)

    def before_request(self, function: FunctionT) -> FunctionT:
        """Decorate a function to be called before each handler.

        It runs in the greenlet and the context of the handler, after gtcp's own checks (``allow``,
        limits, params). An exception is answered as if the handler had raised it; the handler and
        further ``before_request`` functions do not run then. It is not called for gtcp's own
        commands, such as ping.

        Args:
            function: called as ``function(request)``; its return value is ignored.

        Returns:
            The function, unchanged.

        Raises:
            TypeError: an async or generator function, or one with other arguments.
            RuntimeError: the server has started.
        """
        return self.commands.hooks.add("before_request", function)

    def after_request(self, function: FunctionT) -> FunctionT:
        """Decorate a function to be called after each handler.

        It runs in the greenlet and the context of the handler, also if the handler was cancelled,
        or did not run because a ``before_request`` function raised.

        It is not cancelled, and calls that it makes inherit no deadline. The reply is sent
        afterwards and does not depend on it: its exceptions are logged. Several are called in
        reverse order of registration; all of them run, even if one raises.

        Args:
            function: called as ``function(request, error)``, where ``error`` is the exception of
                the handler or of a ``before_request`` function (``CommandError``, ``Cancelled`` or
                any other), or None.

        Returns:
            The function, unchanged.

        Raises:
            TypeError, RuntimeError: as for ``before_request``.
        """
        return self.commands.hooks.add("after_request", function)

    def middleware(self, function: MiddlewareT) -> MiddlewareT:
        """Decorate a function to be called around all handlers of the server.

        Args:
            function: called as ``function(request, call_next)``; see
                :meth:`gtcp.Commands.middleware`.

        Returns:
            The function, unchanged.

        Raises:
            TypeError, RuntimeError: as for ``Commands.middleware``.
        """
        return self.commands.middleware(function)

    def on_start(self, function: FunctionT) -> FunctionT:
        """Decorate a function to be called at each start, before the server listens.

        It runs once in each worker process, in the thread that serves, and may block. Several are
        called in order of registration. If one raises, the server does not start.

        Args:
            function: called without arguments.

        Returns:
            The function, unchanged.

        Raises:
            TypeError, RuntimeError: as for ``before_request``.
        """
        return self.commands.hooks.add("on_start", function)

    def on_stop(self, function: FunctionT) -> FunctionT:
        """Decorate a function to be called after the drain.

        It also runs if an ``on_start`` function failed. Several are called in reverse order of
        registration; exceptions are logged.

        Args:
            function: called without arguments.

        Returns:
            The function, unchanged.

        Raises:
            TypeError, RuntimeError: as for ``before_request``.
        """
        return self.commands.hooks.add("on_stop", function)
