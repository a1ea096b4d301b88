"""Messages: one request is one line of JSON, and one reply is one line of JSON.

The server decodes an ``Envelope``, makes a ``Request`` of it, and encodes a ``Success`` or a
``Failure``; before these, a command that streams sends a ``StreamItem`` for each item. The client
encodes an ``Outgoing`` and decodes a ``Reply``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic, time
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from gtcp.transport.identity import Peer

BAD_REQUEST = 400
NOT_AUTHENTICATED = 401
NOT_ALLOWED = 403
NOT_FOUND = 404
#: A call without ``stream`` to a command that streams, or the reverse.
STREAMING_MISMATCH = 405
DEADLINE_EXCEEDED = 408
TOO_LARGE = 413
WRONG_PARAMS = 422
OVERLOADED = 429
FAILED = 500
GOING_AWAY = 503

#: gtcp's own commands: ping, commands, limits, cancel, credit.
OWN_CMDID = 0

T = TypeVar("T")
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: Unix time: clients also send it as a float, or as a string.
Timestamp = (
    Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
    | Annotated[float, msgspec.Meta(ge=-(2.0**53), le=2.0**53)]
    | Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,15}(\.[0-9]*)?\Z")]
    | None
)


class Origin(Protocol):
    """The part of a connection that a request can see."""

    @property
    def address(self) -> str:
        """The peer, as text."""

    @property
    def peer(self) -> Peer:
        """The peer, with its identities."""

    def cancel(self, request_id: int | str | None) -> None:
        """Cancel the request with this id, if it has not ended."""

    def describe(self, op: str) -> object:
        """Return the answer to gtcp's own ``op``; None if the peer may not know."""

    def credit(self, request_id: int | str | None, items: Any, ahead: Sequence[Any] = ()) -> None:
        """Allow the stream with this id to send more items; its request may be one of those ahead
        that have not run."""

    def stream(self, request: Any, items: Iterator[Any]) -> None:
        """Send the items of a request that streams; return when there are no more."""

    def on_protocol_error(self, reply: Failure) -> None:
        """End the connection, since the peer does not speak gtcp."""


class Progress(msgspec.Struct, gc=False):
    """The progress of a stream.

    Attributes:
        asked: when the handler was asked for the item that it works on, monotonic seconds; None
            while it is not asked for one, since the caller takes no more.
        items: items sent so far.
        sent: bytes of their lines, newlines included.
    """

    asked: float | None
    items: int = 0
    sent: int = 0


class Source(msgspec.Struct, gc=False):
    """Where one request came from.

    Attributes:
        connection: the connection that it was read from.
        line: its line as received; the newline is left out where several lines arrived together.
        arrived: when it arrived, monotonic seconds; never later than the real arrival.
        progress: of the stream that it has started, or None.
        refusable: whether functions run that may refuse it, since its handler was not called yet.
    """

    connection: Origin
    line: bytes
    arrived: float
    progress: Progress | None = None
    refusable: bool = False


class Request(msgspec.Struct, Generic[T], kw_only=True):
    """One request, the argument of a handler.

    Annotate the argument with ``Request[T]``, or with a subclass that has ``params: T``, to have
    ``params`` decoded into T before the handler runs.

    Attributes:
        cmdid: the command's number.
        params: the arguments: a dict, or an instance of T.
        id: as sent by the caller, or None.
        timeout: milliseconds that the caller had left when it sent the request, or None.
        oneway: whether the caller wants no reply.
        meta: strings that the caller passed along, for example a trace id.
    """

    cmdid: ClassVar[int] = OWN_CMDID
    # Set on the Struct that a server makes for each of its commands.
    _command: ClassVar[Any]
    _run: ClassVar[Any]  # a method: calls the handler with this request

    params: T = {}  # type: ignore[assignment]
    id: Id | None = None
    timeout: Milliseconds | None = None
    oneway: bool = False
    meta: dict[str, str] = {}
    _sent: Timestamp = msgspec.field(default=0, name="timestamp")
    # Commands that stream have another type for it.
    _stream: None = msgspec.field(default=None, name="stream")
    # Not from the wire: the server overwrites whatever a peer may send under this key.
    _source: Any = msgspec.field(default=None, name="")

    @property
    def timestamp(self) -> int:
        """When the request was sent, in Unix seconds; when it arrived if the caller did not say."""
        sent = _whole_seconds(self._sent)
        if not sent:
            arrived: float = self._source.arrived if self._source is not None else monotonic()
            sent = int(time() - (monotonic() - arrived))
        self._sent = sent
        return sent

    @property
    def address(self) -> str:
        """The peer, ``host:port``; ``unix:`` for a unix socket."""
        source: Source | None = self._source
        return source.connection.address if source is not None else ""

    @property
    def peer(self) -> Peer:
        """The sender: its address, and the identities that it has proven."""
        source: Source | None = self._source
        return source.connection.peer if source is not None else Peer("")

    @property
    def raw_body(self) -> bytes:
        """The line as received, without its line end."""
        source: Source | None = self._source
        return source.line.removesuffix(b"\n").removesuffix(b"\r") if source is not None else b""

    rawBody = raw_body  # noqa: N815  tornado-TCP's name for it

    @property
    def deadline(self) -> float | None:
        """When the caller stops waiting, in monotonic seconds; None for no deadline."""
        if self.timeout is None:
            return None
        arrived: float = self._source.arrived if self._source is not None else monotonic()
        return arrived + self.timeout / 1000

    def remaining(self) -> float | None:
        """Return the time until the caller stops waiting.

        Returns:
            float | None: seconds, never below 0; None for no deadline.
        """
        when = self.deadline
        return None if when is None else max(0.0, when - monotonic())

    def __repr__(self) -> str:
        # params stay out: a repr ends up in logs, and params may hold anything.
        return f"{type(self).__name__}(cmdid={self.cmdid}, id={self.id!r}, from={self.address!r})"


