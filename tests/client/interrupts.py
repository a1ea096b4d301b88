"""Programs for the tests of exceptions that signal handlers raise, each in a process of its own.

``python -m tests.client.interrupts NAME ADDRESS [EVERY]``: ends with status 0 if the client kept
its promises, and prints what was seen. With EVERY, only every so many instructions or signals.
The server has three commands: 1 counts a token and returns how often it has seen it, 2 returns
that count, 3 sleeps.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub

import gtcp

#: Where exceptions are injected.
FILES = (
    os.sep + os.path.join("gtcp", "client") + os.sep,
    os.path.join("gtcp", "deadline.py"),
    os.path.join("gevent", "timeout.py"),
)

#: Seconds within which the next call has to succeed: far below any timeout, and enough for a
#: machine that is busy with other tests.
SOON = 1.0

LOOK = {"token": "none"}

SIGNALS = 10_000


class Interrupt(BaseException):
    """The exception that a signal handler raises."""


class Failures:
    """Report a problem and end the program."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)

    def exit(self, seen: str) -> None:
        sys.stdout.write("\n".join([seen, f"{len(self.lines)} failures", *self.lines[:20], ""]))
        sys.exit(bool(self.lines))

    def check_next_call(self, client: gtcp.Client, when: str) -> None:
        """The next call succeeds soon, and no call is left in flight."""
        started = monotonic()
        try:
            client.call(2, LOOK, timeout=5)
        except BaseException as exc:
            self.add(f"{when}: the next call failed: {exc!r}")
            return
        if monotonic() - started > SOON:
            self.add(f"{when}: the next call took {monotonic() - started:.3f} s")


# An exception at every instruction


