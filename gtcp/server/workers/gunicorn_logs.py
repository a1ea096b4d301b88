"""Under gunicorn: gtcp's log lines in gunicorn's logs."""

from __future__ import annotations

import atexit
import copy
import logging
from typing import Any

from gunicorn import glogging

from gtcp.server.ops.log_stream import unblocked
from gtcp.server.ops.logger import ACCESS, EscapingFormatter, show_access_log

GUNICORN_ERROR = logging.getLogger("gunicorn.error")
GUNICORN_ACCESS = logging.getLogger("gunicorn.access")


class Logger(glogging.Logger):
    """gunicorn's logger, whose handlers do not wait for a reader of stdout or stderr."""

    def setup(self, cfg: Any) -> None:
        """Set gunicorn's loggers up; called in the master, at SIGHUP again."""
        super().setup(cfg)
        do_not_wait_for_readers()


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
    """Let gtcp's loggers write where gunicorn's do, unless the application has set them up."""
    do_not_wait_for_readers()
    _forward("gtcp", GUNICORN_ERROR, "%(name)s: %(message)s")
    show_access_log()
    if GUNICORN_ACCESS.handlers:
        _forward(ACCESS, GUNICORN_ACCESS, "%(asctime)s %(message)s")


def _forward(name: str, to: logging.Logger, line_format: str) -> None:
    logger = logging.getLogger(name)
    if logger.handlers:
        return
    logger.addHandler(_Forward(to, line_format))
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(to.level)


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
