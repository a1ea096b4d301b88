"""From cmdid to handler: what is registered, and how a line becomes a request for it.

Everything that can be known at registration is found out there: type hints are resolved,
a Struct of its own is made for every command (its cmdid is the tag), and one decoder over
the union of them all reads a line straight into the right typed request.
"""

from __future__ import annotations

import inspect
import logging
import re
import secrets
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from time import monotonic
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import msgspec

from gtcp.errors import CommandError
from gtcp.identity import Peer
from gtcp.protocol import (
    BAD_REQUEST,
    FAILED,
    NOT_ALLOWED,
    NOT_FOUND,
    OVERLOADED,
    OWN_CMDID,
    UNREADABLE,
    WRONG_PARAMS,
    Batch,
    Envelope,
    Failure,
    Head,
    Request,
    Success,
    as_line,
    decode_envelope,
    depth_within,
    encode,
    encode_reply,
    is_plain,
    is_utf8,
)
from gtcp.server.logger import SERVER, BaseLogger

Handler = Callable[[Any], Any]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
AnyLogger = logging.Logger | BaseLogger

#: Seconds after which a caller that was refused for overload may try again.
RETRY_AFTER = 1.0

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_decode_head = msgspec.json.Decoder(Head).decode

_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class BaseHandler:
    """A handler that shares loggers, database handles or helpers with its like.

    Sub-class it, override ``process`` and register the class: one instance is made per
    registration, and serves every request of that command, several at the same time.

    Attributes:
        logger: where the handler logs, and where gtcp logs its failures; None is gtcp's own.
    """

    logger: ClassVar[AnyLogger | None] = None

    def process(self, request: Any) -> Any:
        """Answer one request; what is returned is the reply's result."""
        raise NotImplementedError


class Command:
    """One registered command.

    Attributes:
        cmdid: its number.
        name: the function's or class's name.
        doc: its docstring, cleaned.
        call: takes the request, returns the result.
        params_type: what ``params`` are decoded into.
        result_type: what the return annotation says; Any without one.
        run_to_end: not stopped when its caller has gone.
        logger: where its failures are logged.
        allow: who may call it, as patterns of identities; None is everybody.
        max_in_flight: how many may run at once in this process; None for no limit of its own.
        in_flight: how many do, if there is a limit.
        request_type: the Struct that its lines are decoded into.
    """

    __slots__ = (
        "allow",
        "call",
        "cmdid",
        "decode",
        "doc",
        "in_flight",
        "logger",
        "max_in_flight",
        "name",
        "params_type",
        "request_type",
        "result_type",
        "run_to_end",
    )

    def __init__(
        self,
        cmdid: int,
        target: Callable[..., Any],
        *,
        run_to_end: bool = False,
        logger: AnyLogger | None = None,
        allow: Iterable[str] | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        self.cmdid = cmdid
        self.allow = _patterns(allow)
        self.max_in_flight = _limit(max_in_flight)
        self.in_flight = 0
        self.name: str = getattr(target, "__name__", type(target).__name__)
        self.doc = inspect.getdoc(target) or ""
        self.call: Handler = _instance_method(target) if isinstance(target, type) else target
        self.run_to_end = run_to_end
        own = getattr(target, "logger", None)
        self.logger: AnyLogger = logger or own or logging.getLogger(SERVER)
        annotation, self.result_type = _annotations(self.call, self.name)
        self.request_type = _request_type(self, annotation)
        self.params_type = _field_type(self.request_type, "params")
        _refuse_custom_types(self.params_type, f"the params of {self.name}")
        _refuse_custom_types(self.result_type, f"the result of {self.name}")
        self.decode = msgspec.json.Decoder(self.request_type).decode

    def describe(self) -> dict[str, Any]:
        """Its row in the answer to ``{"op": "commands"}``."""
        return {
            "cmdid": self.cmdid,
            "name": self.name,
            "doc": self.doc,
            "params": msgspec.json.schema(self.params_type),
            "result": msgspec.json.schema(self.result_type),
        }


def _patterns(allow: Iterable[str] | None) -> tuple[str, ...] | None:
    if allow is None:
        return None
    patterns = () if isinstance(allow, str) else tuple(allow)
    if not patterns or not all(isinstance(each, str) and each for each in patterns):
        raise TypeError(f"allow: expected a list of identities or patterns, got {allow!r}")
    return patterns


def _limit(max_in_flight: int | None) -> int | None:
    if max_in_flight is None:
        return None
    if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int) or max_in_flight < 1:
        raise ValueError(f"max_in_flight: expected 1 or more, or None, got {max_in_flight!r}")
    return max_in_flight


def _guarded(command: Command) -> Handler:
    """The handler as a method of its requests, behind what refuses some of them."""
    run = _as_function(command.call)
    if command.max_in_flight is not None:
        run = _limited(command, command.max_in_flight, run)
    return run if command.allow is None else _restricted(command, run)


