"""Everything gtcp raises, and what each exception tells a caller.

::

    GtcpError
    ├── ConnectError        executed no      DNS, connect, TLS, authentication failed
    ├── PoolTimeout         executed no      no connection became free in time (also a TimeoutError)
    ├── CallTimeout         no | maybe       the deadline passed               (also a TimeoutError)
    ├── ConnectionLost      no | maybe       the connection broke during the call
    ├── ProtocolError       maybe            the peer did not speak gtcp
    └── RemoteError         by its code      the server answered with a code other than 0
        └── RemoteTimeout   no | maybe       it answered 408                   (also a CallTimeout)

``executed`` answers the question every caller has: did the handler run? ``"no"`` is only
said when it is certain, and then the call can be sent again without a second thought.

``ClientClosed``, ``Untrusted`` and ``ServerLeaving`` tell gtcp itself whether to try again; all
that is raised is defined here, so that a process which only unpickles an error has its class.

Two more belong to handlers, not callers: ``CommandError`` is how a handler answers with a
code of its own, ``Cancelled`` is how a handler is stopped. ``SettingsError`` belongs to a
server's settings.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Executed = Literal["no", "maybe", "yes"]

#: Codes that a server only sends when the handler did not run (the wire's contract).
REFUSALS = frozenset({400, 401, 403, 404, 413, 422, 429, 503})

#: Codes below this are gtcp's own, from here on they are the application's.
FIRST_APPLICATION_CODE = 1000


class SettingsError(ValueError):
    """A setting is unknown or impossible: one line, with its name and what was expected."""


class GtcpError(Exception):
    """The root of what a call can raise.

    It can be pickled and copied, and ``type(error)(*error.args)`` makes an equal one.

    Attributes:
        executed: whether the handler ran: ``"no"``, ``"maybe"`` or ``"yes"``.
        args: what the class is called with; ``executed`` is the last item where it is not the
            one that follows from the others.
    """

    _usually: ClassVar[Executed] = "maybe"

    def __init__(self, message: str, executed: Executed | None = None) -> None:
        super().__init__(message)
        self._keep((message,), self._usually, executed)

    def _keep(
        self, args: tuple[Any, ...], implied: Executed, executed: Executed | None = None
    ) -> None:
        """Set ``args`` and ``executed``.

        Args:
            args: all but ``executed``.
            implied: what ``executed`` is without being given.
        """
        self._arguments = args
        self._implied = implied
        self.executed = implied if executed is None else executed

    @property
    def executed(self) -> Executed:
        """Whether the handler ran: ``"no"``, ``"maybe"`` or ``"yes"``."""
        return self._executed

    @executed.setter
    def executed(self, executed: Executed) -> None:
        self._executed = executed
        known = executed == self._implied
        self.args = self._arguments if known else (*self._arguments, executed)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:  # that of OSError has rules of its own
        return type(self), self.args, self.__dict__


class ConnectError(GtcpError):
    """No connection came about: name resolution, connect, TLS or authentication failed."""

    _usually = "no"


class ClientClosed(ConnectError):
    """The client was closed: trying again can't help."""


class Untrusted(ConnectError):
    """One side does not trust the other, or speaks otherwise: trying again can't help."""


class PoolTimeout(GtcpError, TimeoutError):
    """Every connection was full until the deadline passed; nothing was sent."""

    _usually = "no"


class CallTimeout(GtcpError, TimeoutError):
    """The deadline passed. ``executed`` is ``"no"`` when the line had not left yet."""


class ConnectionLost(GtcpError):
    """The connection broke during the call. ``"no"`` when the line had not left yet."""


class ServerLeaving(ConnectionLost):
    """The server said that it goes, and then that this call did not run: no reply came."""


class ProtocolError(GtcpError):
    """What the peer sent is not gtcp, or its result does not fit the type asked for."""


class RemoteError(GtcpError):
    """The server answered with a code other than 0.

    Attributes:
        code: the reply's code; below 1000 gtcp's own, from 1000 the application's.
        message: the reply's message.
        data: whatever JSON the server added, or None.
    """

    def __init__(
        self, code: int, message: str, data: Any = None, executed: Executed | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self._keep((code, message, data), self._implied_by_reply(), executed)

    def _implied_by_reply(self) -> Executed:
        return "no" if self.code in REFUSALS else "yes"

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


class RemoteTimeout(RemoteError, CallTimeout):
    """The server answered 408: it refused the call as late, or stopped its handler."""

    def _implied_by_reply(self) -> Executed:
        refused = isinstance(self.data, dict) and self.data.get("executed") == "no"
        return "no" if refused else "maybe"


class CommandError(Exception):
    """Raised by a handler to answer with an error code of its own.

    Args:
        code: 1000 or more; the lower ones are gtcp's and promise what ran and what did not.
        message: one sentence for the caller.
        data: anything JSON can hold, for the caller's program.

    Raises:
        ValueError: when the code is below 1000.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        if isinstance(code, bool) or not isinstance(code, int) or code < FIRST_APPLICATION_CODE:
            raise ValueError(f"a CommandError's code is an int of 1000 or more, got {code!r}")
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


class Cancelled(BaseException):
    """Raised inside a handler at its next wait, when nobody needs its result any more.

    The deadline passed, the caller hung up, or the server stops. It is no ``Exception``, so
    that ``except Exception`` lets it through; ``finally`` and context managers run.
    """
