"""The wire: one request is one line of JSON, one reply is one line of JSON.

Bytes and meaning only, no sockets: ``LineBuffer`` cuts the stream into lines, ``Envelope``
and ``Request`` are what a server reads, ``Success`` and ``Failure`` what it writes,
``Outgoing`` and ``Reply`` are the same two seen from the client.

A server decodes all lines of a wake-up in one msgspec pass when that is safe (``is_plain``),
and line by line otherwise. The slow way finds out what is wrong with which line; the fast
way only has to notice that something may be.
"""

from __future__ import annotations

import re
from math import inf
from time import monotonic
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from gtcp.identity import Peer

BAD_REQUEST = 400
NOT_AUTHENTICATED = 401
NOT_ALLOWED = 403
NOT_FOUND = 404
LATE = 408
TOO_LARGE = 413
WRONG_PARAMS = 422
OVERLOADED = 429
FAILED = 500
GOING_AWAY = 503

#: gtcp's own commands: ping, commands, cancel.
OWN_CMDID = 0

T = TypeVar("T")
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class Origin(Protocol):
    """What a request needs to know of the connection it came by."""

    @property
    def address(self) -> str:
        """The peer, as text."""

    @property
    def peer(self) -> Peer:
        """The peer, and who it is."""


class Batch(msgspec.Struct, gc=False):
    """What a request needs to know of where it came from.

    It does not hold its requests, which hold it: a cycle for every wake-up would keep the
    garbage collector busy.

    Attributes:
        peer: the connection.
        data: the request's line with its newline; several lines in what a server reads.
        arrived: when they came, monotonic seconds.
    """

    peer: Origin
    data: bytes
    arrived: float

    def line_of(self, request: Request[Any]) -> bytes:
        """The line that this request was read from, without its line end."""
        return self.data[:-1].removesuffix(b"\r")


class Request(msgspec.Struct, Generic[T], kw_only=True):
    """One request, as its handler gets it.

    Annotate a handler's argument with ``Request[T]``, or with a subclass that says
    ``params: T``, and ``params`` is decoded into T before the handler runs.

    Attributes:
        cmdid: the command's number.
        params: its arguments: a dict, or whatever the handler's annotation says.
        timestamp: when it was sent, Unix seconds; when it arrived if the caller did not say.
        id: as the caller sent it, or None.
        timeout: milliseconds of the caller's budget that were left when it was sent, or None.
        oneway: whether the caller wants no reply.
        meta: what the application passes along: trace context, tenant and the like.
    """

    cmdid: ClassVar[int] = OWN_CMDID
    _command: ClassVar[Any]  # the server's Command, set on the Struct made for each

    params: T = {}  # type: ignore[assignment]
    timestamp: Seconds = 0
    id: Id | None = None
    timeout: Milliseconds | None = None
    oneway: bool = False
    meta: dict[str, str] = {}
    # Not from the wire: the server overwrites whatever a peer may send under this key.
    _batch: Any = msgspec.field(default=None, name="")

    @property
    def address(self) -> str:
        """The peer, ``host:port``; ``unix:`` for a unix socket."""
        batch: Batch | None = self._batch
        return batch.peer.address if batch is not None else ""

    @property
    def peer(self) -> Peer:
        """Who sent it: address, and the identities that were proven when connecting."""
        batch: Batch | None = self._batch
        return batch.peer.peer if batch is not None else Peer("")

    @property
    def raw_body(self) -> bytes:
        """The line as it came, without its line end.

        For the handler: a greenlet that outlives it may find it empty.
        """
        batch: Batch | None = self._batch
        return batch.line_of(self) if batch is not None else b""

    rawBody = raw_body  # noqa: N815  tornado-TCP's name for it

    @property
    def deadline(self) -> float | None:
        """When the caller stops waiting, in monotonic seconds; None when it waits for ever."""
        if self.timeout is None:
            return None
        arrived: float = self._batch.arrived if self._batch is not None else monotonic()
        return arrived + self.timeout / 1000

    def remaining(self) -> float | None:
        """Seconds until the caller stops waiting, never below 0; None when it waits for ever."""
        when = self.deadline
        return None if when is None else max(0.0, when - monotonic())

    def __repr__(self) -> str:
        # params stay out: a repr ends up in logs, and params may hold anything.
        return f"{type(self).__name__}(cmdid={self.cmdid}, id={self.id!r}, from={self.address!r})"


class Envelope(msgspec.Struct):
    """A request line before anybody knows what its params should be."""

    cmdid: int | str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    timestamp: Seconds = 0
    id: Id | None = None
    timeout: Milliseconds | None = None
    oneway: bool = False
    meta: dict[str, str] = {}


class Success(msgspec.Struct, tag_field="code", tag=0, omit_defaults=True):
    """A reply with a result."""

    result: Any
    id: int | str | None = None


