"""What a program registers on its server: handlers, and functions that run around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gtcp.server.commands.handler import AnyLogger, Commands, HandlerT
from gtcp.server.commands.hooks import FunctionT


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
    ) -> Callable[[HandlerT], HandlerT]:
        """Register a handler; see :meth:`gtcp.Commands.handler`."""
        return self.commands.handler(
            cmdid,
            run_to_end=run_to_end,
            logger=logger,
            allow=allow,
            max_in_flight=max_in_flight,
        )

    def include(self, commands: Commands) -> None:
        """Take in every command of a table; see :meth:`gtcp.Commands.include`."""
        self.commands.include(commands)

    def before_request(self, function: FunctionT) -> FunctionT:
        """Decorate a function of one argument, the request: it is called before each handler.

        It runs in the greenlet and the context of the handler, after all checks of gtcp's own
        (``allow``, limits, params). What it returns is ignored. What it raises is answered as if
        the handler had raised it; the handler does not run then, and further ``before_request``
        functions do not either. Not called for gtcp's own commands (ping and the like).

        Raises:
            TypeError: an async or generator function, or one that takes other arguments.
            RuntimeError: the server has started.
        """
        return self.commands.hooks.add("before_request", function)

    def after_request(self, function: FunctionT) -> FunctionT:
        """Decorate a function ``f(request, error)``: it is called after each handler.

        It runs in the greenlet and the context of the handler, also when the handler was
        cancelled, or did not run because a ``before_request`` function raised. ``error`` is what
        the handler or that function raised (``CommandError``, ``Cancelled``, anything), or None.

        It is not cancelled itself, and calls that it makes inherit no deadline; it has until the
        end of a drain. The reply is sent afterwards and is not changed by it: what it raises is
        logged. Several are called in reverse order of registration, each of them whatever the
        others raise.

        Raises:
            TypeError, RuntimeError: as for ``before_request``.
        """
        return self.commands.hooks.add("after_request", function)

    def on_start(self, function: FunctionT) -> FunctionT:
        """Decorate a function without arguments: it is called once per start, before listening.

        So once in each worker process, in the thread that serves; it may block. Several are called
        in order of registration. When one raises, the server does not start.

        Raises:
            TypeError, RuntimeError: as for ``before_request``.
        """
        return self.commands.hooks.add("on_start", function)

    def on_stop(self, function: FunctionT) -> FunctionT:
        """Decorate a function without arguments: it is called after the drain.

        Also when the server could not start after its ``on_start`` functions were begun. Several
        are called in reverse order of registration; what one raises is logged.

        Raises:
            TypeError, RuntimeError: as for ``before_request``.
        """
        return self.commands.hooks.add("on_stop", function)
