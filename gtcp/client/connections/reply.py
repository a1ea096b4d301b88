"""From the bytes that a server sends to replies. They are checked before they are decoded.

Bytes and meaning only, no sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import inf
from typing import Any, TypeAlias

import msgspec

from gtcp.errors import CommandError, ProtocolError, RemoteError, RemoteTimeout, received
from gtcp.protocol.framing import LineBuffer, depth_within, is_plain, is_utf8
from gtcp.protocol.messages import (
    DEADLINE_EXCEEDED,
    UNREADABLE,
    Reply,
    decode_raw_reply,
    decode_reply,
)

Decode: TypeAlias = Callable[[bytes], Reply]

#: How deep a reply may nest. It protects the decoder; the server has its own, lower limit.
MAX_REPLY_DEPTH = 500

#: Bytes of an unreadable line that an error message shows.
MAX_SHOWN_BYTES = 40


_NO_CLASSES: Mapping[int, type[CommandError]] = {}


class Limits(msgspec.Struct):
    """The result of ``{"op": "limits"}``: what the server takes; None for no limit."""

    max_line_bytes: int | None = None


class Replies:
    """Cuts the stream of one server into replies.

    Args:
        max_reply_bytes: the longest line taken, its newline not counted; None for no limit.
    """

    __slots__ = ("_buffer", "_decode", "_short")

    def __init__(self, max_reply_bytes: int | None) -> None:
        self._decode = decode_reply
        self._buffer = LineBuffer(max_reply_bytes)
        # A text that nests n deep has at least 2n characters.
        self._short = min(2 * MAX_REPLY_DEPTH, max_reply_bytes or inf)

    def keep_raw(self) -> None:
        """Leave results undecoded from now on, as ``msgspec.Raw``; see ``result_of``."""
        self._decode = decode_raw_reply

    def alone(self, data: bytes) -> Reply | None:
        """Return the reply if the data is exactly one plain line; None if it needs ``feed``."""
        size = len(data)
        if (
            size > self._short
            or self._buffer.begun
            or data.find(b"\n") != size - 1
            or not data.isascii()
        ):
            return None
        try:
            return self._decode(data)
        except UNREADABLE:
            return None

    def feed(self, data: bytes) -> tuple[list[Reply], str]:
        """Take data that was received.

        Returns:
            The replies that are complete now, and what is wrong with the line behind them (nothing
            can follow it): an empty string if nothing is.
        """
        replies, wrong = _read(self._buffer.feed(data), self._decode)
        if self._buffer.overflow and not wrong:
            wrong = "a reply line is too long"
        return replies, wrong


def read_reply(line: bytes, decode: Decode = decode_reply) -> Reply:
    """Return one line as a reply; raise one of ``UNREADABLE`` if it is none."""
    if not is_utf8(line) or not depth_within(line, MAX_REPLY_DEPTH):
        raise msgspec.DecodeError("it is not UTF-8, or nests too deep")
    return decode(line)


def result_of(reply: Reply, wanted: Any) -> Any:
    """Return the result as the type that was asked for, decoded straight from the line.

    Raises:
        ProtocolError: it does not fit.
    """
    result = reply.result
    if type(result) is not msgspec.Raw:  # only where any type will do
        return result
    try:
        return decoder_of(wanted)(result)
    except UNREADABLE as exc:
        raise ProtocolError(f"the result does not fit: {exc}", executed="maybe") from exc


def decoder_of(wanted: Any) -> Callable[[msgspec.Raw], Any]:
    """Return what decodes JSON into a type; raise TypeError if it is none that msgspec supports."""
    try:
        return _cached_decoder(wanted)
    except TypeError:  # the type can't be hashed: Annotated[..., a list]
        return msgspec.json.Decoder(wanted).decode


@lru_cache(maxsize=256)
def _cached_decoder(wanted: Any) -> Callable[[msgspec.Raw], Any]:
    return msgspec.json.Decoder(wanted).decode


def error_of(
    reply: Reply,
    classes: Mapping[int, type[CommandError]] = _NO_CLASSES,
    deadline: float | None = None,
) -> RemoteError:
    """Return the exception for a reply whose code is not 0.

    Args:
        classes: the errors of the application that have a class of their own, by code.
        deadline: of the call.
    """
    if reply.code in classes:
        return received(classes[reply.code], reply.code, reply.message, reply.data)
    if reply.code == DEADLINE_EXCEEDED:
        error = RemoteTimeout(reply.code, reply.message, reply.data)
        error._deadline = deadline
        return error
    return RemoteError(reply.code, reply.message, reply.data)


def _read(data: bytes, decode: Decode) -> tuple[list[Reply], str]:
    lines = data.split(b"\n")
    lines.pop()
    if is_plain(data, lines, MAX_REPLY_DEPTH):
        try:
            return list(map(decode, lines)), ""
        except UNREADABLE:
            pass  # one of the lines is wrong
    return _read_one_by_one(lines, decode)


def _read_one_by_one(lines: list[bytes], decode: Decode) -> tuple[list[Reply], str]:
    """Find the line that is wrong; the replies before it still count."""
    replies: list[Reply] = []
    for line in lines:
        try:
            replies.append(read_reply(line, decode))
        except UNREADABLE as exc:
            return replies, _not_a_reply(line, exc)
    return replies, ""


def _not_a_reply(line: bytes, exc: Exception) -> str:
    """Describe what is wrong with a line, without showing data of the application."""
    if line.startswith(b"{"):
        return f"not a reply: {exc}"
    start = ascii(line[:MAX_SHOWN_BYTES].rstrip().decode("latin-1"))
    return f"not a gtcp server: it says {start}"
