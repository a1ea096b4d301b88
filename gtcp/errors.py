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

Two more belong to handlers, not callers: ``CommandError`` is how a handler answers with a
code of its own, ``Cancelled`` is how a handler is stopped.
"""

from __future__ import annotations

from typing import Any, Literal

Executed = Literal["no", "maybe", "yes"]

#: Codes that a server only sends when the handler did not run (the wire's contract).
REFUSALS = frozenset({400, 401, 403, 404, 413, 422, 429, 503})

#: Codes below this are gtcp's own, from here on they are the application's.
FIRST_APPLICATION_CODE = 1000


class GtcpError(Exception):
    """The root of what a call can raise.

    Attributes:
        executed: whether the handler ran: ``"no"``, ``"maybe"`` or ``"yes"``.
    """

    executed: Executed = "maybe"

    def __init__(self, message: str, *, executed: Executed | None = None) -> None:
        super().__init__(message)
        if executed is not None:
            self.executed = executed


class ConnectError(GtcpError):
    """No connection came about: name resolution, connect, TLS or authentication failed."""

    executed: Executed = "no"


class PoolTimeout(GtcpError, TimeoutError):
    """Every connection was full until the deadline passed; nothing was sent."""

    executed: Executed = "no"


class CallTimeout(GtcpError, TimeoutError):
    """The deadline passed. ``executed`` is ``"no"`` when the line had not left yet."""


class ConnectionLost(GtcpError):
    """The connection broke during the call. ``"no"`` when the line had not left yet."""


class ProtocolError(GtcpError):
    """What the peer sent is not gtcp, or its result does not fit the type asked for."""


class RemoteError(GtcpError):
    """The server answered with a code other than 0.

    Attributes:
        code: the reply's code; below 1000 gtcp's own, from 1000 the application's.
        message: the reply's message.
        data: whatever JSON the server added, or None.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        executed: Executed = "no" if code in REFUSALS else "yes"
        super().__init__(f"{code} {message}", executed=executed)
        self.code = code
        self.message = message
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.data)


class RemoteTimeout(RemoteError, CallTimeout):
    """The server answered 408: it refused the call as late, or stopped its handler."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        refused = isinstance(data, dict) and data.get("executed") == "no"
        self.executed = "no" if refused else "maybe"


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
