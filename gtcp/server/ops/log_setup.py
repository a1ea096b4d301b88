"""Where the log lines of ``gtcp serve`` go: gtcp's own, and those of the application.

An application that configures logging itself is left alone: the root logger has handlers once the
application is imported. Otherwise its lines go where gtcp's go, with the same format and level.
"""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
from typing import Any

import msgspec
import msgspec.toml  # reads with tomllib, on Python 3.10 with tomli

from gtcp.server.ops.json_format import JsonFormatter
from gtcp.server.ops.logger import (
    ACCESS,
    CONSOLE_FORMAT,
    Console,
    EscapingFormatter,
    level_number,
)

#: The name of a log file that means stderr, as for gunicorn.
STDERR = "-"


def configure(level: str = "info", path: str | None = None, form: str = "text") -> None:
    """Send the lines of the logger ``gtcp`` and all below it to stderr or a file.

    For the gtcp command; a program that has gtcp as a library configures logging itself. Called
    again, it only changes the level.

    Args:
        level: the least severe level that is logged.
        path: the file to append to, opened again when it was moved; None or "-" for stderr.
        form: "text" or "json".

    Raises:
        OSError: the file can't be written.
        ValueError: there is no such level.
    """
    logger = logging.getLogger("gtcp")
    logger.setLevel(level_number(level))
    logger.propagate = False
    if not any(hasattr(handler, "gtcp_configured") for handler in logger.handlers):
        handler: Any = _handler(path)
        handler.setFormatter(formatter_of(form))
        handler.gtcp_configured = True
        logger.addHandler(handler)
    show_access_log()
    enable_gtcp()


def configure_application(level: str = "info") -> None:
    """Send the application's lines where those of ``gtcp`` go, unless it has configured logging.

    Called after ``configure`` and after the application was imported.

    Args:
        level: the least severe level that is logged, unless the application has set one on the
            root logger.

    Raises:
        ValueError: there is no such level.
    """
    if not logging.root.handlers:
        for handler in logging.getLogger("gtcp").handlers:
            logging.root.addHandler(handler)
        set_root_level(level_number(level))


def set_root_level(level: int) -> None:
    """Set the level of the root logger, unless it is not Python's default."""
    if logging.root.level == logging.WARNING:
        logging.root.setLevel(level)


def apply_config(path: str) -> dict[str, Any]:
    """Configure logging as a file says, and return what it says.

    ``version`` may be left out, and ``disable_existing_loggers`` is false unless the file says
    otherwise: gtcp's loggers exist already.

    Args:
        path: a TOML file, or a JSON file if its name ends with ``.json``, in the form of
            ``logging.config.dictConfig``.

    Raises:
        ValueError: the file can't be read, or logging can't be configured so; one line.
    """
    config = {"version": 1, "disable_existing_loggers": False, **_read(path)}
    try:
        logging.config.dictConfig(config)
    except (ValueError, TypeError, AttributeError, ImportError, LookupError, OSError) as exc:
        cause = f": {exc.__cause__}" if exc.__cause__ is not None else ""
        raise ValueError(" ".join(f"{path}: {exc}{cause}".split())) from exc
    show_access_log()
    return config


def check_writable(path: str) -> None:
    """Raise ValueError if a log file can't be appended to; it is created if it does not exist."""
    if path == STDERR:
        return
    try:
        with open(path, "a"):
            pass
    except OSError as exc:
        raise ValueError(f"cannot write {path}: {exc.strerror}") from exc


def reopen_files() -> None:
    """Open the files of all loggers again, for example since they were moved."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [each.handlers for each in loggers if isinstance(each, logging.Logger)]
    for handler in {each for handlers in found for each in handlers}:
        if isinstance(handler, logging.FileHandler):
            reopen(handler)


def reopen(handler: logging.FileHandler) -> None:
    """Open the file of a handler again, if it is open."""
    handler.acquire()
    try:
        if handler.stream is not None:
            handler.close()
            handler.stream = handler._open()
    finally:
        handler.release()


def show_access_log() -> None:
    """Let access lines through at any level: a setting turns them on and off.

    If the application has set a level for their logger, that one remains.
    """
    logger = logging.getLogger(ACCESS)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def enable_gtcp() -> None:
    """Enable gtcp's loggers, which ``dictConfig`` of an application disables by default."""
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and f"{name}.".startswith("gtcp."):
            logger.disabled = False


def formatter_of(form: str) -> logging.Formatter:
    """Return the formatter of lines on stderr or in a file: "text" or "json"."""
    if form == "json":
        return JsonFormatter()
    return EscapingFormatter(CONSOLE_FORMAT)


def _handler(path: str | None) -> logging.Handler:
    if path in (None, STDERR):
        return Console()
    assert path is not None
    # Opened again when logrotate has moved the file.
    return logging.handlers.WatchedFileHandler(path, encoding="utf-8")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as exc:
        raise ValueError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        config = json.loads(data) if path.endswith(".json") else msgspec.toml.decode(data)
    except (ValueError, msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"cannot read {path}: {exc}") from exc
    if not isinstance(config, dict):
        raise ValueError(f"cannot read {path}: expected an object with the keys of dictConfig")
    return config
