"""One registered command: its handler, and the Struct of its own that its lines become.

Everything that can be known at registration is found out here: type hints are resolved, and
what refuses some of its requests is put around the handler.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import msgspec

from gtcp.arguments import check_integer, check_switch
from gtcp.protocol.messages import NOT_ALLOWED, OVERLOADED, Request, encode
from gtcp.server.commands.outcome import Refused
from gtcp.server.ops.failure_log import FailureLog
from gtcp.server.ops.logger import SERVER, BaseLogger

Handler = Callable[[Any], Any]
AnyLogger = logging.Logger | BaseLogger

#: Seconds after which a caller that was refused for overload may try again.
RETRY_AFTER = 1.0


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
        params_schema, result_schema: JSON Schemas of these.
        run_to_end: not stopped when its caller has gone.
        logger: where its failures are logged.
        failures: logs them.
        allow: who may call it, as patterns of identities; None is everybody.
        max_in_flight: how many may run at once in this process; None for no limit of its own.
        in_flight: how many do, if there is a limit.
        notices: what its author should know, as pairs of a log level and a line.
        request_type: the Struct that its lines are decoded into.
        takes_null: whether ``params`` of null are a value of their type.
        needs_params: whether there is no default for ``params``: then it is ``{}``.
    """

    __slots__ = (
        "allow",
        "call",
        "cmdid",
        "decode",
        "doc",
        "failures",
        "in_flight",
        "logger",
        "max_in_flight",
        "name",
        "needs_params",
        "notices",
        "params_schema",
        "params_type",
        "request_type",
        "result_schema",
        "result_type",
        "run_to_end",
        "takes_null",
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
        refuse_unsupported(self.call, self.name, "a handler is a plain function")
        check_switch("run_to_end", run_to_end)
        self.run_to_end = run_to_end
        own = getattr(target, "logger", None)
        self.logger: AnyLogger = logger or own or logging.getLogger(SERVER)
        self.failures = FailureLog(self)
        annotation, self.result_type = _annotations(self.call, self.name)
        self.request_type = _request_type(self, annotation, _guarded(self, self.call))
        self.params_type = _field(self.request_type, "params").type
        _refuse_custom_types(self.params_type, f"the params of {self.name}")
        _refuse_custom_types(self.result_type, f"the result of {self.name}")
        self.decode = msgspec.json.Decoder(self.request_type).decode
        self.takes_null = _takes_null(self.params_type)
        self.needs_params = _field(self.request_type, "params").required
        self.notices: list[tuple[int, str]] = []
        self.params_schema = self._schema("params", self.params_type)
        self.result_schema = self._schema("result", self.result_type)
        if _find(msgspec.inspect.type_info(self.result_type), _BINARY) is not None:
            self._notice(
                logging.INFO,
                "the bytes in its result are sent as base64 text: "
                "a caller gets bytes with call(..., result=TYPE), else the text",
            )

    def wrapped(self, around: Callable[[Handler], Handler]) -> Command:
        """Return the same command, for one server, with ``around(handler)`` as its handler.

        What refuses requests stands before it. Other servers may serve the original.
        """
        wrapped = copy.copy(self)
        run = _guarded(self, around(self.call))
        wrapped.request_type = _request_type(self, self.request_type, run)
        wrapped.decode = msgspec.json.Decoder(wrapped.request_type).decode
        return wrapped

    def describe(self) -> dict[str, Any]:
        """Its row in the answer to ``{"op": "commands"}``."""
        return {
            "cmdid": self.cmdid,
            "name": self.name,
            "doc": self.doc,
            "params": self.params_schema,
            "result": self.result_schema,
        }

    def _schema(self, what: str, annotation: Any) -> dict[str, Any]:
        """Return the JSON Schema of a type; one that allows anything if it has none.

        A default without a JSON form has none, though requests can be decoded all the same.
        """
        try:
            schema = msgspec.json.schema(annotation)
            encode(schema)  # a default may be text with a lone surrogate
        except Exception as exc:
            self._notice(logging.WARNING, f"its {what} are listed as Any, without a schema: {exc}")
            return {"$comment": f"no JSON Schema: {exc}"}
        return schema

    def _notice(self, level: int, text: str) -> None:
        self.notices.append((level, f"cmdid {self.cmdid} ({self.name}): {text}"))


def _patterns(allow: Iterable[str] | None) -> tuple[str, ...] | None:
    if allow is None:
        return None
    patterns = tuple(allow) if isinstance(allow, Iterable) and not isinstance(allow, str) else ()
    if not patterns or not all(isinstance(each, str) and each for each in patterns):
        raise TypeError(f"allow: expected a list of identities or patterns, got {allow!r}")
    return patterns


def _limit(max_in_flight: int | None) -> int | None:
    check_integer("max_in_flight", max_in_flight, 1, optional=True)
    return max_in_flight


def _guarded(command: Command, handler: Handler) -> Handler:
    """The handler as a method of its requests, behind what refuses some of them."""
    run = _as_function(handler)
    if command.max_in_flight is not None:
        run = _limited(command, command.max_in_flight, run)
    return run if command.allow is None else _restricted(command, run)


def _limited(command: Command, limit: int, handler: Handler) -> Handler:
    """The handler, which refuses what would be one too many."""

    def run(request: Request[Any]) -> Any:
        if command.in_flight >= limit:
            message = "too many calls of this command in flight"
            raise Refused(OVERLOADED, message, {"retry_after": RETRY_AFTER})
        command.in_flight += 1
        try:
            return handler(request)
        finally:
            command.in_flight -= 1

    return run


def _restricted(command: Command, handler: Handler) -> Handler:
    """The handler, which refuses peers that may not call it."""

    def run(request: Request[Any]) -> Any:
        if not request._source.connection.admits(command):
            raise Refused(NOT_ALLOWED, "not allowed to call this command")
        return handler(request)

    return run


def _instance_method(cls: type) -> Handler:
    if not issubclass(cls, BaseHandler):
        raise TypeError(f"{cls.__name__} is not a gtcp.BaseHandler: derive it from there")
    if cls.process is BaseHandler.process:
        raise NotImplementedError(f"{cls.__name__} does not override process(self, request)")
    return cls().process


def refuse_unsupported(function: Callable[..., Any], name: str, expected: str) -> None:
    """Raise TypeError for a function whose call would return before it has run."""
    plain = inspect.isroutine(function) or isinstance(function, functools.partial)
    code = function if plain else type(function).__call__
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise TypeError(f"{name} is an async function: {expected}, which blocks as it likes")
    if inspect.isgeneratorfunction(code):
        raise TypeError(f"{name} is a generator function: {expected}, which returns its result")


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


def _request_type(command: Command, annotation: Any, run: Handler) -> type[Request[Any]]:
    """A Struct for this command alone, tagged with its cmdid; ``run`` is its method ``_run``."""
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
    elif isinstance(_field(base, "params").type, TypeVar):
        fields["params"] = dict[str, Any]
        defaults["params"] = {}

    def body(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = base.__module__
        namespace["__qualname__"] = base.__qualname__
        namespace["__annotations__"] = fields
        namespace.update(defaults, cmdid=command.cmdid, _command=command, _run=run)

    options = {"tag_field": "cmdid", "tag": command.cmdid, "kw_only": True}
    return types.new_class(base.__name__, (base,), options, body)


def _as_function(handler: Handler) -> Handler:
    """As what a class can take for a method: a plain function already is, and costs least."""
    if isinstance(handler, types.FunctionType):
        return handler
    return lambda request: handler(request)


def _takes_null(annotation: Any) -> bool:
    try:
        msgspec.json.decode(b"null", type=annotation)
    except msgspec.ValidationError:
        return False
    return True


def _field(struct: type[msgspec.Struct], name: str) -> msgspec.structs.FieldInfo:
    return next(field for field in msgspec.structs.fields(struct) if field.name == name)


def _refuse_custom_types(annotation: Any, what: str) -> None:
    """Raise TypeError for a type that msgspec can neither decode nor encode by itself."""
    custom = _find(msgspec.inspect.type_info(annotation), (msgspec.inspect.CustomType,))
    if custom is not None:
        raise TypeError(
            f"{what}: {custom.cls!r} has no JSON form (use a msgspec.Struct or dataclass)"
        )


#: Types whose values are sent as base64 text.
_BINARY = (
    msgspec.inspect.BytesType,
    msgspec.inspect.ByteArrayType,
    msgspec.inspect.MemoryViewType,
)


def _find(info: Any, kinds: tuple[type, ...], seen: set[int] | None = None) -> Any:
    """Return the first type of these kinds that a type is made of, or None."""
    seen = set() if seen is None else seen
    if isinstance(info, kinds):
        return info
    if id(info) in seen:
        return None
    seen.add(id(info))
    for part in _parts(info):
        found = _find(part, kinds, seen)
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
