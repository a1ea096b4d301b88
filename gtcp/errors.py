"""All exceptions of gtcp, and what each means for a caller.

::

    GtcpError
    ├── ConnectError        executed no      DNS, connect, TLS, authentication failed
    ├── PoolTimeout         executed no      no connection became free in time (also a TimeoutError)
    ├── CallTimeout         no | maybe       the deadline passed               (also a TimeoutError)
    ├── ConnectionLost      no | maybe       the connection broke during the call
    ├── ProtocolError       maybe            the peer did not speak gtcp
    └── RemoteError         by its code      the server answered with a code other than 0
        ├── RemoteTimeout   no | maybe       it answered 408                   (also a CallTimeout)
        └── CommandError    yes | maybe      the handler raised it, and the client knows its class

``executed`` answers the question every caller has: did the handler run? ``"no"`` is only
said when it is certain, and then the call can be sent again without a second thought.

``ClientClosed``, ``Untrusted`` and ``ServerLeaving`` tell gtcp itself whether to try again; all
that is raised is defined here, so that a process which only unpickles an error has its class.

``CommandError`` is also how a handler answers with a code of its own. ``Cancelled`` belongs to
handlers, not callers: it is how a handler is stopped. ``SettingsError`` belongs to a server's
settings.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, overload

Executed = Literal["no", "maybe", "yes"]

#: Codes that a server only sends when the handler did not run (the wire's contract).
REFUSALS = frozenset({400, 401, 403, 404, 405, 413, 422, 429, 503})

#: Codes below this are gtcp's own, from here on they are the application's.
FIRST_APPLICATION_CODE = 1000


class Refused(Exception):
    """Raised by middleware, or by a ``before_request`` function, to refuse a request.

    The caller gets a ``RemoteError`` with ``executed`` "no". Raised after the handler ran, it is a
    failure of the server instead, code 500.

    Args:
        code: one of 400, 401, 403, 404, 413, 422, 429 and 503; for errors of the application, raise
            ``CommandError``.
        message: one sentence for people.
        data: any JSON, for the caller's program; with 429, ``{"retry_after": seconds}`` says when
            to call again.

    Raises:
        ValueError: another code.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        if type(code) is not int or code not in REFUSALS:
            known = ", ".join(map(str, sorted(REFUSALS)))
            raise ValueError(f"code: expected one of {known}, got {code!r}")
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


class SettingsError(ValueError):
    """An unknown setting or an impossible value. The message names it and what is accepted."""


class SettingsTypeError(SettingsError, TypeError):
    """A keyword of ``Settings`` is unknown, or its value has the wrong type."""


class GtcpError(Exception):
    """Base class of all exceptions that a call raises about the network or the server.

    It can be pickled and copied, and ``type(error)(*error.args)`` makes an equal one.

    Args:
        message: one sentence.
        executed: whether the handler ran; None for the default of the class.

    Attributes:
        executed: whether the handler ran: ``"no"``, ``"maybe"`` or ``"yes"``.
        args: the arguments of the class; ``executed`` is the last item if it does not follow from
            the others.
        received: number of items of a stream that came before the error; 0 for a call.
    """

    _usually: ClassVar[Executed] = "maybe"
    received: int = 0

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
    """Connecting failed: name resolution, connect, TLS or authentication. The call did not run."""

    _usually = "no"


class ClientClosed(ConnectError):
    """The client was closed, so the call is not retried."""


class Untrusted(ConnectError):
    """Authentication failed, or the peer uses another protocol; the call is not retried."""


class PoolTimeout(GtcpError, TimeoutError):
    """All connections were full until the deadline passed; nothing was sent."""

    _usually = "no"


class CallTimeout(GtcpError, TimeoutError):
    """The deadline passed. ``executed`` is ``"no"`` if the request was not sent yet."""

    #: Of the call, monotonic seconds; None if it is not known.
    _deadline: float | None = None


