"""A process that calls a peer's server, as its users would, and counts.

It reads questions from its stdin, a line of JSON each:

    {"do": "calls", "callers": 64, "seconds": 0.4}    -> {"rps": ...}
    {"do": "repeat", "callers": 64, "count": 1000000} -> {}
    {"do": "map", "count": 100000}                    -> {"rps": ..., "grown": ...}
    {"do": "stream", "count": 100000}                 -> {"rps": ..., "grown": ...}
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import ModuleType
from typing import Any

from benchmarks.echo import PARAMS
from benchmarks.resident import resident_bytes

Call = Callable[[], Any]


def answer_questions(peer: ModuleType, port: int) -> None:
    """Answer until stdin ends."""
    print("ready", flush=True)
    known = {"calls": calls, "repeat": repeat, "map": map_calls, "stream": stream}
    for line in sys.stdin:
        question = json.loads(line)
        answer = known[question.pop("do")](peer, port, **question)
        print(json.dumps(answer), flush=True)


def calls(peer: ModuleType, port: int, callers: int, seconds: float) -> dict[str, float]:
    """Calls a second made by so many callers at once, each one call after the other.

    They have connected and made a call each before the clock starts.
    """
    with peer.callers(port, callers) as made:
        if callers == 1:
            _check(made[0]())
            return {"rps": _rate([_count(made[0], seconds)])}
        together = _greenlets if peer.CALLERS == "greenlets" else _threads
        return {"rps": _rate(together(made, seconds))}


def repeat(peer: ModuleType, port: int, callers: int, count: int) -> dict[str, float]:
    """Make so many calls, by greenlets that share the work."""
    import gevent

    def run(call: Call, times: int) -> None:
        for _ in range(times):
            call()

    with peer.callers(port, callers) as made:
        spawned = [gevent.spawn(run, call, count // callers) for call in made]
        gevent.joinall(spawned, raise_error=True)
    return {}


def map_calls(peer: ModuleType, port: int, count: int) -> dict[str, float]:
    """Calls a second of a `client.map`, and the bytes the process grew by."""
    return _results(peer.mapped, port, count)


def stream(peer: ModuleType, port: int, count: int) -> dict[str, float]:
    """Items a second of a `client.stream`, and the bytes the process grew by."""
    return _results(peer.streamed, port, count)


def _results(source: Callable[..., Any], port: int, count: int) -> dict[str, float]:
    before = resident_bytes(os.getpid())
    start = monotonic()
    with source(port, count) as results:
        got = sum(1 for _ in results)
    assert got == count, f"{got} results of {count}"
    return {"rps": count / (monotonic() - start), "grown": resident_bytes(os.getpid()) - before}


Counted = tuple[int, float, float]  # calls, since when, until when


def _count(call: Call, seconds: float) -> Counted:
    start = now = monotonic()
    until = start + seconds
    count = 0
    while now < until:
        call()
        count += 1
        now = monotonic()
    return count, start, now


def _rate(counted: list[Counted]) -> float:
    calls = sum(count for count, _, _ in counted)
    return calls / (max(end for _, _, end in counted) - min(start for _, start, _ in counted))


def _check(answer: Any) -> None:
    assert answer == PARAMS, f"the echo was {answer!r}"


def _threads(made: list[Call], seconds: float) -> list[Counted]:
    ready = threading.Barrier(len(made))
    counted: list[Counted] = []
    wrong: list[BaseException] = []

    def run(call: Call) -> None:
        try:
            _check(call())
            ready.wait(20)
            counted.append(_count(call, seconds))
        except BaseException as exc:
            wrong.append(exc)
            ready.abort()

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in made]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if wrong:
        raise wrong[0]
    return counted


def _greenlets(made: list[Call], seconds: float) -> list[Counted]:
    import gevent

    for answer in _values(gevent.joinall([gevent.spawn(call) for call in made])):
        _check(answer)
    return list(_values(gevent.joinall([gevent.spawn(_count, call, seconds) for call in made])))


def _values(greenlets: Any) -> Iterator[Any]:
    return (each.get() for each in greenlets)
