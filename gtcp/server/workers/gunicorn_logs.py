"""Under gunicorn: gtcp's log lines in gunicorn's logs."""

from __future__ import annotations

import atexit
import copy
import logging
from typing import Any, ClassVar

from gunicorn import glogging

from gtcp.server.ops.json_format import JsonFormatter
from gtcp.server.ops.log_setup import (
    apply_config,
    enable_gtcp,
    reopen,
    set_root_level,
    show_access_log,
)
from gtcp.server.ops.log_stream import unblocked
from gtcp.server.ops.logger import ACCESS, EscapingFormatter

GUNICORN_ERROR = logging.getLogger("gunicorn.error")
GUNICORN_ACCESS = logging.getLogger("gunicorn.access")


class Logger(glogging.Logger):
    """gunicorn's logger, whose handlers do not wait for a reader of stdout or stderr.

    Attributes:
        log_config: the file that configures logging in place of gunicorn's settings, if any.
        as_json: whether lines are JSON.
    """

    log_config: ClassVar[str | None] = None
    as_json: ClassVar[bool] = False

    def setup(self, cfg: Any) -> None:
        """Set gunicorn's loggers up; called in the master, at SIGHUP again."""
        super().setup(cfg)
        if self.log_config is not None:
            try:
                configure_from(self.log_config)
            except ValueError as exc:
                raise RuntimeError(f"log_config: {exc}") from exc
        if self.as_json:
            for handler in (*GUNICORN_ERROR.handlers, *GUNICORN_ACCESS.handlers):
                handler.setFormatter(JsonFormatter())
        do_not_wait_for_readers()

    def reopen_files(self) -> None:
        """Open log files again, at SIGUSR1; gunicorn leaves out those of the root logger."""
        super().reopen_files()
        for handler in logging.root.handlers:
            if isinstance(handler, logging.FileHandler):
                reopen(handler)


def configure_from(path: str) -> None:
    """Configure logging as a file says. gunicorn's lines go to the root logger's handlers, too.

    Raises:
        ValueError: as for ``apply_config``.
    """
    named = apply_config(path).get("loggers", {})
    for logger in (GUNICORN_ERROR, GUNICORN_ACCESS):
        if logger.name not in named:
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
            logger.propagate = True


class _Forward(logging.Handler):
    """Hands records to one of gunicorn's loggers, with what a peer sent escaped.

    The line is complete by then: gunicorn's formats have no logger's name, its access log's
    has no time either.
    """

    def __init__(self, to: logging.Logger, line_format: str) -> None:
        super().__init__()
        self.setFormatter(EscapingFormatter(line_format, "[%d/%b/%Y:%H:%M:%S %z]"))
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a copy."""
        own = copy.copy(record)
        own.msg, own.args = self.format(record), None
        own.exc_info = own.exc_text = own.stack_info = None
        self._to.handle(own)


def connect_logs() -> None:
    """Let the loggers of gtcp and of the application write where gunicorn's do.

    Those that have handlers are left alone: the application has configured them.
    """
    do_not_wait_for_readers()
    _forward("gtcp", GUNICORN_ERROR, "%(name)s: %(message)s")
    if not (logging.root.handlers or GUNICORN_ERROR.propagate):
        for handler in _handlers_of(GUNICORN_ERROR, "%(name)s: %(message)s"):
            logging.root.addHandler(handler)
        set_root_level(GUNICORN_ERROR.level)
    show_access_log()
    enable_gtcp()
    GUNICORN_ERROR.disabled = GUNICORN_ACCESS.disabled = False
    if GUNICORN_ACCESS.handlers:
        _forward(ACCESS, GUNICORN_ACCESS, "%(asctime)s %(message)s")


def _forward(name: str, to: logging.Logger, line_format: str) -> None:
    logger = logging.getLogger(name)
    if logger.handlers:
        return
    for handler in _handlers_of(to, line_format):
        logger.addHandler(handler)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(to.level)


def _handlers_of(logger: logging.Logger, line_format: str) -> list[logging.Handler]:
    """Return handlers that write where one of gunicorn's loggers does: as JSON its own."""
    if any(isinstance(each.formatter, JsonFormatter) for each in logger.handlers):
        return list(logger.handlers)
    return [_Forward(logger, line_format)]


def do_not_wait_for_readers() -> None:
    """Have gunicorn's loggers write to stdout and stderr without waiting for a reader."""
    for logger in (GUNICORN_ERROR, GUNICORN_ACCESS):
        for handler in logger.handlers:
            if type(handler) is not logging.StreamHandler:
                continue
            stream = unblocked(handler.stream)
            if stream is not handler.stream:
                handler.setStream(stream)
                atexit.register(stream.finish)
