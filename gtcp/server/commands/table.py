"""From lines to requests: the commands that a server serves, and rejections of other lines.

One decoder over the union of all commands' Structs, each tagged with its cmdid, decodes a line into
the typed request of its command in one pass. Where it fails, the line is decoded step by step,
which finds out what is wrong.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import repeat
from math import inf
from typing import Any, Union

import msgspec

from gtcp.contract.describe import describe
from gtcp.protocol.framing import depth_within, is_plain, is_utf8
from gtcp.protocol.messages import (
    BAD_REQUEST,
    NOT_ALLOWED,
    NOT_FOUND,
    OWN_CMDID,
    STREAMING_MISMATCH,
    UNREADABLE,
    WRONG_PARAMS,
    Envelope,
    Failure,
    Head,
    Origin,
    Request,
    Source,
    decode_envelope,
    encode,
)
from gtcp.server.commands.command import Command
from gtcp.server.commands.diagnosis import EXPECTED, why_not_a_request, without_values
from gtcp.server.commands.outcome import Refusal
from gtcp.server.commands.streaming import mismatch
from gtcp.server.ops.logger import SERVER

log = logging.getLogger(SERVER)

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_decode_head = msgspec.json.Decoder(Head).decode

#: Keys that may be null, which is the same as their absence. (``id`` and ``timeout`` always may.)
_OPTIONAL = ("oneway", "meta")

_NULL = msgspec.Raw(b"null")

_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class Rejection:
    """A line that no handler gets to see. It takes the place of a request.

    Attributes:
        reply: what to answer.
        id: as the request had it; without one the answer keeps its place in the order.
        oneway: whether no reply is wanted.
        fatal: whether the stream can't be trusted after it.
        cmdid: the command asked for, None where that can't be known.
        timeout: None, but 0 once it was cancelled.
    """

    __slots__ = ("_source", "cmdid", "fatal", "id", "oneway", "reply", "timeout")

    _command = None
    deadline = None

    def __init__(
        self,
        code: int,
        message: str,
        envelope: Envelope | None = None,
        data: Any = None,
    ) -> None:
        self.cmdid = None if envelope is None else _number(envelope.cmdid)
        self.id = None if envelope is None else envelope.id
        self.reply = Failure(code, message, self.id, data)
        self.fatal = envelope is None
        self.oneway = envelope is None or bool(envelope.oneway)
        self.timeout: int | None = None
        self._source: Any = None

    def _run(self) -> None:
        """Answer it when its place in the order is reached, as a request's handler does."""
        if self.fatal:
            self._source.connection.on_protocol_error(self.reply)
        else:
            raise Refusal(self.reply.code, self.reply.message, self.reply.data)


Item = Request[Any] | Rejection


def keeps_order(item: Item) -> bool:
    """Return whether it has to wait for requests without an id that are before it.

    A line that can't be read ends the connection at once, and a call need not end before its
    cancellation takes effect.
    """
    if item.id is not None:
        return False
    if isinstance(item, Rejection):
        return not item.fatal
    return not (item.oneway and (is_cancel(item) or is_credit(item)))


def is_cancel(item: Item) -> bool:
    """Return whether it is gtcp's own request to cancel another."""
    if item.cmdid != OWN_CMDID or isinstance(item, Rejection):
        return False
    return bool(item.params.op == "cancel")


def is_credit(item: Item) -> bool:
    """Return whether it is gtcp's own request to let a stream send more."""
    if item.cmdid != OWN_CMDID or isinstance(item, Rejection):
        return False
    return bool(item.params.op == "credit")


def runs_to_end(item: Item) -> bool:
    """Return whether it is not cancelled when its deadline passes or its caller has gone."""
    return item._command is None or bool(item._command.run_to_end)


class OwnParams(msgspec.Struct):
    """The params of cmdid 0."""

    op: str = "ping"
    id: int | str | None = None
    form: str = "schemas"
    n: Any = None  # credit that makes no sense is ignored