class Failure(msgspec.Struct, omit_defaults=True):
    """A reply with an error code."""

    code: int
    message: str
    id: int | str | None = None
    data: Any = None


class Outgoing(msgspec.Struct, omit_defaults=True):
    """A request as the client writes it."""

    cmdid: int
    id: int | None = None
    timeout: int | None = None
    params: Any = None
    oneway: bool = False
    meta: dict[str, str] | None = None


class Reply(msgspec.Struct):
    """A reply as the client reads it."""

    code: int
    id: int | str | None = None
    result: Any = None
    message: str = ""
    data: Any = None


class LineBuffer:
    """Cuts a stream of bytes into complete lines.

    Args:
        max_line_bytes: the longest line taken, its newline not counted; None for no limit.

    Attributes:
        overflow: True once a line was too long; what follows it is thrown away.
    """

    __slots__ = ("_limit", "_max", "_tail", "overflow")

    def __init__(self, max_line_bytes: int | None) -> None:
        self._limit = max_line_bytes
        self._max = inf if max_line_bytes is None else max_line_bytes
        self._tail = bytearray()
        self.overflow = False

    @property
    def begun(self) -> bool:
        """Whether a line has begun that has not ended yet."""
        return bool(self._tail)

    def feed(self, data: bytes) -> bytes:
        """Take what was received; return the lines that are complete now, newlines included."""
        if self.overflow:
            return b""
        if data.endswith(b"\n") and not self._tail and len(data) <= self._max:
            return data
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return b""
        if self._tail:
            lines = bytes(self._tail + data[:end])
            self._tail.clear()
        else:
            lines = data if end == len(data) else data[:end]
        if self._limit is not None and len(lines) > self._limit:
            lines = self._up_to_the_first_too_long(lines, self._limit)
        if not self.overflow and end < len(data):
            self._keep(data[end:])
        return lines

    def _keep(self, rest: bytes) -> None:
        self._tail += rest
        if self._limit is not None and len(self._tail) > self._limit:
            self.overflow = True
            self._tail = bytearray()

    def _up_to_the_first_too_long(self, lines: bytes, limit: int) -> bytes:
        start = 0
        while start < len(lines):
            end = lines.index(b"\n", start)
            if end - start > limit:
                self.overflow = True
                return lines[:start]
            start = end + 1
        return lines


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def depth_within(line: bytes, limit: int) -> bool:
    """Whether a JSON text nests at most ``limit`` deep; any bytes are taken.

    Removing the innermost pairs lowers the depth by one, and runs at C speed. Both kinds of
    brackets count as one: where they do not match, the decoder stops anyway.
    """
    if line.count(b"{") + line.count(b"[") <= limit:
        return True
    brackets = _STRINGS.sub(b"", line).translate(_ONE_KIND, _ALL_BUT_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8: msgspec does not look into what it skips."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_plain(data: bytes, lines: int, max_depth: int) -> bool:
    """Whether these lines may be decoded in one pass.

    Each must be an object that begins and ends on its own line (msgspec would also take two
    objects on one line, or one on two), be UTF-8 and nest no deeper than allowed.
    """
    if lines > 1 and data.count(b"}\n{") != lines - 1:
        return False
    # A text that nests n deep has at least 2n characters.
    deep = len(data) > 2 * max_depth and data.count(b"{") + data.count(b"[") > max_depth
    if deep and not all(depth_within(line, max_depth) for line in data.split(b"\n")):
        return False
    return data.isascii() or is_utf8(data)


encode = msgspec.json.Encoder().encode
encode_lines = msgspec.json.Encoder().encode_lines
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_reply = msgspec.json.Decoder(Reply).decode
decode_replies = msgspec.json.Decoder(Reply).decode_lines

#: What decoding bytes from a peer can raise (msgspec's own, and two it lets through).
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_reply(reply: Success | Failure, max_bytes: int | None) -> bytes:
    """One reply as its line, with the newline.

    Raises:
        ValueError: when it is too long, or would be more than one line (a ``Raw`` can hold
            a newline).
        Exception: when the result is not JSON; it may hold objects whose code raises anything.
    """
    line = encode(reply)
    if b"\n" in line:
        raise ValueError("the encoded reply holds a newline")
    if max_bytes is not None and len(line) > max_bytes:
        raise ValueError(f"the reply is {len(line)} bytes long, at most {max_bytes} are allowed")
    return line + b"\n"


def encode_request(request: Outgoing) -> bytes:
    """One request as its line, with the newline.

    Raises:
        TypeError, ValueError: when params are not JSON; nothing was sent.
    """
    try:
        line = encode(request)
    except (OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise ValueError(f"params can't be written as JSON: {exc}") from exc
    if b"\n" in line:
        raise ValueError("params hold a Raw value with a newline in it")
    return line + b"\n"
