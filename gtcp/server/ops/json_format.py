"""Log records as JSON lines, with the request during which they were logged."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import msgspec

from gtcp.deadline import current_request
from gtcp.server.ops.logger import escape_json

#: The attributes that a record of a request has, beside those of its trace.
FIELDS = ("peer", "cmdid", "method", "id")

#: Further attributes of the access log's records, and of traces.
MORE = ("code", "duration_ms", "received_bytes", "sent_bytes", "items", "trace_id", "span_id")


class RequestFilter(logging.Filter):
    """Adds to each record the request whose handler logs it. It drops none.

    For formatters other than ``JsonFormatter``, which has one. The attributes are ``peer``,
    ``cmdid``, ``method`` and ``id`` of the request; with an OpenTelemetry SDK also ``trace_id`` and
    ``span_id``, in hexadecimal. A record outside of handlers gets none of them. A record of a
    greenlet that a handler has started by ``gtcp.spawn`` gets them, one of a thread does not.
    """

    def __init__(self) -> None:
        super().__init__()

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes.

        Args:
            record: what is logged.

        Returns:
            bool: True.
        """
        request = current_request()
        if request is not None and request._command is not None and not hasattr(record, "peer"):
            record.peer, record.id = request._source.connection.address, request.id
            record.cmdid, record.method = request.cmdid, request._command.name
        if "opentelemetry.trace" in sys.modules and not hasattr(record, "trace_id"):
            _add_trace(record)
        return True


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    The keys are ``time`` (RFC 3339, in UTC), ``level``, ``logger``, ``pid`` and ``message``; for a
    record that a handler logs those of ``RequestFilter``; for one of the access log ``peer``,
    ``cmdid``, ``method``, ``code``, ``duration_ms``, ``received_bytes``, ``sent_bytes`` and
    ``items``; ``error`` with the traceback and ``stack``, if there are any.
    """

    _filter = RequestFilter()

    def __init__(self) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline.

        Args:
            record: what is logged.

        Returns:
            str: a JSON object; it escapes line breaks and control characters.
        """
        self._filter.filter(record)
        entry = {**origin(record), "message": record.getMessage()}
        for name in (*FIELDS, *MORE):
            value = getattr(record, name, None)
            if value is not None:
                entry[name] = value
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return line_of(entry)


def origin(record: logging.LogRecord) -> dict[str, Any]:
    """Return the entries of a line that say when and where its record was made."""
    return {
        "time": timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "pid": record.process,
    }


@lru_cache(maxsize=10_000)
def quoted(text: str) -> str:
    """Return a text as a JSON string, with its quotation marks. It remembers the last ones."""
    return escape_json(msgspec.json.encode(_plain(text)).decode())


def line_of(entry: dict[str, Any]) -> str:
    """Return an entry of the log as JSON, also if it has values or characters that JSON has not."""
    try:
        text = msgspec.json.encode(entry, enc_hook=str).decode()
    except (ValueError, TypeError, RecursionError):
        text = msgspec.json.encode({key: _plain(value) for key, value in entry.items()}).decode()
    return escape_json(text)


def _plain(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def timestamp(seconds: float) -> str:
    """Return a point in time as in RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _add_trace(record: logging.LogRecord) -> None:
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        record.trace_id = f"{context.trace_id:032x}"
        record.span_id = f"{context.span_id:016x}"
