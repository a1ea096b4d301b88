"""From a line to a request: the commands a server serves, and what is wrong with other lines.

One decoder over the union of all commands' Structs, each tagged with its cmdid, reads a line
straight into the right typed request. Where it fails, a slower way finds out what to answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Union

import msgspec

from gtcp.protocol import (
    BAD_REQUEST,
    NOT_FOUND,
    OWN_CMDID,
    UNREADABLE,
    WRONG_PARAMS,
    Envelope,
    Failure,
    Head,
    Request,
    decode_envelope,
    depth_within,
    encode,
    is_plain,
    is_utf8,
)
from gtcp.server.command import Command
from gtcp.server.outcome import Refused

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_decode_head = msgspec.json.Decoder(Head).decode

_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class Rejection:
    """A line that no handler gets to see.

    Attributes:
        reply: what to answer.
        id: as the request had it; without one the answer keeps its turn.
        reply_wanted: False for a oneway request.
        fatal: whether the stream can't be trusted after it.
        cmdid: what was asked for, None where that can't be known.
        size: bytes of the line, with its newline.
    """

    __slots__ = ("cmdid", "fatal", "id", "reply", "reply_wanted", "size")

    def __init__(
        self,
        code: int,
        message: str,
        envelope: Envelope | Request[Any] | None = None,
        data: Any = None,
        size: int = 0,
    ) -> None:
        self.cmdid = None if envelope is None else _number(envelope.cmdid)
        self.size = size
        self.id = None if envelope is None else envelope.id
        self.reply = Failure(code, message, self.id, data)
        self.reply_wanted = envelope is None or not envelope.oneway
        self.fatal = envelope is None


Item = Request[Any] | Rejection


def overtakes(item: Item) -> bool:
    """Whether it does not wait for its turn though it has no id.

    What can't be read ends the reading at once, and a call must not have to end before its
    cancellation is heard.
    """
    return item.fatal if isinstance(item, Rejection) else is_cancel(item) and item.oneway


def size_of(item: Item) -> int:
    """Bytes of the line of an item that has a batch of its own, with its newline."""
    return item.size if isinstance(item, Rejection) else len(item._batch.data)


def is_cancel(request: Request[Any]) -> bool:
    """Whether it is gtcp's own request to stop a call in flight."""
    return request.cmdid == OWN_CMDID and request.params.op == "cancel"


class OwnParams(msgspec.Struct):
    """The params of cmdid 0."""

    op: str = "ping"
    id: int | str | None = None