def _limited(command: Command, limit: int, handler: Handler) -> Handler:
    """The handler, which refuses what would be one too many."""

    def run(request: Request[Any]) -> Any:
        if command.in_flight >= limit:
            message = "too many calls of this command in flight"
            raise _Refused(OVERLOADED, message, {"retry_after": RETRY_AFTER})
        command.in_flight += 1
        try:
            return handler(request)
        finally:
            command.in_flight -= 1

    return run


def _restricted(command: Command, handler: Handler) -> Handler:
    """The handler, which refuses peers that may not call it."""

    def run(request: Request[Any]) -> Any:
        if not request._batch.peer.admits(command):
            raise _Refused(NOT_ALLOWED, "not allowed to call this command")
        return handler(request)

    return run


def _instance_method(cls: type) -> Handler:
    if not issubclass(cls, BaseHandler):
        raise TypeError(f"{cls.__name__} is not a gtcp.BaseHandler: derive it from there")
    if cls.process is BaseHandler.process:
        raise NotImplementedError(f"{cls.__name__} does not override process(self, request)")
    return cls().process


def _annotations(function: Callable[..., Any], name: str) -> tuple[Any, Any]:
    """What a handler says its argument and its result are; Request and Any if it does not."""
    parameters = list(inspect.signature(function).parameters.values())
    needed = [each for each in parameters if each.default is each.empty]
    if not parameters or len(needed) > 1:
        raise TypeError(f"{name} must take one argument, the request")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise TypeError(f"an annotation of {name} can't be resolved: {exc}") from exc
    result = hints.get("return", Any)
    if result is object:
        result = Any
    return hints.get(parameters[0].name, Request), result


