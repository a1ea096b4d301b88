"""``gtcp ping``: like ping(8), with calls of cmdid 0, which every server answers."""

from __future__ import annotations

import signal
from itertools import count as numbers
from statistics import median
from time import monotonic
from typing import Any

import click
import gevent

from gtcp.client.client import Client
from gtcp.errors import GtcpError


class Tally:
    """The outcomes of the pings so far.

    Attributes:
        lost: the number of pings that failed.
        times: the latencies of the others, in milliseconds.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.times: list[float] = []

    def __str__(self) -> str:
        received = len(self.times)
        line = f"{received + self.lost} sent, {received} received, {self.lost} lost"
        if not self.times:
            return line
        low, mid, high = min(self.times), median(self.times), max(self.times)
        return f"{line}, min/median/max {low:.3f}/{mid:.3f}/{high:.3f} ms"


def ping(
    address: str,
    *,
    count: int | None,
    interval: float,
    timeout: float,
    trust: dict[str, Any] | None = None,
) -> bool:
    """Ping a server until the count is reached or SIGINT; print each reply, then a summary.

    Args:
        address: the server.
        count: the number of pings; None for no limit.
        interval: seconds between the starts of two pings.
        timeout: maximum seconds of each ping.
        trust: the client's options for TLS and the secret.

    Returns:
        bool: whether a reply was received.
    """
    tally = Tally()
    with Client(address, timeout=timeout, retries=0, **(trust or {})) as client:
        click.echo(f"PING {client.address}")
        pinger = gevent.spawn(_ping_on, client, tally, count, interval)
        interrupt = gevent.signal_handler(signal.SIGINT, pinger.kill)
        try:
            pinger.get()
        finally:
            interrupt.cancel()
        click.echo(f"--- {client.address}\n{tally}")
    return bool(tally.times)


def _ping_on(client: Client, tally: Tally, count: int | None, interval: float) -> None:
    due = monotonic()
    for number in numbers(1) if count is None else range(1, count + 1):
        gevent.sleep(max(0.0, due - monotonic()))
        due = max(due + interval, monotonic())
        _ping_once(client, tally, number)


def _ping_once(client: Client, tally: Tally, number: int) -> None:
    opened = client.stats()["opened"]
    started = monotonic()
    try:
        client.call(0)
    except GtcpError as exc:
        tally.lost += 1
        click.echo(f"no reply: seq={number} {exc}", err=True)
        return
    milliseconds = (monotonic() - started) * 1000
    tally.times.append(milliseconds)
    connected = " (with connecting)" if client.stats()["opened"] > opened else ""
    click.echo(f"reply from {client.address}: seq={number} time={milliseconds:.3f} ms{connected}")
