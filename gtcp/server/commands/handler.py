"""Handlers and where they are registered: from a function to a cmdid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from gtcp.arguments import wrong_type
from gtcp.errors import CommandError
from gtcp.protocol.messages import OWN_CMDID, Failure, StreamItem, encode_reply
from gtcp.server.commands.command import AnyLogger, BaseHandler, Command, Handler
from gtcp.server.commands.hooks import Hooks
from gtcp.server.commands.middleware import Middleware, MiddlewareT, check_middleware, composed
from gtcp.server.commands.outcome import encode_safely, run, unsendable
from gtcp.server.commands.streaming import drive
from gtcp.server.commands.table import Rejection, Table
from gtcp.transport.identity import Peer

__all__ = ["AnyLogger", "BaseHandler", "Commands", "HandlerT"]

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class Commands:
    """A table of commands, on which any module can register handlers.

    Once a server serves it, it can't be changed. Any number of servers and threads may share it.

    Attributes:
        hooks: the functions that a server runs around requests, and at start and stop; empty unless
            the table is a server's own.
    """

    def __init__(self) -> None:
        self.hooks = Hooks()
        self._commands: dict[int, Command] = {}
        self._middleware: list[Middleware] = []
        # By cmdid: the middleware of the tables that a command has passed, its own table's first.
        self._layers: dict[int, tuple[list[Middleware], ...]] = {}
        self._fixed = False

    def __iter__(self) -> Iterator[Command]:
        return iter(sorted(self._commands.values(), key=lambda command: command.cmdid))

    def __len__(self) -> int:
        return len(self._commands)

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
        """Decorate a function of one argument, or a ``BaseHandler`` subclass.

        A generator function streams: its items are sent when they are yielded, to callers that use
        ``Client.stream``. So does a function annotated to return an ``Iterator``.

        Args:
            cmdid: the command's number, 1 or more (0 is gtcp's own).
            run_to_end: do not cancel the handler when its deadline passes or its caller hangs up;
                calls that it makes inherit no deadline. Not for commands that stream.
            logger: logger for its failures; by default its class's ``logger``.
            max_in_flight: maximum number of calls of it that run at a time in this process, None
                for no limit of its own. More are rejected with 429.
            allow: identities of peers that may call it (see ``Peer.names``), such as
                "key:billing.*", where ``*`` stands for one label; None for all peers. Others get
                403.
            errors: the ``CommandError`` subclasses that it raises, each with a code of its own.
                Stubs know them, and errors of these classes that the handler receives from other
                servers are passed on.
            idempotent: running it twice does no harm. Stubs, and clients that call it by name,
                retry it also when it may have run.
            deprecated: what to use instead: the same clients warn with it.

        Returns:
            A decorator that returns the handler unchanged.

        Raises:
            ValueError: the cmdid is reserved or already registered, a limit is below 1, or two
                errors have the same code.
            TypeError: an argument has the wrong type, the function is async or a generator
                function, or an annotation has no JSON form.
            NotImplementedError: a class that does not override ``process``.
            RuntimeError: the table is being served.
        """
        if isinstance(cmdid, bool) or not isinstance(cmdid, int):
            wrong_type("cmdid", "an int", cmdid)
        cmdid = int(cmdid)  # an IntEnum's member
        if cmdid == OWN_CMDID:
            raise ValueError("cmdid 0 is gtcp's own")
        if not 0 < cmdid < 2**63:
            raise ValueError(f"a cmdid is from 1 to 2**63 - 1, got {cmdid}")

        def register(target: HandlerT) -> HandlerT:
            command = Command(
                cmdid,
                target,
                run_to_end=run_to_end,
                logger=logger,
                allow=allow,
                max_in_flight=max_in_flight,
                errors=errors,
                idempotent=idempotent,
                deprecated=deprecated,
            )
            self._add(command, (self._middleware,))
            return target

        return register

    def include(self, commands: Commands) -> None:
        """Add every command of another table. The server's hooks apply to them too.

        Args:
            commands: the other table, which is not changed.

        Raises:
            TypeError: not a ``Commands``; a server's table is ``server.commands``.
            ValueError: a cmdid is registered in both.
            RuntimeError: this table is being served.
        """
        if not isinstance(commands, Commands):
            wrong_type("commands", "a gtcp.Commands", commands)
        for command in commands:
            self._add(command, (*commands._layers[command.cmdid], self._middleware))

    def middleware(self, function: MiddlewareT) -> MiddlewareT:
        """Decorate a function to be called around the handlers of this table.

        It is called in the greenlet and the context of the handler, with the request and the next
        function, which is other middleware or the handler. It returns what the next function
        returns, or another result; what that raises passes through it. Of a command that streams,
        the result is an iterator. Several are called in order of registration; those of a server
        before those of the tables that it includes. ``before_request`` functions run before all.

        Args:
            function: called as ``function(request, call_next)``.

        Returns:
            The function, unchanged.

        Raises:
            TypeError: an async function, or one with other arguments.
            RuntimeError: a server that serves this table has started.
        """
        check_middleware(function)
        if self._fixed:
            raise RuntimeError("middleware: the server has started already")
        self._middleware.append(function)
        return function

    def table(self, max_depth: int, max_line_bytes: int | None = None) -> Table:
        """Return the lookup table of a server; no command can be registered afterwards.

        Args:
            max_depth: the deepest nesting of a request.
            max_line_bytes: the longest request line in bytes; None for no limit.
        """
        self._fixed = self.hooks.fixed = True
        return Table(self._hooked(), max_depth=max_depth, max_line_bytes=max_line_bytes)

    def answer(self, line: bytes) -> bytes:
        """Run one request line through its handler, as a server would, without a network.

        The ``before_request`` and ``after_request`` functions of a server's table run too. There is
        no peer, so ``allow`` is not checked.

        Args:
            line: one request, with or without its newline.

        Returns:
            bytes: the reply line with its newline; empty for a oneway request. For a stream, all
                its lines.
        """
        table = Table(self._hooked())
        nowhere = _Nowhere()
        item = table.read(line.rstrip(b"\r\n") + b"\n", nowhere, monotonic())[0]
        if isinstance(item, Rejection):
            wanted, line = item.fatal or not item.oneway, encode_safely(item.reply, None, None)
        else:
            wanted, line = not item.oneway, encode_safely(run(item), item, None)
        return b"\n".join([*nowhere.items, line, b""]) if wanted else b""

    def _hooked(self) -> list[Command]:
        """Return the commands as they are served; without hooks and middleware as they are."""
        return [self._with_functions(command) for command in self]

    def _with_functions(self, command: Command) -> Command:
        layers = self._layers[command.cmdid]
        functions = [each for layer in reversed(layers) for each in layer]
        if not (functions or self.hooks.around_requests):
            return command
        around = self.hooks.around if self.hooks.around_requests else _unchanged
        return command.wrapped(around, partial(composed, functions) if functions else _unchanged)

    def _add(self, command: Command, layers: tuple[list[Middleware], ...]) -> None:
        if self._fixed:
            raise RuntimeError(f"cmdid {command.cmdid}: the server has started already")
        known = self._commands.get(command.cmdid)
        if known is not None and known is not command:
            raise ValueError(
                f"cmdid {command.cmdid} is registered twice: {known.name} and {command.name}"
            )
        self._commands[command.cmdid] = command
        self._layers[command.cmdid] = layers


def _unchanged(handler: Handler) -> Handler:
    return handler


class _Nowhere:
    address = ""
    peer = Peer("")

    def __init__(self) -> None:
        self.items: list[bytes] = []  # the lines of a stream

    def admits(self, command: Command) -> bool:
        """Return True: there is no peer."""
        return True

    def cancel(self, request_id: int | str | None) -> None:
        """Do nothing: no request is in flight."""

    def describe(self, op: str) -> object:
        """No server is running."""
        return {"status": "NOT_SERVING", "commands": {}} if op == "health" else None

    def credit(self, request_id: int | str | None, items: Any, ahead: Sequence[Any] = ()) -> None:
        """No stream is ever in flight here."""

    def stream(self, request: Any, items: Iterator[Any]) -> None:
        """Keep the items of a stream."""

        def send(item: Any) -> None:
            try:
                self.items.append(
                    encode_reply(StreamItem(True, len(self.items), item, request.id), None)
                )
            except Exception as exc:
                raise unsendable(request, exc) from None

        drive(items, lambda: None, send)

    def on_protocol_error(self, reply: Failure) -> None:
        """Do nothing: there is no connection."""
