"""Loggers as the ancestor had them, on the standard ``logging``.

Two things differ from the ancestor's. Every logger has handlers of its own (there, the first
one's file took everything). And what a peer sent cannot forge a line or drive a terminal:
control characters of a message are escaped and a message is cut, while the lines of a
traceback are kept, indented.
"""

from __future__ import annotations

import copy
import errno
import json
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from gtcp.server.ops.log_stream import LogStream, unblocked

#: One line for every request, when ``Settings.access_log`` says so.
ACCESS = "gtcp.access"

#: What the server itself has to say: start, drain, failed handlers.
SERVER = "gtcp.server"

#: Characters of a peer's identity that are logged.
MAX_IDENTITY_CHARS = 200

MAX_MESSAGE_CHARS = 4096
MAX_TRACEBACK_CHARS = 16 * MAX_MESSAGE_CHARS

CONSOLE_FORMAT = "%(asctime)s [%(process)d] %(levelname)-8s %(name)s: %(message)s"

# Characters that are not shown as themselves. By Unicode's categories: controls (Cc), format
# characters (Cf: they reorder text, join it or are invisible, such as the tag characters), line and
# paragraph separators (Zl, Zp), and lone surrogates (Cs), with which no file can be written. And
# those that are invisible, by the property Default_Ignorable_Code_Point: variation selectors, ...
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    "\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def escape(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> str:
    """``text`` on one line without control characters, its end cut off when it is longer."""
    escaped = _UNSAFE.sub(_escape_character, text[:max_chars])
    if len(text) <= max_chars and len(escaped) <= max_chars:
        return escaped
    return f"{escaped[:max_chars]}... ({len(text)} characters)"


def escape_json(text: str) -> str:
    """``text``, which is JSON, with the characters that ``escape`` replaces as JSON escapes."""
    return _UNSAFE.sub(_escape_in_json, text)


def _escape_in_json(match: re.Match[str]) -> str:
    character = match.group()
    return character if character == "\n" else json.dumps(character)[1:-1]


