"""One registered command: its handler, and the Struct of its own that its lines become.

Everything that can be known at registration is found out here: type hints are resolved, and
what refuses some of its requests is put around the handler.
"""

from __future__ import annotations

import copy
import inspect
import logging
import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import msgspec

from gtcp.arguments import check_integer, check_switch, check_text, error_classes
from gtcp.errors import CommandError
from gtcp.protocol.messages import NOT_ALLOWED, OVERLOADED, Request, encode
from gtcp.server.commands.annotations import (
    annotations_of,
    field_of,
    refuse_async,
    refuse_custom_types,
    sends_base64,
    takes_null,
)
from gtcp.server.commands.outcome import Refusal
from gtcp.server.commands.streaming import FIELDS, extend, streamed, streaming_of
from gtcp.server.ops.failure_log import FailureLog
from gtcp.server.ops.logger import SERVER, BaseLogger

Handler = Callable[[Any], Any]
AnyLogger = logging.Logger | BaseLogger

#: Seconds after which a caller that was refused for overload may try again.
RETRY_AFTER = 1.0


class BaseHandler:
    """Base class of handlers that share a logger, database handles or helper methods.

    Subclass it, override ``process`` and register the class. One instance is created per
    registration, and serves all requests of that command, several at a time: do not keep data of a
    request in ``self``.

    Attributes:
        logger: logger for the handler's failures; None is gtcp's own.
    """

    logger: ClassVar[AnyLogger | None] = None

    def process(self, request: Any) -> Any:
        """Answer one request.

        Args:
            request: a ``gtcp.Request``; annotate it with the type of the params.

        Returns:
            Any: the result of the call, which msgspec must be able to encode as JSON. A generator
            streams: each item is sent when it is yielded.

        Raises:
            CommandError: to answer with an error of the application.
            NotImplementedError: the class does not override it.
        """
        raise NotImplementedError


