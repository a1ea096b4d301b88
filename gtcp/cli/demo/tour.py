"""The tour: every call as one writes it, as it goes over the wire, and what comes of it.

The server is a process of its own. The calls of the tour pass through a relay in this process,
which keeps the bytes; the hundred calls at once go to the server directly.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

import click
import gevent
from gevent.event import Event
from gevent.socket import wait_read

from gtcp.cli.demo import app
from gtcp.cli.demo.relay import Relay
from gtcp.client.client import Client
from gtcp.errors import GtcpError
from gtcp.transport.address import parse

#: Calls at once, and how long the handler of each sleeps, seconds.
CALLS, NAP = 100, 0.1

#: Seconds that the server process gets to end by itself.
PATIENCE = 5.0

#: Seconds to wait for a reply that nobody waits for any more.
LATE_REPLY = 1.0


class DemoFailed(Exception):
    """The server process did not start, or has ended; one line."""


class Stop(NamedTuple):
    """One call of the tour."""

    title: str
    cmdid: int
    params: dict[str, Any]
    timeout: float | None = None

    def __str__(self) -> str:
        timeout = "" if self.timeout is None else f", timeout={self.timeout:g}"
        return f"client.call({self.cmdid}, {self.params}{timeout})"


TOUR = (
    Stop("A handler is a function; what it returns is the result.",
         10000, {"content": "Hello world!"}),
    Stop("Its annotations say what it takes: params are checked, and decoded into that type.",
         10001, {"content": "Hello world!"}),
    Stop("Params that do not fit never reach the handler.",
         10001, {"content": 42}),
    Stop("A handler may answer with an error of its own.",
         10002, {"dividend": 1, "divisor": 0}),
    Stop("A deadline is kept on both sides: the caller gets its error, the handler is stopped.",
         10003, {"seconds": 60}, 0.2),
)  # fmt: skip


def show(*, once: bool) -> None:
    """Start the server, make the tour on stdout, stay until SIGINT unless ``once``.

    Raises:
        DemoFailed: there is no server to show.
    """
    with _server() as (child, address):
        _say("gtcp demo", bold=True)
        _say(f"  a server in a process of its own, pid {child.pid}, on {address}")
        _say(f"  its handlers: {app.__file__}")
        try:
            _make_tour(address)
            _call_at_once(address)
        except GtcpError as exc:
            raise DemoFailed(f"the demo's server does not answer: {exc}") from exc
        if once:
            _say_what_to_try(address, "The server would stay now")
        else:
            _stay(child, address)


@contextmanager
def _server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server process and its address. It ends with this process, even a killed one.

    It has a session of its own, so that Ctrl-C reaches this process alone.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "gtcp.cli.demo.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        try:
            address = child.stdout.readline().strip()
            if not address:
                raise DemoFailed("the demo's server did not start")
            yield child, address
        finally:
            child.stdin.close()
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()


def _make_tour(address: str) -> None:
    with Relay(parse(address)) as relay, Client(relay.address) as client:
        for stop in TOUR:
            _say(f"\n{stop.title}", bold=True)
            _say(f"  {stop}")
            relay.seen.clear()
            outcome = _outcome(client, stop)
            _show_wire(relay)
            _say(f"  {outcome}", fg="red" if outcome.startswith("raises") else "green")


def _outcome(client: Client, stop: Stop) -> str:
    try:
        result = client.call(stop.cmdid, stop.params, timeout=stop.timeout)
    except GtcpError as exc:
        return f"raises {type(exc).__name__}: {exc} (executed: {exc.executed})"
    return f"returns {result!r}"


def _show_wire(relay: Relay) -> None:
    """The lines of one call; a reply may still be on its way when its caller has given up."""
    until = monotonic() + LATE_REPLY
    while all(is_request for is_request, _ in relay.seen) and monotonic() < until:
        gevent.sleep(0.005)
    for is_request, line in relay.seen:
        arrow = "->" if is_request else "<-"
        _say(f"  {arrow} {line.decode()}", fg="cyan")


def _call_at_once(address: str) -> None:
    _say(f"\n{CALLS} calls at once, to a handler that sleeps {NAP:g} s", bold=True)
    _say(f"  gevent.spawn(client.call, 10003, {{'seconds': {NAP:g}}}), {CALLS} times")
    with Client(address) as client:
        client.call(0)
        started = monotonic()
        calls = [gevent.spawn(client.call, 10003, {"seconds": NAP}) for _ in range(CALLS)]
        gevent.joinall(calls, raise_error=True)
        seconds = monotonic() - started
        connections = client.stats()["connections"]
    plural = "" if connections == 1 else "s"
    _say(f"  all answered in {seconds:.3f} s, over {connections} connection{plural}", fg="green")


def _stay(child: subprocess.Popen[str], address: str) -> None:
    """Until SIGINT or SIGTERM."""
    assert child.stdout is not None
    over = Event()
    signals = [gevent.signal_handler(each, over.set) for each in (signal.SIGINT, signal.SIGTERM)]
    server_ended = gevent.spawn(wait_read, child.stdout.fileno())  # nothing more comes there
    server_ended.rawlink(lambda _: over.set())
    _say_what_to_try(address, "The server stays until Ctrl-C")
    over.wait()
    for each in signals:
        each.cancel()
    if server_ended.ready():
        raise DemoFailed("the demo's server has ended")
    server_ended.kill()


def _say_what_to_try(address: str, what_it_does: str) -> None:
    host, _, port = address.rpartition(":")
    line = '{"cmdid":10000,"params":{"content":"hi"}}'
    _say(f"\n{what_it_does}; to try it from another terminal:", bold=True)
    _say(f"  echo '{line}' | nc -N {host} {port}")
    _say(f"""  gtcp call {address} 10000 '{{"content": "hi"}}'""")
    _say(f"  gtcp commands {address}")


def _say(text: str, **style: Any) -> None:
    click.secho(text, **style)