def _escape_character(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


class EscapingFormatter(logging.Formatter):
    """A `logging.Formatter` whose messages are one line, and whose tracebacks are indented.

    The record itself is left as it was for other handlers.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, then its traceback."""
        own = copy.copy(record)
        own.msg, own.args = escape(record.getMessage()), None
        if own.exc_info:
            own.exc_text = None  # another formatter may have kept the unescaped text here
        elif own.exc_text:
            own.exc_text = _indented(own.exc_text)
        return super().format(own)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        """The traceback, indented."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """The stack, indented."""
        return _indented(stack_info)


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def _indented(text: str) -> str:
    """Lines escaped one by one; being indented, none of them can pass for a log line."""
    lines = text[:MAX_TRACEBACK_CHARS].split("\n")
    if len(text) > MAX_TRACEBACK_CHARS:
        lines.append(f"... ({len(text)} characters)")
    return "\n".join("  " + escape(line) for line in lines)


#: Stands for the message in a formatted line, to find its place there.
_MESSAGE = "<the message goes here>"


class Console(logging.Handler):
    """Writes to what ``sys.stderr`` is at the moment, without waiting for its reader.

    What waits longer than ``log_stream`` has room for is dropped and counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stderr: Any = None
        self._stream: Any = None

    def flush(self) -> None:
        """Write what waits for the reader of stderr; called at the end of the process."""
        if isinstance(self._stream, LogStream):
            self._stream.finish()

    def close(self) -> None:
        """Release the stream; called at the end of the process."""
        super().close()
        if isinstance(self._stream, LogStream):
            self._stream.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        self._write(record, lambda: self.format(record) + "\n")

    @property
    def takes_lines(self) -> bool:
        """Whether it takes every record at level info: then many can be written as one text."""
        return not self.filters and self.level <= logging.INFO

    def write_lines(self, record: logging.LogRecord, messages: list[str]) -> None:
        """Write many records at once that differ only in their messages.

        Args:
            record: what they have in common.
            messages: without anything that would have to be escaped.
        """
        self.write_text(record, lambda: self._lines(record, messages))

    def write_text(self, record: logging.LogRecord, text: Callable[[], str]) -> None:
        """Write formatted lines.

        Args:
            record: blamed if that fails.
            text: returns the lines, each with its newline.
        """
        self.acquire()
        try:
            self._write(record, text)
        finally:
            self.release()

    def _lines(self, record: logging.LogRecord, messages: list[str]) -> str:
        record.msg, record.args = _MESSAGE, None
        before, found, after = (self.format(record) + "\n").partition(_MESSAGE)
        if not found:
            return before * len(messages)
        return before + (after + before).join(messages) + after

    def _write(self, record: logging.LogRecord, text: Callable[[], str]) -> None:
        try:
            if sys.stderr is not self._stderr:
                self._stderr, self._stream = sys.stderr, unblocked(sys.stderr)
            self._stream.write(text())
            self._stream.flush()
        except Exception:  # logging's own rule: a log line never breaks the program
            self.handleError(record)


class BaseLogger:
    """A logger made by setting class attributes; its instances are used like a logger.

    ::

        class PayLogger(gtcp.BaseLogger):
            logger_name = "pay"
            logger_path = "/var/log/pay.log"

        PayLogger().info("%s paid", customer)

    Instances of one class write to the same handlers. They can be created anywhere, and shared by
    greenlets and threads. Several processes may append to one file. It is reopened when logrotate
    has moved it.

    Attributes:
        logger_name: the name in the log; None is the name of the class. Two classes with the same
            name must have the same level, path and formats.
        logger_level: the lowest level that is logged, as a number or name of ``logging``.
        logger_path: the file to append to, in an existing directory; None is no file.
        logger_format_file: the format of a line in the file.
        logger_format_console: the format of a line on stderr; None is no console.
        logger: the ``logging.Logger`` underneath. It does not propagate to the root logger, unless
            it has neither file nor console.

    Raises:
        ValueError: another class uses the name with other attributes, or an unknown level.
        OSError: the directory of the file does not exist.
    """

    logger_name: str | None = None
    logger_level: int | str = logging.DEBUG
    logger_path: str | os.PathLike[str] | None = None
    logger_format_file: str = "%(asctime)s %(name)-12s %(levelname)-8s %(message)s"
    logger_format_console: str | None = "%(asctime)s %(name)-12s %(levelname)-8s %(message)s"

    def __init__(self) -> None:
        self.logger = _set_up(self)

    # Properties rather than methods, so that a record names the line that logged it.
    # Each is called as the method of `logging.Logger` with its name.

    @property
    def debug(self) -> Callable[..., None]:
        """Log at level debug."""
        return self.logger.debug

    @property
    def info(self) -> Callable[..., None]:
        """Log at level info."""
        return self.logger.info

    @property
    def warning(self) -> Callable[..., None]:
        """Log at level warning."""
        return self.logger.warning

    warn = warning  # as in tornado-TCP

    @property
    def error(self) -> Callable[..., None]:
        """Log at level error."""
        return self.logger.error

    @property
    def exception(self) -> Callable[..., None]:
        """Log at level error, with the traceback of the exception being handled."""
        return self.logger.exception

    @property
    def critical(self) -> Callable[..., None]:
        """Log at level critical."""
        return self.logger.critical


class _Setup(NamedTuple):
    """The attributes that two classes with one name must have in common."""

    level: int
    path: str | None
    file_format: str
    console_format: str | None


def _set_up(spec: BaseLogger) -> logging.Logger:
    """The logger of that name, with its handlers unless an earlier instance added them."""
    owner = f"{type(spec).__module__}.{type(spec).__qualname__}"
    setup = _setup_of(spec, owner)
    handlers = _handlers(setup)
    logger = logging.getLogger(spec.logger_name or owner)
    # Kept on the logger itself, which logging keeps by its name; one step, so that of two
    # threads only one adds handlers.
    kept = vars(logger).setdefault("_gtcp_setup", setup)
    if kept != setup:
        raise ValueError(
            f"logger_name {logger.name!r} of {owner} is taken by a logger with another level, "
            f"path or format: give it a name of its own"
        )
    if kept is setup:
        logger.setLevel(setup.level)
        logger.propagate = not handlers
        for handler in handlers:
            logger.addHandler(handler)
    return logger


def _setup_of(spec: BaseLogger, owner: str) -> _Setup:
    path = None if spec.logger_path is None else os.path.abspath(spec.logger_path)
    if path is not None and not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(
            errno.ENOENT, f"logger_path of {owner} is in a directory that is not there", path
        )
    return _Setup(
        level_number(spec.logger_level),
        path,
        spec.logger_format_file,
        spec.logger_format_console,
    )


def _handlers(setup: _Setup) -> list[logging.Handler]:
    handlers: list[logging.Handler] = []
    if setup.path is not None:
        file = logging.handlers.WatchedFileHandler(setup.path, encoding="utf-8", delay=True)
        handlers.append(with_format(file, setup.file_format))
    if setup.console_format is not None:
        handlers.append(with_format(Console(), setup.console_format))
    return handlers


def with_format(handler: logging.Handler, line_format: str) -> logging.Handler:
    """Return the handler, with a formatter that escapes what a peer sent."""
    handler.setFormatter(EscapingFormatter(line_format))
    return handler


def level_number(level: int | str) -> int:
    """Return the number of a level.

    Raises:
        ValueError: there is no such level.
    """
    number = level if isinstance(level, int) else logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ValueError(f"expected a log level such as 'info', got {level!r}")
    return number