class ConnectionLost(GtcpError):
    """The connection broke during the call.

    ``executed`` is ``"no"`` if the request was not sent completely, or if the server said that it
    did not run.
    """


class ServerLeaving(ConnectionLost):
    """The server closed the connection with a 503 line, which says that this call did not run."""


class ProtocolError(GtcpError):
    """The peer sent something that is not gtcp, or a result that is not of the requested type."""


class RemoteError(GtcpError):
    """The server answered with a code other than 0.

    Args:
        code: the reply's code.
        message: the reply's message.
        data: the reply's data.
        executed: whether the handler ran; None if that follows from the code.

    Attributes:
        code: below 1000 gtcp's own, from 1000 on the application's.
        message: one sentence.
        data: any JSON that the server added, or None.
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
        if self.code not in REFUSALS:
            return "yes"
        # A stream that a drain has ended.
        began = isinstance(self.data, dict) and self.data.get("executed") == "maybe"
        return "maybe" if began else "no"

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


class RemoteTimeout(RemoteError, CallTimeout):
    """The server answered 408: the deadline passed before or while the handler ran."""

    def _implied_by_reply(self) -> Executed:
        refused = isinstance(self.data, dict) and self.data.get("executed") == "no"
        return "no" if refused else "maybe"


class CommandError(RemoteError):
    """Raised by a handler to answer with an error of the application.

    A subclass may have a code of its own, and is then raised without it::

        class OutOfStock(gtcp.CommandError, code=1001): ...

        raise OutOfStock("only 3 left", {"left": 3})

    A client that knows the class (``Client(errors=[OutOfStock])``, or a stub) raises it again: the
    same class with the same message and data, and ``executed`` as for every ``RemoteError``.

    Args:
        code: 1000 or more; lower codes are gtcp's. Left out for a class with a code of its own.
        message: one sentence for people.
        data: any JSON, for the caller's program.

    Raises:
        ValueError: the code is below 1000 or not an int.
    """

    #: The code of the class, if it has one.
    own_code: ClassVar[int | None] = None
    # Whether it was made of a reply. A handler then passes it on only if it declares the class.
    _from_reply = False

    def __init_subclass__(cls, *, code: int | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if code is not None:
            cls.own_code = _application_code(code)

    @overload
    def __init__(self, code: int, message: str, data: Any = None) -> None: ...
    @overload
    def __init__(self, message: str, data: Any = None) -> None: ...
    def __init__(self, *args: Any, **named: Any) -> None:
        own = () if self.own_code is None else (self.own_code,)
        self._fill(*own, *args, **named)

    def _fill(
        self, code: int, message: str, data: Any = None, executed: Executed | None = None
    ) -> None:
        RemoteError.__init__(self, _application_code(code), message, data, executed)
        if self.own_code is not None:
            self._keep((message, data), self._implied, executed)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (type(self), self.code, self.message, self.data, self.executed)
        return _made_again, fields, self.__dict__


def _application_code(code: Any) -> int:
    if isinstance(code, bool) or not isinstance(code, int) or code < FIRST_APPLICATION_CODE:
        raise ValueError(f"a CommandError's code is an int of 1000 or more, got {code!r}")
    return code


def received(
    kind: type[CommandError], code: int, message: str, data: Any, executed: Executed | None = None
) -> CommandError:
    """Return the exception that a reply stands for, without calling the class's ``__init__``.

    Subclasses may take other arguments than a message and data.
    """
    error = _made_again(kind, code, message, data, executed)
    error._from_reply = True
    return error


def _made_again(
    kind: type[CommandError], code: int, message: str, data: Any, executed: Executed | None
) -> CommandError:
    error = kind.__new__(kind)
    error._fill(code, message, data, executed)
    return error


class Cancelled(BaseException):
    """Raised in a handler where it waits, when its result is no longer needed.

    The deadline has passed, the caller has hung up, or the server stops. It is not an
    ``Exception``, so ``except Exception`` does not catch it; ``finally`` and context managers run.
    """
