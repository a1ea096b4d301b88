"""``gtcp bench``: put a load on a server, and summarize the outcomes as text or JSON."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import click
import gevent

from gtcp.cli.histogram import bars
from gtcp.cli.load import Load, Plan, Tally
from gtcp.cli.output import print_json
from gtcp.client.client import Client
from gtcp.errors import ConnectError, GtcpError, RemoteError
from gtcp.protocol.messages import (
    BAD_REQUEST,
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    OWN_CMDID,
    Outgoing,
    encode_request,
)
from gtcp.server.ops.logger import escape

#: Seconds between two live lines.
LIVE_SECONDS = 0.25

PERCENTS = (50, 90, 99, 99.9)

#: Carriage return, and erase to the end of the line.
CLEAR = "\r\x1b[K"


def bench(
    address: str,
    plan: Plan,
    *,
    connections: int | None,
    timeout: float,
    as_json: bool,
    trust: dict[str, Any] | None = None,
) -> bool:
    """Run a plan and print a summary on stdout; SIGINT ends it early.

    Args:
        address: the server.
        connections: the number to open; None for as many as a client opens by itself.
        timeout: seconds that each call may take.
        as_json: print the summary as JSON.
        trust: the client's options for TLS and the secret.

    Returns:
        bool: whether there were results, and no call failed.

    Raises:
        GtcpError: no gtcp server answers; nothing was called.
        ValueError: params can't be written as JSON, or a file of ``trust`` can't be used;
            nothing was called.
    """
    encode_request(Outgoing(plan.cmdid, None, None, plan.params))
    with _client(address, connections, timeout, trust or {}) as client:
        _connect(client, connections or 1)
        load = Load(client, plan)
        interrupt = gevent.signal_handler(signal.SIGINT, load.stop)
        live = gevent.spawn(_show_live, load, plan) if sys.stderr.isatty() else None
        try:
            tally = load.run()
        finally:
            interrupt.cancel()
            if live is not None:
                live.kill()
        used = client.stats()["opened"]
    if as_json:
        print_json(_as_data(str(client.address), plan, tally, used))
    else:
        click.echo("\n".join(_as_text(str(client.address), plan, tally, used)))
    return bool(tally.answered) and not tally.failed


def _client(address: str, connections: int | None, timeout: float, trust: dict[str, Any]) -> Client:
    """Return a client that does not retry, so that each failure is counted."""
    if connections is None:
        return Client(address, timeout=timeout, retries=0, **trust)
    return Client(
        address,
        timeout=timeout,
        retries=0,
        min_connections=connections,
        max_connections=connections,
        **trust,
    )


def _connect(client: Client, count: int) -> None:
    """Open the connections in advance, so that only calls are measured.

    Raises:
        GtcpError: no gtcp server answers.
    """
    client.connect()
    pings = [gevent.spawn(_failure_of_ping, client) for _ in range(count)]
    gevent.joinall(pings)
    failures = [each.value for each in pings if each.value is not None]
    if len(failures) == count:
        raise failures[0]
    left = min(count - len(failures), client.stats()["connections"])
    if left < count:
        message = f"only {left} of {count} connections stay open"
        raise ConnectError(f"{client.address}: {message}")


def _failure_of_ping(client: Client) -> GtcpError | None:
    try:
        client.call(OWN_CMDID)
    except RemoteError as exc:
        # Other codes refuse the ping, but the server has answered.
        return exc if exc.code in (NOT_AUTHENTICATED, NOT_ALLOWED, BAD_REQUEST) else None
    except GtcpError as exc:
        return exc
    return None


# During the run


def _show_live(load: Load, plan: Plan) -> None:
    """Update a line on the terminal, which is erased at the end."""
    try:
        while True:
            gevent.sleep(LIVE_SECONDS)
            sys.stderr.write(CLEAR + _live_line(load, plan))
            sys.stderr.flush()
    finally:
        sys.stderr.write(CLEAR)
        sys.stderr.flush()


def _live_line(load: Load, plan: Plan) -> str:
    tally = load.tally
    seconds = min(load.elapsed, plan.seconds)
    median, late = (f"{tally.latency.percentile(each) * 1000:.3g}" for each in (50, 99))
    return (
        f"{seconds:.0f} of {plan.seconds:g} s: {tally.answered} calls, "
        f"{tally.answered / seconds:.0f}/s, p50 {median} ms, p99 {late} ms, {tally.failed} failed"
    )


# At the end


def _as_text(address: str, plan: Plan, tally: Tally, connections: int) -> Iterator[str]:
    plural = "" if connections == 1 else "s"
    how = f"{plan.concurrency} at a time"
    if plan.rate is not None:
        how = f"{plan.rate:g}/s, at most {plan.concurrency} at a time"
    yield f"BENCH {address} cmdid {plan.cmdid}: {how}, {connections} connection{plural}"
    yield (
        f"{tally.answered} answered in {tally.seconds:.3f} s, {tally.per_second:.1f}/s, "
        f"{tally.failed} failed"
    )
    for kind, count in tally.errors.most_common():
        yield f"  {count} {kind}: {escape(tally.examples[kind])}"
    if tally.answered and not tally.in_time:
        yield (
            f"0.0/s: all calls ended after the {plan.seconds:g} s of --duration; "
            "a longer one gives a rate"
        )
    if tally.abandoned:
        yield f"{tally.abandoned} abandoned in flight, when the run was interrupted"
    if tally.unsent:
        yield f"{tally.unsent} not sent: the rate was too high for {plan.concurrency} at a time"
    if tally.latency.count:
        yield ", ".join(f"{name} {value:.3f}" for name, value in _latencies(tally).items()) + " ms"
        yield from bars(tally.latency.rows())


def _latencies(tally: Tally) -> dict[str, float]:
    """Return the latencies in milliseconds by name; empty if no call was answered."""
    latency = tally.latency
    if not latency.count:
        return {}
    percentiles = {f"p{each:g}": latency.percentile(each) for each in PERCENTS}
    seconds = {**percentiles, "max": latency.longest, "mean": latency.total / latency.count}
    return {name: value * 1000 for name, value in seconds.items()}


def _as_data(address: str, plan: Plan, tally: Tally, connections: int) -> dict[str, Any]:
    return {
        "address": address,
        "cmdid": plan.cmdid,
        "concurrency": plan.concurrency,
        "rate": plan.rate,
        "connections": connections,
        "seconds": round(tally.seconds, 6),
        "answered": tally.answered,
        "answered_per_second": round(tally.per_second, 3),
        "answered_in_time": tally.in_time,
        "failed": tally.failed,
        "errors": dict(tally.errors.most_common()),
        "abandoned": tally.abandoned,
        "not_sent": tally.unsent,
        "latency_ms": {name: round(value, 3) for name, value in _latencies(tally).items()},
        "histogram": [
            {"up_to_ms": round(row.up_to * 1000, 3), "calls": row.calls}
            for row in tally.latency.rows()
        ],
    }
