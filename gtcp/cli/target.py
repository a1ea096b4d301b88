"""The TARGET of ``gtcp serve``: import an application and find its server.

An error while the application is imported becomes one line with the file, the line number and the
message.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from types import ModuleType
from typing import Any, NamedTuple

import gtcp
from gtcp.server.commands.handler import Commands
from gtcp.server.server import Server

#: The attribute, where TARGET names none.
DEFAULT_ATTRIBUTE = "server"

EXPECTED = "expected module:attribute or path/to/file.py:attribute"


class TargetError(Exception):
    """The application can't be imported, or its factory failed; the message is one line."""


class WrongTarget(TargetError):
    """TARGET itself is wrong: there is no such module, file or attribute, or it is not a server."""


class Target(NamedTuple):
    """Where a server is: in a module or a file, and under which name.

    Attributes:
        place: the name of a module, or the path of a file.
        attribute: the name of a server, of a table of commands or of a factory.
        directory: where to look for the place; empty for the current directory.
        factory: whether the attribute is a function that returns the server.
    """

    place: str
    attribute: str
    directory: str = ""
    factory: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the place is a path."""
        return self.place.endswith(".py") or os.sep in self.place

    def __str__(self) -> str:
        return f"{self.place}:{self.attribute}{'()' if self.factory else ''}"


def parse(text: str, *, directory: str = "", factory: bool = False) -> Target:
    """Read ``module``, ``module:attribute``, ``file.py`` or ``file.py:attribute``.

    Args:
        directory: where to look for it; empty for the current directory.
        factory: whether the attribute is a function that returns the server. It also is where
            the attribute ends with "()".

    Raises:
        ValueError: with one line that says what was expected.
    """
    place, colon, attribute = text.rpartition(":")
    if not colon:
        place, attribute = text, DEFAULT_ATTRIBUTE
    called = attribute.removesuffix("()")
    target = Target(place, called, directory, factory or called != attribute)
    named = all(part.isidentifier() for part in place.split("."))
    if not called.isidentifier() or not (named or target.is_file):
        raise ValueError(f"{text!r}: {EXPECTED}")
    return target


def load(target: Target) -> Server:
    """Import the application and return its server; a table of commands gets a server.

    The directory of the module or file becomes the first item of ``sys.path``.

    Raises:
        WrongTarget: there is no such module, file or attribute, or it is not a server.
        TargetError: the application raised an exception, which is the cause.
    """
    try:
        module = _import_file(target) if target.is_file else _import_module(target)
    except (Exception, SystemExit) as exc:
        raise _as_target_error(target, exc) from exc
    try:
        found = getattr(module, target.attribute)
    except AttributeError:
        raise WrongTarget(
            f"{target.place} has no {target.attribute!r}{_suggestion(module)}"
        ) from None
    return _server(target, _call(target, found) if target.factory else found)


def _import_module(target: Target) -> ModuleType:
    _put_first(os.path.abspath(target.directory))
    return importlib.import_module(target.place)


def _import_file(target: Target) -> ModuleType:
    """Import a file as the module of its name, as from its own directory."""
    path = os.path.join(target.directory, target.place)
    full = os.path.realpath(path)
    name = os.path.basename(full).removesuffix(".py")
    if os.path.isdir(full):
        raise WrongTarget(f"{path} is a directory: give the file in it, or a module's name")
    if not os.path.isfile(full):
        raise WrongTarget(f"no such file: {path}")
    if name in sys.modules:
        raise WrongTarget(
            f"{path}: a module {name!r} is loaded already: give the file another name"
        )
    _put_first(os.path.dirname(full))
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise WrongTarget(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _call(target: Target, factory: Any) -> object:
    """Return the result of the factory."""
    if not callable(factory):
        name = f"{target.place}:{target.attribute}"
        raise WrongTarget(f"{name} is {_kind(factory)}: --factory expects a function")
    try:
        return factory()
    except (Exception, SystemExit) as exc:
        raise _as_target_error(target, exc) from exc


def _put_first(directory: str) -> None:
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def _server(target: Target, found: object) -> Server:
    if isinstance(found, Server):
        return found
    if isinstance(found, Commands):
        server = Server()
        server.include(found)
        return server
    verb = "returned" if target.factory else "is"
    hint = "; --factory calls it" if callable(found) and not target.factory else ""
    raise WrongTarget(
        f"{target} {verb} {_kind(found)}: expected a gtcp.Server or gtcp.Commands{hint}"
    )


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _suggestion(module: ModuleType) -> str:
    """Return the names of the module's servers and tables, for an error."""
    names = [name for name, value in vars(module).items() if isinstance(value, Server | Commands)]
    return f"; it has {', '.join(names)}" if names else ", nor any gtcp.Server or gtcp.Commands"


# Errors of the application


def _as_target_error(target: Target, exc: BaseException) -> TargetError:
    """Return the error for an exception that importing or calling the application raised."""
    if isinstance(exc, TargetError):
        return exc
    where = _place(exc)
    if where is None:  # no line of the application has run
        directory = os.path.abspath(target.directory)
        if target.factory and not isinstance(exc, ImportError):
            return WrongTarget(f"can't call {target}: {exc}")
        return WrongTarget(f"can't import {target.place!r} from {directory}: {exc}")
    message = exc.msg if isinstance(exc, SyntaxError) else str(exc)
    file, line = where
    at = f"{_shown(file)}, line {line}" if line else _shown(file)
    return TargetError(f"{at}: {type(exc).__name__}" + (f": {message}" if message else ""))


def _place(exc: BaseException) -> tuple[str, int | None] | None:
    """Return the file and line of the error: the last one that is not gtcp's or a library's."""
    if isinstance(exc, SyntaxError) and exc.filename and os.path.exists(exc.filename):
        return exc.filename, exc.lineno
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith(("<frozen importlib", _GTCP, _IMPORTLIB))
    ]
    own = [place for place in frames if not place[0].startswith(_LIBRARIES)]
    places = own or frames
    return places[-1] if places else None


def _shown(file: str) -> str:
    """Return a path relative to the current directory, if it is below it."""
    relative = os.path.relpath(file)
    return file if relative.startswith(os.pardir) else relative


def _directory(file: Any) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(file)), "")


_GTCP = _directory(gtcp.__file__)
_IMPORTLIB = _directory(importlib.__file__)
_LIBRARIES = tuple(
    os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "purelib", "platlib")
)