def _whole_seconds(sent: int | float | str | None) -> int:
    if isinstance(sent, str):
        return int(sent.partition(".")[0])
    return int(sent or 0)


class Envelope(msgspec.Struct):
    """A request line before its command is known, without params, in every form accepted.

    Every key but cmdid may be null, which is the same as its absence.
    """

    cmdid: int | float | str
    timestamp: Timestamp = 0
    id: Id | None = None
    timeout: Milliseconds | None = None
    oneway: bool | None = None
    meta: dict[str, str] | None = None
    stream: bool | None = None


class Head(msgspec.Struct):
    """The keys of a request line that a refusal needs; params are not decoded."""

    cmdid: int
    id: Id | None = None
    timeout: Milliseconds | None = None
    oneway: bool = False
    timestamp: Timestamp = 0
    meta: dict[str, str] = {}


class Success(msgspec.Struct, tag_field="code", tag=0, omit_defaults=True, gc=False):
    """A reply with a result."""

    result: Any
    id: int | str | None = None


class Failure(msgspec.Struct, omit_defaults=True):
    """A reply with an error code."""

    code: int
    message: str
    id: int | str | None = None
    data: Any = None


class StreamItem(msgspec.Struct, tag_field="code", tag=0, omit_defaults=True, gc=False):
    """One item of a stream; ``more`` is True, and ``item`` its number from 0 on."""

    more: bool
    item: int
    result: Any
    id: int | str | None = None


class StreamNotice(Failure, omit_defaults=True, kw_only=True):
    """Tells the caller of a stream something; the stream goes on."""

    more: bool


class Outgoing(msgspec.Struct, omit_defaults=True, gc=False):
    """A request as the client writes it."""

    cmdid: int
    id: int | None = None
    timeout: int | None = None
    params: Any = None
    oneway: bool = False
    meta: dict[str, str] | None = None


class OutgoingStream(Outgoing, omit_defaults=True, gc=False):
    """A request for a stream as the client writes it.

    Attributes:
        total: milliseconds for the whole stream, None for no limit; ``timeout`` is for each item.
    """

    stream: bool = False
    credit: int | None = None
    total: int | None = None


class Reply(msgspec.Struct, gc=False):
    """A reply as the client reads it; with ``more`` it is not the last one to its request."""

    code: int
    id: int | str | None = None
    result: Any = None
    message: str = ""
    data: Any = None
    more: bool = False
    item: int | None = None


class RawReply(Reply, gc=False):
    """A reply whose result is decoded later, into the type that the caller asked for."""

    result: msgspec.Raw = msgspec.Raw(b"null")


encode = msgspec.json.Encoder().encode
encode_lines = msgspec.json.Encoder().encode_lines
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_reply = msgspec.json.Decoder(Reply).decode
decode_raw_reply = msgspec.json.Decoder(RawReply).decode

#: What decoding bytes from a peer can raise (msgspec's own, and two it lets through).
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_reply(reply: Success | Failure | StreamItem, max_bytes: int | None) -> bytes:
    """Return one reply as its line, without the newline.

    Raises:
        ValueError: it is too long, or would be more than one line (a ``Raw`` can hold a newline).
        Exception: the result is not JSON; it may hold objects whose code raises anything.
    """
    line = encode(reply)
    if line.find(b"\n") >= 0:  # several times faster than `in`, which tries an int first
        raise ValueError("the encoded reply holds a newline")
    if max_bytes is not None and len(line) > max_bytes:
        raise ValueError(f"the reply is {len(line)} bytes long, at most {max_bytes} are allowed")
    return line


def encode_request(request: Outgoing) -> bytes:
    """One request as its line, with the newline.

    Raises:
        TypeError, ValueError: when params are not JSON; nothing was sent.
    """
    try:
        line = encode_lines([request])  # with its newline: adding it would copy the line
    except (OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise ValueError(f"params can't be written as JSON: {exc}") from exc
    if line.find(b"\n") != len(line) - 1:
        raise ValueError("params hold a Raw value with a newline in it")
    return line