class Tracer:
    """Raises an Interrupt at the n-th instruction of the client's code, in any greenlet."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.where = ""

    def __call__(self, frame: Any, event: str, _arg: object) -> Any:
        name = frame.f_code.co_filename
        if not any(each in name for each in FILES):
            return None
        frame.f_trace_opcodes = True
        if event in ("opcode", "line"):  # Python 3.12 has events for lines only
            self._left -= 1
            if not self._left:
                self.where = f"{os.path.basename(name)}:{frame.f_lineno}"
                sys.settrace(None)
                raise Interrupt
        return self

    @contextmanager
    def on(self) -> Iterator[None]:
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(None)


Scenario = Callable[[gtcp.Client, str], None]


def one_call(client: gtcp.Client, token: str) -> None:
    client.call(1, {"token": token})


def one_beside_others(client: gtcp.Client, token: str) -> None:
    """A call that waits in the event loop, beside two others on its connection."""
    others = [gevent.spawn(client.call, 2, LOOK, idempotent=True) for _ in range(2)]
    try:
        client.call(1, {"token": token})
    finally:
        sys.settrace(None)
        gevent.killall(others)


def one_notification(client: gtcp.Client, token: str) -> None:
    client.notify(1, {"token": token})
    client.call(2, LOOK)


def a_stream(client: gtcp.Client, token: str) -> None:
    list(client.map(1, [{"token": f"{token}-{n}"} for n in range(5)], window=4))


def a_deadline(client: gtcp.Client, _token: str) -> None:
    try:
        client.call(3, {"seconds": 30}, timeout=0.01)
    except gtcp.CallTimeout:
        pass


def a_deadline_block(client: gtcp.Client, token: str) -> None:
    with gtcp.deadline(60):
        client.call(1, {"token": token})


def a_long_line(client: gtcp.Client, token: str) -> None:
    """One that is sent after the server was asked how long lines may be."""
    client.call(1, {"token": token, "padding": "x" * 100_000})


SCENARIOS: dict[str, Scenario] = {
    "call": one_call,
    "first-call": one_call,
    "beside-others": one_beside_others,
    "notify": one_notification,
    "map": a_stream,
    "deadline": a_deadline,
    "deadline-block": a_deadline_block,
    "first-long-line": a_long_line,
}


def at_every_instruction(name: str, address: str, every: str = "1") -> None:
    """Run a scenario again and again, interrupted one instruction later each time."""
    failures, instruction = Failures(), 0
    with gtcp.Client(address) as check, gtcp.Client(address) as client:
        while True:
            instruction += int(every)
            check.call(2, LOOK)
            if name.startswith("first-"):
                client.close()
                client = gtcp.Client(address)
            else:
                client.call(2, LOOK)
            tracer = Tracer(instruction)
            interrupted_once(SCENARIOS[name], client, check, tracer, failures)
            if not tracer.where:
                break
        client.close()
    if instruction < 100:
        failures.add("hardly anything was traced")
    failures.exit(f"{instruction} instructions")


def interrupted_once(
    scenario: Scenario, client: gtcp.Client, check: gtcp.Client, tracer: Tracer, failures: Failures
) -> None:
    gevent.sleep(0)
    loop, token, outcome = get_hub().loop, f"{os.getpid()}-{id(tracer)}-{monotonic()}", ""
    before, connections = loop.activecnt, client.stats()["connections"]
    try:
        with gevent.Timeout(20), tracer.on():
            scenario(client, token)
    except Interrupt:
        outcome = "interrupted"
    except gtcp.GtcpError as exc:
        outcome = exc.executed
    except BaseException as exc:
        failures.add(f"{tracer.where}: {exc!r}")
    where = f"{tracer.where} ({outcome})"
    failures.check_next_call(client, where)
    stats, pool = client.stats(), client._pools.here()
    if stats["in_flight"] or stats["connections"] > 1 or pool._opening or pool._queue:
        failures.add(f"{where}: {stats} {pool._opening} {pool._queue}")
    count = check.call(2, {"token": token})
    if count > 1 or (count and outcome == "no"):
        failures.add(f"{where}: ran {count} times")
    gevent.sleep(0)
    opened = client.stats()["connections"] - connections
    if loop.activecnt > before + opened:
        failures.add(f"{where}: {loop.activecnt - before} more left in the event loop")


# Real signals at random times


def raise_interrupt(_number: int, _frame: object) -> None:
    raise Interrupt


def random_signals(name: str, address: str, every: str = "1") -> None:
    """Interrupt calls by real signals; each time the next call must work."""
    choose, failures, raised = random.Random(name), Failures(), 0
    others = 4 if name == "signals-five" else 0
    signal.signal(signal.SIGALRM, raise_interrupt)
    get_hub().NOT_ERROR += (Interrupt,)  # is not printed when it is raised in the event loop
    with gtcp.Client(address) as client:
        background = [gevent.spawn(in_background, client, failures) for _ in range(others)]
        for n in range(SIGNALS // int(every)):
            delay = choose.uniform(1e-6, 4e-4)
            raised += interrupted_by_signal(client, delay, n, failures, bool(others))
            if len(failures.lines) > 50:
                break
        gevent.killall(background)
    if raised < SIGNALS / int(every) / 2:
        failures.add(f"only {raised} signals raised in a call")
    failures.exit(f"{raised} of {SIGNALS // int(every)} signals raised in a call")


def interrupted_by_signal(
    client: gtcp.Client, delay: float, n: int, failures: Failures, beside_others: bool
) -> bool:
    """Return whether the signal's exception was raised out of the calls."""
    interrupted, began = False, [monotonic()]
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            call_again_and_again(client, n, began)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        interrupted = True
    except gtcp.ConnectionLost as exc:
        if not beside_others:  # else the signal's handler may have run in one of those
            failures.add(f"{n}: {exc!r}")
    took = monotonic() - began[-1]
    if took > SOON:
        failures.add(f"{n}: the call was not interrupted, or took {took:.3f} s")
    failures.check_next_call(client, f"{n}: interrupted={interrupted}")
    return interrupted


def call_again_and_again(client: gtcp.Client, n: int, began: list[float]) -> None:
    """Call until a signal interrupts it; note when each call began.

    A function of its own: from Python 3.12 on, an exception that a signal's handler raises between
    two rounds of a loop is not caught by a ``try`` around the loop in the same function.
    """
    until = monotonic() + SOON
    while monotonic() < until:
        began[0] = monotonic()
        client.call(1, {"token": f"{n}"}, timeout=30)


def in_background(client: gtcp.Client, failures: Failures) -> None:
    """Calls of another greenlet: they may be lost with their connection, never go wrong."""
    n = 0
    while True:
        n += 1
        try:
            token = f"{id(gevent.getcurrent())}-{n}"
            if client.call(1, {"token": token}, timeout=5) != 1:
                failures.add(f"{token} ran twice")
        except gtcp.ConnectionLost:
            pass
        except gtcp.GtcpError as exc:
            failures.add(f"in the background: {exc!r}")
        except Interrupt:
            pass  # the signal's handler ran in this greenlet


if __name__ == "__main__":
    program = at_every_instruction if sys.argv[1] in SCENARIOS else random_signals
    program(*sys.argv[1:])
