"""Traces by OpenTelemetry, as middleware. Needs opentelemetry-api (extra ``opentelemetry``)::

    from gtcp import tracing

    server.middleware(tracing.server)
    client = gtcp.Client("127.0.0.1", middleware=[tracing.client])

Spans are made by the tracer provider of the program; without one, nothing is recorded. The trace
context travels in ``meta`` (``traceparent``, ``tracestate``, ``baggage``), as the program's
propagators write it. Attributes follow OpenTelemetry's conventions for RPC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from opentelemetry import context, propagate, trace
except ImportError as error:
    raise ImportError(
        "gtcp.tracing needs opentelemetry-api: pip install 'gtcp-rpc[opentelemetry]'"
    ) from error

from gtcp.errors import CommandError, GtcpError, Refused, RemoteError
from gtcp.results import WatchedResults
from gtcp.transport.address import host_of

__all__ = ["client", "server"]

#: As OpenTelemetry's conventions name the attributes.
SYSTEM, METHOD, STATUS, ERROR = "rpc.system.name", "rpc.method", "rpc.status_code", "error.type"

_FAILED = trace.StatusCode.ERROR


def server(request: Any, call_next: Callable[[Any], Any]) -> Any:
    """Middleware of a server: a span for each request, below the caller's.

    Args:
        request: the request.
        call_next: the next function.

    Returns:
        Any: what the next function returns; of a stream, an iterator whose end ends the span.
    """
    method = request._command.name
    span = _tracer().start_span(
        method,
        context=propagate.extract(request.meta),
        kind=trace.SpanKind.SERVER,
        attributes={
            SYSTEM: "gtcp",
            METHOD: method,
            "network.peer.address": host_of(request.address),
        },
    )
    return _inside(span, lambda: call_next(request), streams=request._command.streaming)


def client(call: Any, call_next: Callable[[Any], Any]) -> Any:
    """Middleware of a client: a span for each call, with all of its attempts.

    Args:
        call: the call; its ``meta`` gets the trace context.
        call_next: the next function.

    Returns:
        Any: what the next function returns; of a map or a stream, an iterator whose end ends the
        span.
    """
    method = str(call.command)
    attributes = {SYSTEM: "gtcp", METHOD: method, "server.address": call.address}
    span = _tracer().start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes)
    propagate.inject(call.meta, trace.set_span_in_context(span))
    streams = call.kind in ("map", "stream")
    return _inside(span, lambda: call_next(call), streams=streams, failures=call.failures)


def _inside(
    span: Any,
    function: Callable[[], Any],
    *,
    streams: bool,
    failures: list[GtcpError] | None = None,
) -> Any:
    """Call a function with a span as the current one, which ends with it or with its results."""
    token = context.attach(trace.set_span_in_context(span))
    try:
        result = function()
    except BaseException as exc:
        _end(span, exc, failures)
        raise
    finally:
        context.detach(token)
    if streams:

        def ended(exc: BaseException | None) -> None:
            _end(span, exc, failures)

        return WatchedResults(result, ended, lambda: trace.use_span(span, False, False, False))
    _end(span, None, failures)
    return result


def _end(span: Any, exc: BaseException | None, failures: list[GtcpError] | None) -> None:
    for number, each in enumerate(failures or (), 1):
        span.add_event("retry", {"attempt": number, "error": str(each)})
    code = 0
    if exc is not None:
        code = exc.code if isinstance(exc, RemoteError | Refused) else 500
        span.set_attribute(ERROR, str(code) if isinstance(exc, RemoteError) else type(exc).__name__)
        if not isinstance(exc, CommandError):
            span.record_exception(exc)
        span.set_status(_FAILED, str(exc))
    span.set_attribute(STATUS, str(code))
    span.end()


def _tracer() -> Any:
    from gtcp.version import __version__

    return trace.get_tracer("gtcp", __version__)