class Command:
    """One registered command.

    Attributes:
        cmdid: its number.
        name: the function's or class's name.
        doc: its docstring, cleaned.
        call: takes the request, returns the result, or the iterator of a command that streams.
        params_type: what ``params`` are decoded into.
        result_type: what the return annotation says; Any without one.
        params_schema, result_schema: JSON Schemas of these.
        streaming: whether its result is a stream of items of ``result_type``.
        run_to_end: not stopped when its caller has gone.
        logger: where its failures are logged.
        failures: logs them.
        allow: who may call it, as patterns of identities; None is everybody.
        max_in_flight: how many may run at once in this process; None for no limit of its own.
        in_flight: how many do, if there is a limit.
        errors: the classes of the errors that it declares, each with a code of its own.
        idempotent: whether running it twice does no harm, so that clients may retry it.
        deprecated: what to use instead, or why not to use it; None if it is not deprecated.
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
        "deprecated",
        "doc",
        "errors",
        "failures",
        "idempotent",
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
        "streaming",
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
        errors: Iterable[type[CommandError]] = (),
        idempotent: bool = False,
        deprecated: str | None = None,
    ) -> None:
        self.cmdid = cmdid
        self.errors = error_classes("errors", errors)
        self.idempotent = idempotent
        self.deprecated = _checked_text("deprecated", deprecated)
        self.allow = _patterns(allow)
        self.max_in_flight = _limit(max_in_flight)
        self.in_flight = 0
        self.name: str = getattr(target, "__name__", type(target).__name__)
        self.doc = inspect.getdoc(target) or ""
        self.call: Handler = _instance_method(target) if isinstance(target, type) else target
        function = refuse_async(self.call, self.name, "a handler is a plain function")
        _check_switches(run_to_end=run_to_end, idempotent=idempotent)
        self.run_to_end = run_to_end
        own = getattr(target, "logger", None)
        self.logger: AnyLogger = logger or own or logging.getLogger(SERVER)
        self.failures = FailureLog(self)
        annotation, returned = annotations_of(self.call, self.name)
        self.streaming, self.result_type = streaming_of(function, self.name, returned, run_to_end)
        self.request_type = _request_type(self, annotation, _guarded(self, self._run(self.call)))
        self.params_type = field_of(self.request_type, "params").type
        refuse_custom_types(self.params_type, f"the params of {self.name}")
        refuse_custom_types(self.result_type, f"the result of {self.name}")
        self.decode = msgspec.json.Decoder(self.request_type).decode
        self.takes_null = takes_null(self.params_type)
        self.needs_params = field_of(self.request_type, "params").required
        self.notices: list[tuple[int, str]] = []
        self.params_schema = self._schema("params", self.params_type)
        self.result_schema = self._schema("result", self.result_type)
        if sends_base64(self.result_type):
            self._notice(
                logging.INFO,
                "the bytes in its result are sent as base64 text: "
                "a caller gets bytes with call(..., result=TYPE), else the text",
            )

    def wrapped(
        self, around: Callable[[Handler], Handler], inside: Callable[[Handler], Handler]
    ) -> Command:
        """Return the same command, for one server, with other functions around its handler.

        Args:
            around: around the whole request; of a stream, until its end.
            inside: around the handler; of a stream, it gets and returns the iterator.

        What refuses requests stands before it. Other servers may serve the original.
        """
        wrapped = copy.copy(self)
        run = _guarded(self, around(self._run(inside(self.call))))
        wrapped.request_type = _request_type(self, self.request_type, run)
        wrapped.decode = msgspec.json.Decoder(wrapped.request_type).decode
        return wrapped

    def describe(self) -> dict[str, Any]:
        """Return the command's row in the answer to ``{"op": "commands"}``."""
        return {
            **self.describe_briefly(),
            "doc": self.doc,
            "params": self.params_schema,
            "result": self.result_schema,
            "errors": [{"code": each.own_code, "name": each.__name__} for each in self.errors],
        }

    def describe_briefly(self) -> dict[str, Any]:
        """Return the row for clients that call commands by name."""
        return {
            "cmdid": self.cmdid,
            "name": self.name,
            "streaming": self.streaming,
            "idempotent": self.idempotent,
            "deprecated": self.deprecated,
        }

    def _run(self, call: Handler) -> Handler:
        """Return the handler as what answers a request: of a command that streams, all of it."""
        return streamed(call) if self.streaming else call

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


def _check_switches(**switches: bool) -> None:
    for name, value in switches.items():
        check_switch(name, value)


def _checked_text(name: str, text: str | None) -> str | None:
    if text is not None:
        check_text(name, text)
    return text


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
            raise Refusal(OVERLOADED, message, {"retry_after": RETRY_AFTER})
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
            raise Refusal(NOT_ALLOWED, "not allowed to call this command")
        return handler(request)

    return run


def _instance_method(cls: type) -> Handler:
    if not issubclass(cls, BaseHandler):
        raise TypeError(f"{cls.__name__} is not a gtcp.BaseHandler: derive it from there")
    if cls.process is BaseHandler.process:
        raise NotImplementedError(f"{cls.__name__} does not override process(self, request)")
    return cls().process


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
    elif isinstance(field_of(base, "params").type, TypeVar):
        fields["params"] = dict[str, Any]
        defaults["params"] = {}
    if command.streaming:
        fields.update(FIELDS)

    def body(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = base.__module__
        namespace["__qualname__"] = base.__qualname__
        namespace["__annotations__"] = fields
        namespace.update(defaults, cmdid=command.cmdid, _command=command, _run=run)
        if command.streaming:
            extend(namespace)

    options = {"tag_field": "cmdid", "tag": command.cmdid, "kw_only": True}
    return types.new_class(base.__name__, (base,), options, body)


def _as_function(handler: Handler) -> Handler:
    """Return a function that a class can use as a method; a plain function is the cheapest."""
    if isinstance(handler, types.FunctionType):
        return handler
    return lambda request: handler(request)