class Table:
    """The commands a server serves: reads lines into requests for them. Never changes."""

    def __init__(
        self, commands: Sequence[Command], *, max_depth: int = 64, max_line_bytes: int | None = None
    ) -> None:
        own = Command(OWN_CMDID, self._own)
        own.name = "gtcp"
        self.max_depth = max_depth
        # A text that nests n deep has at least 2n characters.
        self._short = min(2 * max_depth, inf if max_line_bytes is None else max_line_bytes)
        self._longest = inf if max_line_bytes is None else max_line_bytes + 1  # with its newline
        self.commands = {command.cmdid: command for command in [own, *commands]}
        types_ = tuple(each.request_type for each in self.commands.values())
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[types_])  # noqa: UP007
        self._decode = decoder.decode

    def read(self, data: bytes) -> tuple[Sequence[Item], bool]:
        """What the lines ask for, in their order.

        Without a closer look when every line is a request that can run. After a fatal
        rejection nothing more is read.

        Returns:
            The items, and whether all of them are requests.
        """
        alone = self.read_one(data)  # without a copy, if it is a long one
        if alone is not None:
            return [alone], True
        items = self.read_plain(data)
        if items is not None:
            return items, True
        lines = data.split(b"\n")
        lines.pop()
        return list(self._one_by_one(lines)), False

    def read_plain(self, data: bytes) -> list[Request[Any]] | None:
        """The requests of lines that all are plainly one; None when some line is not."""
        lines = data.split(b"\n")
        del lines[-1]
        # Most often no line is long enough to nest too deep.
        short = data.isascii() and (not lines or len(max(lines, key=len)) <= self._short)
        if not short and not is_plain(data, lines, self.max_depth):
            return None
        try:
            return list(map(self._decode, lines))
        except BaseException:  # a Struct's __post_init__ may raise anything
            return None  # some line is not right: the slow way says which, and why

    def read_one(self, data: bytes) -> Request[Any] | None:
        """The request of a line that came alone; None when it is not plainly one.

        The short way for the usual case; ``read`` finds out what is the matter with others.
        """
        size = len(data)
        if data.find(b"\n") != size - 1:
            return None
        if (size > self._short or not data.isascii()) and (
            size > self._longest or not is_plain(data, (data,), self.max_depth)
        ):
            return None
        try:
            request: Request[Any] = self._decode(data)
        except BaseException:  # as above
            return None
        return request if request.timeout != 0 else None

    def read_head(self, line: bytes) -> Head | None:
        """What is needed to refuse a request, its params not decoded; None if it is none.

        Its cmdid may be unknown.
        """
        if not (is_utf8(line) and depth_within(line, self.max_depth)):
            return None
        try:
            return _decode_head(line)
        except UNREADABLE:
            return None

    def _one_by_one(self, lines: Sequence[bytes]) -> Iterator[Item]:
        for line in lines:
            item = self._read_line(line.removesuffix(b"\r"))
            yield item
            if isinstance(item, Rejection) and item.fatal:
                return

    def _read_line(self, line: bytes) -> Item:
        if not is_utf8(line):
            return Rejection(BAD_REQUEST, "the request is not UTF-8")
        if not depth_within(line, self.max_depth):
            return Rejection(BAD_REQUEST, f"the request nests deeper than {self.max_depth}")
        try:
            envelope = decode_envelope(line)
        except UNREADABLE as exc:
            return Rejection(BAD_REQUEST, f"not a request: {without_values(exc)}")
        cmdid = _number(envelope.cmdid)
        if cmdid is None:
            return Rejection(BAD_REQUEST, "not a request: cmdid is not a number")
        command = self.commands.get(cmdid)
        if command is None:
            message = f"unknown cmdid {str(cmdid)[:20]}"
            return Rejection(NOT_FOUND, message, envelope, size=len(line) + 1)
        return self._request(command, envelope, line)

    def _request(self, command: Command, envelope: Envelope, line: bytes) -> Item:
        fields = _decode_fields(line)
        fields["cmdid"] = msgspec.Raw(b"%d" % command.cmdid)
        fields["params"] = envelope.params
        try:
            request: Request[Any] = command.decode(encode(fields))
        except UNREADABLE as exc:
            why = without_values(exc)
        except BaseException as exc:  # of code of the application: a Struct's __post_init__
            why = type(exc).__name__
        else:
            return request
        return Rejection(WRONG_PARAMS, f"wrong params: {why}", envelope, size=len(line) + 1)

    def _own(self, request: Request[OwnParams]) -> Any:
        """gtcp's own commands: ping (the default), commands, cancel."""
        op = request.params.op
        if op == "ping":
            return "pong"
        if op == "commands":
            return [each.describe() for each in self.commands.values() if each.cmdid != OWN_CMDID]
        if op == "cancel":
            return request._batch.peer.cancel(request.params.id)
        raise Refused(WRONG_PARAMS, "unknown op: expected ping, commands or cancel")


_VALUE = re.compile(r"(nvalid (?:enum )?value) .*?(?= - at |$)", re.DOTALL)


def without_values(exc: BaseException) -> str:
    """What msgspec found wrong and where, without the value it found there."""
    return _VALUE.sub(r"\1", str(exc))


def _number(cmdid: int | str) -> int | None:
    """A cmdid as a number; the ancestor took digits in a string too."""
    if isinstance(cmdid, int):
        return cmdid
    return int(cmdid) if _DIGITS.fullmatch(cmdid) else None
