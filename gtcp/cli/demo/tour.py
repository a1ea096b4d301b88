"""The tour: each call as written in a program, its bytes on the wire, and its outcome.

The server is a separate process. The calls of the tour pass through a relay in this process,
which records the bytes; the hundred concurrent calls go to the server directly.
"""

from __future__ import annotations

import os
import shlex
import shutil
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
from gtcp.transport.address import DEFAULT_PORT, parse

#: The number of concurrent calls, and how long the handler of each sleeps, seconds.
CALLS, NAP = 100, 0.1

#: Seconds to wait for the server process to exit before it is killed.
EXIT_SECONDS = 5.0

#: Seconds to wait for a reply that arrives after its call has timed out.
LATE_REPLY_SECONDS = 1.0

#: An address for the printed commands that start a server and call it.
TRY_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"


class DemoFailed(Exception):
    """The server process did not start, or has exited. The message is one line."""


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
    Stop("A handler is a function; its return value is the result.",
         10000, {"content": "Hello world!"}),
    Stop("An annotation gives the type of the params: they are validated and decoded into it.",
         10001, {"content": "Hello world!"}),
    Stop("With params of the wrong type, the handler is not run.",
         10001, {"content": 42}),
    Stop("A handler may reply with an error code of the application.",
         10002, {"dividend": 1, "divisor": 0}),
    Stop("A deadline is enforced on both sides: the caller gets an error, the handler is stopped.",
         10003, {"seconds": 60}, 0.2),
)  # fmt: skip


def show(*, stay: bool) -> None:
    """Start the server and make the tour on stdout.

    Args:
        stay: keep the server until SIGINT or SIGTERM.

    Raises:
        DemoFailed: the server did not start, does not answer or has exited.
    """
    with _server() as (child, address):
        _say("gtcp demo", bold=True)
        _say(f"  server: {address}, a separate process, pid {child.pid}")
        _say(f"  its handlers: {app.__file__}")
        try:
            _make_tour(address)
            _call_at_once(address)
        except GtcpError as exc:
            raise DemoFailed(f"the demo's server does not answer: {exc}") from exc
        if stay:
            _stay(child, address)
    if not stay:
        _say(
            "\nThe tour has ended, and its server has stopped. To start the same server:", bold=True
        )
        _say(f"  {command()} serve gtcp.cli.demo.app --bind {TRY_ADDRESS}")
        _say("and to call it from another terminal:", bold=True)
        _say_calls(TRY_ADDRESS)


def command() -> str:
    """Return the command that runs gtcp in the current shell and directory."""
    script = os.path.join(os.path.dirname(sys.executable), "gtcp")
    found = shutil.which("gtcp")
    if found is not None and os.path.realpath(found) == os.path.realpath(script):
        return "gtcp"
    if not os.access(script, os.X_OK):
        return f"{shlex.quote(sys.executable)} -m gtcp"
    relative = os.path.relpath(script)
    return shlex.quote(script if relative.startswith(os.pardir) else relative)


@contextmanager
def _server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the server process; yield it and its address.

    It exits when this process does, even by SIGKILL. It has its own session, so that Ctrl-C
    signals this process only.
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
        child.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _make_tour(address: str) -> None:
    with Relay(parse(address)) as relay, Client(relay.address) as client:
        _say(f"  the calls pass through {relay.address}, a relay that shows the bytes")
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
    """Print the lines of one call. A reply may arrive after the call has timed out."""
    until = monotonic() + LATE_REPLY_SECONDS
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
    """Wait for SIGINT or SIGTERM."""
    assert child.stdout is not None
    over = Event()
    signals = [gevent.signal_handler(each, over.set) for each in (signal.SIGINT, signal.SIGTERM)]
    server_ended = gevent.spawn(
        wait_read, child.stdout.fileno()
    )  # nothing more is written there: EOF
    server_ended.rawlink(lambda _: over.set())
    _say("\nThe server stays until Ctrl-C. To call it from another terminal:", bold=True)
    _say_calls(address)
    over.wait()
    for each in signals:
        each.cancel()
    if server_ended.ready():
        raise DemoFailed("the demo's server has exited")
    server_ended.kill()


def _say_calls(address: str) -> None:
    host, _, port = address.rpartition(":")
    line = '{"cmdid":10000,"params":{"content":"hi"}}'
    _say(f"""  {command()} call {address} 10000 '{{"content": "hi"}}'""")
    _say(f"  {command()} commands {address}")
    _say(f"  echo '{line}' | nc -N {host} {port}")


def _say(text: str, **style: Any) -> None:
    click.secho(text, **style)
