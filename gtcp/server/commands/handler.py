"""Handlers and where they are registered: from a function to a cmdid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, TypeVar

from gtcp.arguments import wrong_type
from gtcp.protocol.messages import OWN_CMDID, Failure
from gtcp.server.commands.command import AnyLogger, BaseHandler, Command
from gtcp.server.commands.hooks import Hooks
from gtcp.server.commands.outcome import encode_safely, run
from gtcp.server.commands.table import Rejection, Table
from gtcp.transport.identity import Peer

__all__ = ["AnyLogger", "BaseHandler", "Commands", "HandlerT"]

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class Commands:
    """A table of commands, to register handlers on in any module.

    It may be filled from several modules; once a server serves it, it is fixed.

    Attributes:
        hooks: what a server runs around requests, and at start and stop; empty unless the table
            is that of a ``Server``.
    """

    def __init__(self) -> None:
        self.hooks = Hooks()
        self._commands: dict[int, Command] = {}
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
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a function of one argument, or a ``BaseHandler`` subclass.

        Args:
            cmdid: the command's number, 1 or more (0 is gtcp's own).
            run_to_end: do not stop the handler when its deadline passes or its caller hangs
                up; what it calls then inherits no deadline either.
            logger: where its failures are logged; by default its class's ``logger``.
            max_in_flight: how many calls of it may run at once in this process, None for as
                many as the server takes at all. Others are refused with 429.
            allow: who may call it: identities of peers (see ``Peer.names``) such as
                "key:billing.*", ``*`` stands for one label; None is everybody. Others get 403.

        Raises:
            ValueError: the cmdid is reserved, or registered already; a limit below 1.
            TypeError: an argument has the wrong type, or the annotations are not what a handler
                may have.
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
            )
            self._add(command)
            return target

        return register

    def include(self, commands: Commands) -> None:
        """Take in every command of another table. The server's hooks hold for them too.

        Raises:
            TypeError: it is no ``Commands``; a server's is ``server.commands``.
            ValueError: a cmdid is registered in both.
            RuntimeError: this table is being served.
        """
        if not isinstance(commands, Commands):
            wrong_type("commands", "a gtcp.Commands", commands)
        for command in commands:
            self._add(command)

    def table(self, max_depth: int, max_line_bytes: int | None = None) -> Table:
        """Fix the commands and make what a server looks them up in."""
        self._fixed = self.hooks.fixed = True
        return Table(self._hooked(), max_depth=max_depth, max_line_bytes=max_line_bytes)

    def answer(self, line: bytes) -> bytes:
        """Run one request line through its handler, as a server would, without a network.

        The ``before_request`` and ``after_request`` functions of a server's table are run too.
        There is no peer either: ``allow`` is not looked at, any command may be called.

        Returns:
            The reply line with its newline; empty for a oneway request.
        """
        table = Table(self._hooked())
        item = table.read(line.rstrip(b"\r\n") + b"\n", _NOWHERE, monotonic())[0]
        if isinstance(item, Rejection):
            wanted, line = item.fatal or not item.oneway, encode_safely(item.reply, None, None)
        else:
            wanted, line = not item.oneway, encode_safely(run(item), item, None)
        return line + b"\n" if wanted else b""

    def _hooked(self) -> list[Command]:
        """Return the commands as they are served; without hooks just as they are."""
        if not self.hooks.around_requests:
            return list(self)
        return [command.wrapped(self.hooks.around) for command in self]

    def _add(self, command: Command) -> None:
        if self._fixed:
            raise RuntimeError(f"cmdid {command.cmdid}: the server has started already")
        known = self._commands.get(command.cmdid)
        if known is not None and known is not command:
            raise ValueError(
                f"cmdid {command.cmdid} is registered twice: {known.name} and {command.name}"
            )
        self._commands[command.cmdid] = command


class _Nowhere:
    address = ""
    peer = Peer("")

    def admits(self, command: Command) -> bool:
        """There is nobody whom anything could be forbidden."""
        return True

    def cancel(self, request_id: int | str | None) -> None:
        """Nothing is ever in flight here."""

    def on_protocol_error(self, reply: Failure) -> None:
        """There is nothing to close."""


_NOWHERE = _Nowhere()
