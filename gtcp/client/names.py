"""Calls by name: a connection learns the names of its server's commands, once.

A server's commands never change while it runs, and a connection leads to one server. So what a
connection has learned stays true for as long as it is open, whatever other servers behind the same
address know: after a restart with other cmdids, a call looks its name up on the new connection, and
no wrong command runs.
"""

from __future__ import annotations

import warnings
from typing import Any

import msgspec

from gtcp.client.any_pool import AnyPool
from gtcp.client.connections.connection import Connection
from gtcp.client.connections.reply import result_of
from gtcp.errors import ConnectionLost, GtcpError
from gtcp.protocol.messages import DEADLINE_EXCEEDED, NOT_FOUND, OWN_CMDID, Reply

#: Frames from where a deprecated command is called by name to where the warning is issued.
FRAMES = 6


class Named(msgspec.Struct, gc=False):
    """The properties of a command that a client calls by name."""

    cmdid: int
    name: str
    idempotent: bool = False
    deprecated: str | None = None


def warn_if_deprecated(name: str, deprecated: str | None, frames: int) -> None:
    """Issue the warning of a command, so many frames up, if it is deprecated."""
    if deprecated is not None:
        message = f"{name} is deprecated: {deprecated}"
        warnings.warn(message, DeprecationWarning, stacklevel=frames)


class NamedPool:
    """A pool whose connections take the name of a command in place of its cmdid. For one call.

    Attributes:
        idempotent: whether the call may be retried although it may have run: what the command was
            registered with, once that is known.
    """

    def __init__(self, pool: AnyPool) -> None:
        self.idempotent = False
        self._pool = pool

    @property
    def left_to_parent(self) -> bool:
        """Return that of the pool."""
        return self._pool.left_to_parent

    def ready(self) -> NamedConnection | None:
        """Like ``Pool.ready``."""
        connection = self._pool.ready()
        return None if connection is None else NamedConnection(self, connection)

    def get_for(
        self, _name: Any, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> NamedConnection:
        """Like ``Pool.get_for``."""
        return NamedConnection(self, self._pool.get_for(OWN_CMDID, params, deadline, meta))


class NamedConnection:
    """A connection that takes the name of a command; see ``NamedPool``.

    Attributes:
        connection: the connection itself.
    """

    def __init__(self, pool: NamedPool, connection: Connection) -> None:
        self._pool = pool
        self.connection = connection

    def call(
        self,
        name: Any,
        params: Any,
        deadline: float | None,
        meta: dict[str, str] | None,
        raw: bool = False,
    ) -> Reply:
        """Look the command up and call it, as ``Connection.call`` does.

        Returns:
            The command's reply; one with code 404 where the server has no such command, or several;
            or the server's refusal to say which commands it has.

        Raises:
            GtcpError: as ``Connection.call``; with ``executed`` "no" if the lookup failed.
        """
        command = self.find(name, deadline)
        if isinstance(command, Reply):
            return command
        warn_if_deprecated(command.name, command.deprecated, FRAMES)
        return self.connection.call(command.cmdid, params, deadline, meta, raw)

    def find(self, name: Any, deadline: float | None) -> Named | Reply:
        """Look a command up; return it, or the reply that its callers receive, see ``call``."""
        connection = self.connection
        if connection.commands is None:
            refusal = self._learn(deadline)
            if refusal is not None:
                return refusal
        found = [each for each in connection.commands or () if each.name == name]
        if not found:
            return Reply(NOT_FOUND, message=f"there is no command named {name!r}")
        if len(found) > 1:
            cmdids = ", ".join(str(each.cmdid) for each in found)
            return Reply(NOT_FOUND, message=f"there are several commands named {name!r}: {cmdids}")
        command: Named = found[0]
        self._pool.idempotent = command.idempotent
        return command

    def retire(self) -> None:
        """Like ``Connection.retire``."""
        self.connection.retire()

    def _learn(self, deadline: float | None) -> Reply | None:
        """Ask for the names of the commands; return the server's reply if it refuses."""
        connection = self.connection
        try:
            params = {"op": "commands", "form": "names"}  # before 0.3.0 a server ignores the form
            reply = connection.call(OWN_CMDID, params, deadline, None, raw=True)
            if reply.code:
                if reply.code == DEADLINE_EXCEEDED:
                    reply.data = {"executed": "no"}
                return reply
            connection.commands = tuple(result_of(reply, list[Named]))
        except GtcpError as exc:
            exc.executed = "no"  # it tells of the question
            raise
        if not connection.usable:  # the server left meanwhile
            raise ConnectionLost("the connection was closed", executed="no")
        return None
