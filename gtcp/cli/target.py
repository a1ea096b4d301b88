"""From the TARGET of ``gtcp serve`` to the server that it names.

Whatever goes wrong while the application is imported becomes one line: which file, which
line, what.
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

#: What TARGET means when it names no attribute.
DEFAULT_ATTRIBUTE = "server"


class TargetError(Exception):
    """TARGET leads to no server; the message is one line that says why."""


class Target(NamedTuple):
    """Where a server is found: in a module by its name or in a file, under which name."""

    place: str
    attribute: str

    @property
    def is_file(self) -> bool:
        """Whether the place is a path."""
        return self.place.endswith(".py") or os.sep in self.place

    def __str__(self) -> str:
        return f"{self.place}:{self.attribute}"


def parse(text: str) -> Target:
    """Read ``module``, ``module:attribute``, ``file.py`` or ``file.py:attribute``.

    Raises:
        ValueError: with one line that says what was expected.
    """
    place, colon, attribute = text.rpartition(":")
    target = Target(place, attribute) if colon else Target(text, DEFAULT_ATTRIBUTE)
    named = all(part.isidentifier() for part in target.place.split("."))
    if not target.attribute.isidentifier() or not (named or target.is_file):
        raise ValueError(f"{text!r}: expected module:attribute or path/to/file.py:attribute")
    return target


def load(target: Target) -> Server:
    """Import the application and return its server; a table of commands gets one around it.

    Its directory, for a module the current one, comes first on ``sys.path``.

    Raises:
        TargetError: it can't be imported, or what it names is no server; caused by the
            exception that the application raised, if it did.
    """
    try:
        module = _import_file(target.place) if target.is_file else _import_module(target.place)
    except (Exception, SystemExit) as exc:
        raise TargetError(_explain(target, exc)) from exc
    try:
        found = getattr(module, target.attribute)
    except AttributeError:
        offer = _offer(module)
        raise TargetError(f"{target.place} has no {target.attribute!r}{offer}") from None
    return _server(target, found)


def _import_module(name: str) -> ModuleType:
    _put_first(os.getcwd())
    return importlib.import_module(name)


def _import_file(path: str) -> ModuleType:
    """Import a file as the module of its name, as if its directory were the current one."""
    full = os.path.realpath(path)
    name = os.path.basename(full).removesuffix(".py")
    if os.path.isdir(full):
        raise TargetError(f"{path} is a directory: give the file in it, or a module's name")
    if not os.path.isfile(full):
        raise TargetError(f"no such file: {path}")
    if name in sys.modules:
        raise TargetError(
            f"{path}: a module {name!r} is loaded already: give the file another name"
        )
    _put_first(os.path.dirname(full))
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


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
    raise TargetError(f"{target} is {_kind(found)}: expected a gtcp.Server or gtcp.Commands")


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _offer(module: ModuleType) -> str:
    """What the user may have meant."""
    names = [name for name, value in vars(module).items() if isinstance(value, Server | Commands)]
    return f"; it has {', '.join(names)}" if names else ", nor any gtcp.Server or gtcp.Commands"


# What went wrong


def _explain(target: Target, exc: BaseException) -> str:
    if isinstance(exc, TargetError):
        return str(exc)
    where = _place(exc)
    if where is None:  # not a line of the application has run
        return f"can't import {target.place!r} from {os.getcwd()}: {exc}"
    message = exc.msg if isinstance(exc, SyntaxError) else str(exc)
    file, line = where
    at = f"{_shown(file)}, line {line}" if line else _shown(file)
    return f"{at}: {type(exc).__name__}" + (f": {message}" if message else "")


def _place(exc: BaseException) -> tuple[str, int | None] | None:
    """The file and line to look at: the last one that is neither gtcp's nor a library's."""
    if isinstance(exc, SyntaxError) and exc.filename and os.path.exists(exc.filename):
        return exc.filename, exc.lineno
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith(("<frozen importlib", _OURS, _IMPORTLIB))
    ]
    own = [place for place in frames if not place[0].startswith(_LIBRARIES)]
    places = own or frames
    return places[-1] if places else None


def _shown(file: str) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(file)
    return file if relative.startswith(os.pardir) else relative


def _directory(file: Any) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(file)), "")


_OURS = _directory(gtcp.__file__)
_IMPORTLIB = _directory(importlib.__file__)
_LIBRARIES = tuple(
    os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "purelib", "platlib")
)