def _request_type(command: Command, annotation: Any) -> type[Request[Any]]:
    """A Struct for this command alone, tagged with its cmdid."""
    base = get_origin(annotation) or annotation
    if base is Any:
        base = Request
    if not (isinstance(base, type) and issubclass(base, Request)):
        raise TypeError(
            f"the argument of {command.name} is annotated {annotation!r}: "
            f"expected gtcp.Request, gtcp.Request[T] or a subclass"
        )
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    if get_args(annotation):
        fields["params"] = get_args(annotation)[0]
    elif isinstance(_field_type(base, "params"), TypeVar):
        fields["params"] = dict[str, Any]
        defaults["params"] = {}

    def body(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = base.__module__
        namespace["__qualname__"] = base.__qualname__
        namespace["__annotations__"] = fields
        run = _guarded(command)
        namespace.update(defaults, cmdid=command.cmdid, _command=command, _run=run)

    options = {"tag_field": "cmdid", "tag": command.cmdid, "kw_only": True}
    return types.new_class(base.__name__, (base,), options, body)


def _as_function(handler: Handler) -> Handler:
    """As what a class can take for a method: a plain function already is, and costs least."""
    if isinstance(handler, types.FunctionType):
        return handler
    return lambda request: handler(request)


def _field_type(struct: type[msgspec.Struct], name: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(struct) if field.name == name)


def _refuse_custom_types(annotation: Any, what: str) -> None:
    """Raise TypeError for a type that msgspec can neither decode nor encode by itself."""
    custom = _custom_type(msgspec.inspect.type_info(annotation), set())
    if custom is not None:
        raise TypeError(f"{what}: {custom!r} has no JSON form (use a msgspec.Struct or dataclass)")


def _custom_type(info: Any, seen: set[int]) -> Any:
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    if id(info) in seen:
        return None
    seen.add(id(info))
    for part in _parts(info):
        found = _custom_type(part, seen)
        if found is not None:
            return found
    return None


def _parts(info: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    for name in getattr(info, "__struct_fields__", ()):
        value = getattr(info, name)
        values = value if isinstance(value, tuple) else (value,)
        for each in values:
            if isinstance(each, msgspec.inspect.Field):
                yield each.type
            elif isinstance(each, msgspec.inspect.Type):
                yield each


class Commands:
    """A table of commands, to register handlers on in any module.

    It may be filled from several modules; once a server serves it, it is fixed.
    """

    def __init__(self) -> None:
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
            allow: who may call it: identities of peers (see ``Request.peer``), ``*`` stands
                for one label; None is everybody. Others get 403.

        Raises:
            ValueError: the cmdid is reserved, or registered already; a limit below 1.
            TypeError: the annotations are not what a handler may have.
            NotImplementedError: a class that does not override ``process``.
            RuntimeError: the table is being served.
        """
        if isinstance(cmdid, bool) or not isinstance(cmdid, int):
            raise TypeError(f"a cmdid is an int, got {cmdid!r}")
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
        """Take in every command of another table.

        Raises:
            ValueError: a cmdid is registered in both.
            RuntimeError: this table is being served.
        """
        for command in commands:
            self._add(command)

    def table(self, max_depth: int, max_line_bytes: int | None = None) -> Table:
        """Fix the commands and make what a server looks them up in."""
        self._fixed = True
        return Table(list(self), max_depth=max_depth, max_line_bytes=max_line_bytes)

    def answer(self, line: bytes) -> bytes:
        """Run one request line through its handler, as a server would, without a network.

        There is no peer either: ``allow`` is not looked at, any command may be called.

        Returns:
            The reply line with its newline; empty for a oneway request.
        """
        table = Table(list(self))
        batch = Batch(_NOWHERE, line.rstrip(b"\r\n") + b"\n", monotonic())
        item = table.read(batch.data)[0][0]
        if isinstance(item, Rejection):
            reply: Success | Failure = item.reply
            wanted = item.reply_wanted
        else:
            item._batch = batch
            reply = run(item)
            wanted = not item.oneway
        request = item if isinstance(item, Request) else None
        return encode_safely(reply, request, None) if wanted else b""

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


_NOWHERE = _Nowhere()


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
        except Exception:
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
        except Exception:
            return None
        return request if request.timeout != 0 else None

    def read_head(self, line: bytes) -> Head | None:
        """What is needed to refuse a request, its params not decoded; None if it is none."""
        try:
            head = _decode_head(line) if is_utf8(line) else None
        except UNREADABLE:
            return None
        return head if head is not None and head.cmdid in self.commands else None

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
        except Exception as exc:  # of code of the application: a Struct's __post_init__
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
        raise _Refused(WRONG_PARAMS, "unknown op: expected ping, commands or cancel")


class _Refused(Exception):
    """An answer with a code of gtcp's own: (code, message, data)."""


def run(request: Request[Any]) -> Success | Failure:
    """Run a request's handler; whatever it raises becomes a reply."""
    try:
        return Success(request._run(), request.id)
    except BaseException as exc:  # a handler may raise anything: SystemExit, a Timeout, ...
        return failure(request, exc)


def failure(request: Request[Any], exc: BaseException) -> Failure:
    """The reply for what a handler raised; what it did not mean to raise is logged."""
    if isinstance(exc, CommandError):
        return Failure(exc.code, str(exc.message), request.id, exc.data)
    if isinstance(exc, _Refused):
        code, message, *data = exc.args
        return Failure(code, message, request.id, *data)
    return _failed(request, "raised", exc)


def _directly(function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    function(*args, **kwargs)


def encode_safely(
    reply: Success | Failure,
    request: Request[Any] | None,
    max_bytes: int | None,
    log_by: Callable[..., object] = _directly,
) -> bytes:
    """The reply's line; if it can't be one, the line of a 500 that stands in for it.

    Args:
        log_by: called with the log call and its arguments; in the hub nothing may wait, not
            even a log handler.
    """
    try:
        return encode_reply(reply, max_bytes)
    except Exception as exc:
        if request is None:
            raise  # gtcp's own refusals are always writable
        return _unsendable(request, exc, log_by)


def checked(
    line: bytes, request: Request[Any], max_bytes: int | None, log_by: Callable[..., object]
) -> bytes:
    """An encoded reply with its newline, or the line of a 500; for the rest as above."""
    try:
        return as_line(line, max_bytes)
    except ValueError as exc:
        return _unsendable(request, exc, log_by)


def _unsendable(request: Request[Any], exc: Exception, log_by: Callable[..., object]) -> bytes:
    return encode_reply(_failed(request, "returned what can't be sent", exc, log_by), None)


def _failed(
    request: Request[Any],
    what: str,
    exc: BaseException,
    log_by: Callable[..., object] = _directly,
) -> Failure:
    """Log a handler's failure under an id that its caller is told too."""
    error_id = secrets.token_hex(6)
    command = request._command
    log_by(
        command.logger.error,
        "cmdid %d (%s) %s for %s: %s, error id %s",
        command.cmdid,
        command.name,
        what,
        request.address or "nobody",
        type(exc).__name__,
        error_id,
        exc_info=exc,
    )
    return Failure(
        FAILED, f"the handler failed, error id {error_id}", request.id, {"error_id": error_id}
    )


_VALUE = re.compile(r"(nvalid (?:enum )?value) .*?(?= - at |$)", re.DOTALL)


def without_values(exc: BaseException) -> str:
    """What msgspec found wrong and where, without the value it found there."""
    return _VALUE.sub(r"\1", str(exc))


def _number(cmdid: int | str) -> int | None:
    """A cmdid as a number; the ancestor took digits in a string too."""
    if isinstance(cmdid, int):
        return cmdid
    return int(cmdid) if _DIGITS.fullmatch(cmdid) else None