class Table:
    """The commands that a server serves, and the decoder of its requests. Never changes."""

    def __init__(
        self, commands: Sequence[Command], *, max_depth: int = 64, max_line_bytes: int | None = None
    ) -> None:
        own = Command(OWN_CMDID, self._own)
        own.name = "gtcp"
        self.max_depth = max_depth
        self._max_line_bytes = max_line_bytes
        # With its newline. The reader cuts off lines that are longer.
        self._longest = inf if max_line_bytes is None else max_line_bytes + 1
        # A text that nests n deep has at least 2n characters.
        self._short = min(2 * max_depth, self._longest)
        self.commands = {command.cmdid: command for command in [own, *commands]}
        self._descriptions: dict[str, msgspec.Raw] = {}
        types_ = tuple(each.request_type for each in self.commands.values())
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[types_])  # noqa: UP007
        self._decode = decoder.decode

    def read(self, data: bytes, connection: Origin, arrived: float) -> list[Item]:
        """Return the requests of complete lines, in their order, and what is wrong with others.

        After a line that can't be read as a request nothing more is read.

        Args:
            data: one or more lines, each ended by a newline.
            connection: where they were read from.
            arrived: when, monotonic seconds.
        """
        request = self.read_one(data, connection, arrived)
        if request is not None:
            return [request]
        lines = data.split(b"\n")
        del lines[-1]
        items = self._read_plain(data, lines)
        if items is None:
            items = list(self._one_by_one(lines))
        sources = map(Source, repeat(connection), lines, repeat(arrived))
        for item, source in zip(items, sources, strict=False):
            item._source = source
        return items

    def read_one(self, data: bytes, connection: Origin, arrived: float) -> Request[Any] | None:
        """Return the request of a single line; None when there are several, or when it is wrong."""
        size = len(data)
        if data.find(b"\n") != size - 1:
            return None
        if not (size <= self._short and data.isascii()) and (
            size > self._longest or not is_plain(data, (data,), self.max_depth)
        ):
            return None
        try:
            request: Request[Any] = self._decode(data)
        except BaseException:  # code of the application, in a Struct's __post_init__
            return None
        request._source = Source(connection, data, arrived)
        return request

    def describe(self, form: str = "schemas") -> msgspec.Raw:
        """Return the answer to ``{"op": "commands"}``, encoded once.

        Args:
            form: "schemas" for a list with JSON Schemas, "contract" for what ``gtcp schema``
                prints, "names" for a list of what calls by name need.

        Raises:
            Refusal: there is no such form.
        """
        if form not in self._descriptions:
            self._descriptions[form] = msgspec.Raw(encode(self._description(form)))
        return self._descriptions[form]

    def _description(self, form: str) -> Any:
        rows = [each for each in self.commands.values() if each.cmdid != OWN_CMDID]
        if form == "schemas":
            return [each.describe() for each in rows]
        if form == "contract":
            return describe(rows)
        if form == "names":
            return [each.describe_briefly() for each in rows]
        raise Refusal(WRONG_PARAMS, "unknown form: expected schemas, contract or names")

    def log_notices(self) -> None:
        """Log what the authors of the commands should know."""
        for command in self.commands.values():
            for level, line in command.notices:
                log.log(level, "%s", line)

    def _read_plain(self, data: bytes, lines: list[bytes]) -> list[Item] | None:
        """Return the requests of lines that all are plainly one; None when some line is not."""
        # Most often no line is long enough to nest too deep.
        short = data.isascii() and len(max(lines, key=len)) <= self._short
        if not short and not is_plain(data, lines, self.max_depth):
            return None
        try:
            return list(map(self._decode, lines))
        except BaseException:  # as in `read`
            return None

    def read_head(self, line: bytes) -> Head | None:
        """Return a request without its params, for a refusal; None if the line is not a request.

        Its cmdid may be unknown.
        """
        if not (is_utf8(line) and depth_within(line, self.max_depth)):
            return None
        try:
            return _decode_head(line)
        except UNREADABLE:
            pass
        try:
            envelope = decode_envelope(line)
        except UNREADABLE:
            return None
        cmdid = _number(envelope.cmdid)
        if cmdid is None:
            return None
        return Head(cmdid, envelope.id, envelope.timeout, bool(envelope.oneway))

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
            return Rejection(BAD_REQUEST, f"not a request: {why_not_a_request(line, exc)}")
        cmdid = _number(envelope.cmdid)
        if cmdid is None:
            return Rejection(BAD_REQUEST, f"not a request: cmdid: expected {EXPECTED['cmdid']}")
        command = self.commands.get(cmdid)
        if command is None:
            return Rejection(NOT_FOUND, f"unknown cmdid {str(cmdid)[:20]}", envelope)
        if envelope.stream and not command.streaming:
            return Rejection(STREAMING_MISMATCH, mismatch(streaming=False), envelope)
        return self._request(command, envelope, line)

    def _request(self, command: Command, envelope: Envelope, line: bytes) -> Item:
        fields = _decode_fields(line)
        for name in _OPTIONAL:
            if fields.get(name) == _NULL:
                del fields[name]
        if not command.streaming:
            fields.pop("stream", None)
        fields["cmdid"] = msgspec.Raw(b"%d" % command.cmdid)
        if fields.get("params") == _NULL and not command.takes_null:
            del fields["params"]
        if command.needs_params:
            fields.setdefault("params", msgspec.Raw(b"{}"))
        try:
            request: Request[Any] = command.decode(encode(fields))
        except UNREADABLE as exc:
            why = without_values(exc)
        except BaseException as exc:  # of code of the application: a Struct's __post_init__
            why = type(exc).__name__
        else:
            return request
        return Rejection(WRONG_PARAMS, f"wrong params: {why}", envelope)

    def _own(self, request: Request[OwnParams]) -> Any:
        """gtcp's own commands: ping (the default), commands, limits, health, ..."""
        op = request.params.op
        if op == "ping":
            return "pong"
        if op == "commands":
            return self.describe(request.params.form)
        if op == "limits":
            return {"max_line_bytes": self._max_line_bytes, "max_depth": self.max_depth}
        if op == "cancel":
            return request._source.connection.cancel(request.params.id)
        if op == "credit":
            return request._source.connection.credit(request.params.id, request.params.n)
        if op in ("health", "status", "stacks"):
            answer = request._source.connection.describe(op)
            if answer is None:
                raise Refusal(NOT_ALLOWED, "only operators may see that: see the setting operators")
            return answer
        known = "ping, commands, limits, health, status, stacks, cancel or credit"
        raise Refusal(WRONG_PARAMS, f"unknown op: expected {known}")


def _number(cmdid: int | float | str) -> int | None:
    """Return a cmdid as a number; digits in a string and integral floats are accepted too."""
    if isinstance(cmdid, int):
        return cmdid
    if isinstance(cmdid, float):
        return int(cmdid) if cmdid.is_integer() else None
    return int(cmdid) if _DIGITS.fullmatch(cmdid) else None
