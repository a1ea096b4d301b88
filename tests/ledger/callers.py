"""Processes that call, and record the outcomes.

    python -m tests.ledger.callers KIND SEED SECONDS FILE ADDRESS [ADDRESS ...]

KIND is greenlets, threads, forks or signals. Every address gets a client of its own; each call
picks one at random.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType
from typing import Any

import gevent

import gtcp
from tests.ledger.messages import RUN, RUN_TO_END, STREAM, Done, Row

GREENLETS = 48
THREADS = 12
FORKS_AT_ONCE = 2

#: The part of the calls that are streams.
STREAMS = 0.15


class Caller:
    """Makes random calls and streams, and writes down their outcomes.

    One line per call: its id, whether it may run twice, its outcome, and details. The outcome is
    ``result``, ``no``, ``maybe``, ``yes``, ``killed`` (nobody was told anything) or ``wrong``
    (another call's result; items lost, doubled, out of order or of another stream).
    """

    def __init__(self, name: str, seed: int, file: int, clients: list[gtcp.Client]) -> None:
        self.chance = random.Random(f"{name} {seed}")
        self._name = name
        self._file = file
        self._clients = clients
        self._numbers = itertools.count()

    def call(self) -> None:
        chance = self.chance
        number = f"{self._name}-{os.getpid()}-{next(self._numbers)}"
        idempotent = chance.random() < 0.3
        params = {
            "id": number,
            "sleep": chance.choice((0, 0, 0, 0, chance.uniform(0, 0.1))),
            "fork": chance.choices((None, chance.uniform(0, 0.3)), (300, 1))[0],
            "end": chance.choices(("result", "error", "crash"), (20, 1, 1))[0],
        }
        told = "killed -"
        process = os.getpid()
        try:
            told = self._told(number, params, idempotent)
        finally:
            # A greenlet that was about to run when its process was forked also runs in the child.
            if os.getpid() == process:
                os.write(self._file, f"{number} {int(idempotent)} {told}\n".encode())

    def stream(self) -> None:
        """Take the items of a stream, perhaps not all, and write down what came."""
        chance = self.chance
        number = f"{self._name}-{os.getpid()}-{next(self._numbers)}"
        idempotent = chance.random() < 0.3
        params = {
            "id": number,
            "items": chance.choice((0, 1, 10, chance.randrange(1000))),
            "sleep": chance.choice((0, 0, 0, chance.uniform(0, 0.01))),
            "end": chance.choices(("result", "error", "crash"), (20, 1, 1))[0],
        }
        leaves_after = chance.choice((None, None, None, chance.randrange(1, 500)))
        told = "killed -"
        process = os.getpid()
        try:
            told = self._told_by_stream(number, params, idempotent, leaves_after)
        finally:
            if os.getpid() == process:  # as in `call`
                os.write(self._file, f"{number} {int(idempotent)} {told}\n".encode())

    def _told_by_stream(
        self, number: str, params: dict[str, Any], idempotent: bool, leaves_after: int | None
    ) -> str:
        chance, came = self.chance, 0
        try:
            with chance.choice(self._clients).stream(
                STREAM,
                params,
                timeout=chance.choice((5, 5, 5, chance.uniform(0.001, 0.3))),
                total=chance.choice((None, None, chance.uniform(0.01, 2))),
                window=chance.choice((1, 3, 256)),
                idempotent=idempotent,
                result=Row,
            ) as rows:
                for row in rows:
                    if (row.id, row.number) != (number, came):
                        return f"wrong item {row.number} of {row.id} in place of {came}"
                    came += 1
                    if came == leaves_after:
                        return "result left"
                    if chance.random() < 0.001:
                        gevent.sleep(chance.uniform(0, 0.05))
        except gtcp.GtcpError as exc:
            if exc.received != came or (came and exc.executed == "no"):
                return f"wrong received={exc.received} executed={exc.executed} after {came} items"
            finished = isinstance(exc, gtcp.RemoteError) and exc.executed == "yes"
            if finished and came != params["items"]:
                return f"wrong the handler has ended, but {came} of {params['items']} items came"
            return f"{exc.executed} {type(exc).__name__}: {exc}"
        if came != params["items"]:
            return f"wrong the stream has ended, but {came} of {params['items']} items came"
        if params["end"] != "result":
            return "wrong the stream has ended without its error"
        return "result -"

    def _told(self, number: str, params: dict[str, object], idempotent: bool) -> str:
        chance = self.chance
        try:
            done = chance.choice(self._clients).call(
                chance.choice((RUN, RUN, RUN_TO_END)),
                params,
                timeout=chance.choice((5, 5, 5, chance.uniform(0.001, 0.3))),
                idempotent=idempotent,
                result=Done,
            )
        except gtcp.GtcpError as exc:
            return f"{exc.executed} {type(exc).__name__}: {exc}"
        return "result -" if done.id == number else f"wrong {done.id}"

    def until(self, end: float) -> None:
        process = os.getpid()
        while monotonic() < end and os.getpid() == process:
            if self.chance.random() < STREAMS:
                self.stream()
            else:
                self.call()


def greenlets(make: Callable[[str], Caller], end: float) -> None:
    """Many greenlets on shared connections, some of them killed at any moment."""

    def restless(caller: Caller) -> None:
        while monotonic() < end:
            victim = gevent.spawn(caller.until, end)
            victim.join(timeout=caller.chance.uniform(0.001, 1.0))
            victim.kill()

    steady = [gevent.spawn(make(f"steady{n}").until, end) for n in range(GREENLETS * 2 // 3)]
    killed = [gevent.spawn(restless, make(f"killed{n}")) for n in range(GREENLETS // 3)]
    gevent.joinall(steady + killed, raise_error=True)


def threads(make: Callable[[str], Caller], end: float) -> None:
    """OS threads that come and go, sharing the clients."""

    def come_and_go(name: str) -> None:
        for turn in itertools.count():
            if monotonic() >= end:
                return
            short = threading.Thread(target=make(f"{name}.{turn}").until, args=(monotonic() + 1,))
            short.start()
            short.join()

    pairs = [threading.Thread(target=come_and_go, args=(f"thread{n}",)) for n in range(THREADS)]
    for thread in pairs:
        thread.start()
    for thread in pairs:
        thread.join()


def forks(make: Callable[[str], Caller], end: float) -> None:
    """A process whose calls go on while children are forked off that call too."""
    callers = [gevent.spawn(make(f"parent{n}").until, end) for n in range(4)]
    children: set[int] = set()
    for turn in itertools.count():
        if monotonic() >= end:
            break
        child = os.fork()
        if child == 0:
            # The parent's greenlets go on in the child; only this one may.
            make(f"child{turn}").until(min(end, monotonic() + 0.5))
            os._exit(0)
        children.add(child)
        gevent.sleep(0.2)
        while len(children) >= FORKS_AT_ONCE:
            children -= set(_ended(children))
            gevent.sleep(0.01)
    gevent.joinall(callers, raise_error=True)
    for child in children:
        os.waitpid(child, 0)


def _ended(children: set[int]) -> Iterator[int]:
    for child in list(children):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                sys.exit(f"a forked caller ended with {status}")
            yield pid


class Interrupt(BaseException):
    """The exception that the signal handler of ``signals`` raises."""


def signals(make: Callable[[str], Caller], end: float) -> None:
    """Greenlets whose process gets signals at any moment, whose handler raises an exception."""

    def raise_interrupt(_number: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code not in (go_on.__code__, signals.__code__):
            raise Interrupt
        # Between two calls, where nothing might catch the exception: soon again.
        if monotonic() < end:
            signal.setitimer(signal.ITIMER_REAL, 0.001)

    def go_on(caller: Caller) -> None:
        while monotonic() < end:
            try:
                caller.until(end)
            except Interrupt:
                pass  # raised in this greenlet

    signal.signal(signal.SIGALRM, raise_interrupt)
    hub = gevent.get_hub()
    hub.NOT_ERROR += (Interrupt,)  # is not printed when it is raised in the event loop
    others = [gevent.spawn(go_on, make(f"beside{n}")) for n in range(4)]
    caller = make("interrupted")
    while monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, caller.chance.uniform(1e-5, 0.02))
            caller.until(end)
        except Interrupt:
            pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    gevent.joinall(others, raise_error=True)


def main(kind: str, seed: str, seconds: str, path: str, *addresses: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    clients = [gtcp.Client(each, max_in_flight=30) for each in addresses]
    end = monotonic() + float(seconds)
    run = KINDS[kind]
    run(lambda name: Caller(name, int(seed), file, clients), end)
    for client in clients:
        client.close()


KINDS = {"greenlets": greenlets, "threads": threads, "forks": forks, "signals": signals}

if __name__ == "__main__":
    main(*sys.argv[1:])
