"""Checks of an application's functions: their arguments, annotations, and types of values."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gtcp.protocol.messages import Request

#: Types whose values are sent as base64 text.
_BINARY = (
    msgspec.inspect.BytesType,
    msgspec.inspect.ByteArrayType,
    msgspec.inspect.MemoryViewType,
)


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function, or of the class of another callable object."""
    return getattr(function, "__name__", type(function).__name__)


def check_arguments(what: str, function: Callable[..., Any], expected: tuple[str, ...]) -> None:
    """Raise TypeError if the function can't be called with the arguments that it will get.

    Args:
        what: what it is registered as.
        expected: the arguments, in words.
    """
    try:
        inspect.signature(function).bind(*expected)
    except ValueError:  # it is written in C and has no signature
        return
    except TypeError as exc:
        if not callable(function):
            raise TypeError(f"{what} takes a function, got {function!r}") from None
        wanted = " and ".join(expected) or "no arguments"
        raise TypeError(f"{what} {name_of(function)} is called with {wanted}: {exc}") from None


def refuse_async(function: Callable[..., Any], name: str, expected: str) -> Callable[..., Any]:
    """Raise TypeError for an async function; return the function that a call would run."""
    plain = inspect.isroutine(function) or isinstance(function, functools.partial)
    code: Callable[..., Any] = function if plain else type(function).__call__
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise TypeError(f"{name} is an async function: {expected}, which blocks as it likes")
    return code


def refuse_unsupported(function: Callable[..., Any], name: str, expected: str) -> None:
    """Raise TypeError for a function whose call would return before it has run."""
    if inspect.isgeneratorfunction(refuse_async(function, name, expected)):
        raise TypeError(f"{name} is a generator function: {expected}, which returns its result")


def annotations_of(function: Callable[..., Any], name: str) -> tuple[Any, Any]:
    """Return the annotations of a handler's argument and result; Request and Any by default."""
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


def takes_null(annotation: Any) -> bool:
    """Whether JSON's null is a value of this type."""
    try:
        msgspec.json.decode(b"null", type=annotation)
    except msgspec.ValidationError:
        return False
    return True


def field_of(struct: type[msgspec.Struct], name: str) -> msgspec.structs.FieldInfo:
    """Return one field of a Struct."""
    return next(field for field in msgspec.structs.fields(struct) if field.name == name)


def refuse_custom_types(annotation: Any, what: str) -> None:
    """Raise TypeError for a type that msgspec can neither decode nor encode by itself."""
    custom = _find(msgspec.inspect.type_info(annotation), (msgspec.inspect.CustomType,))
    if custom is not None:
        raise TypeError(
            f"{what}: {custom.cls!r} has no JSON form (use a msgspec.Struct or dataclass)"
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


def sends_base64(annotation: Any) -> bool:
    """Whether values of this type have parts that are sent as base64 text."""
    return _find(msgspec.inspect.type_info(annotation), _BINARY) is not None
