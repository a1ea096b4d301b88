"""A call that calls: deadlines and cancellation go from hop to hop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic
from typing import Any

import gevent
import pytest

import gtcp
from tests.helpers import Serving, eventually, serving

PASS_ON, DETACHED, QUICK = 1, 2, 3


class Chain:
    """Three servers; each passes a call on to the next, the last one waits.

    Attributes:
        began: the hops whose handler has begun.
        ended: for each hop whose handler was stopped, by what and when.
        left: what each hop's request had left when it began.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.began: list[int] = []
        self.ended: dict[int, tuple[str, float]] = {}
        self.left: dict[int, float | None] = {}
        following = ""
        for hop in (3, 2, 1):
            server: Serving = stack.enter_context(serving(self._commands(hop, following)))
            following = server.address
        self.client = stack.enter_context(gtcp.Client(following))

    def _commands(self, hop: int, following: str) -> gtcp.Commands:
        commands = gtcp.Commands()

        @commands.handler(PASS_ON)
        def pass_on(request: gtcp.Request) -> Any:
            self.left[hop] = request.remaining()
            self.began.append(hop)
            try:
                if hop == 3:
                    gevent.sleep(request.params["seconds"])
                    return "done"
                with gtcp.Client(following) as client:
                    return client.call(PASS_ON, request.params)
            except BaseException as exc:
                self.ended[hop] = type(exc).__name__, monotonic()
                raise

        return commands


@pytest.fixture
def chain() -> Iterator[Chain]:
    with ExitStack() as stack:
        yield Chain(stack)


def test_a_call_goes_through_three_hops(chain: Chain) -> None:
    assert chain.client.call(PASS_ON, {"seconds": 0}) == "done"


def test_every_hop_has_less_time_left_than_the_one_before(chain: Chain) -> None:
    chain.client.call(PASS_ON, {"seconds": 0}, timeout=5)
    first, second, third = (chain.left[hop] for hop in (1, 2, 3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert 5 >= first >= second >= third > 0


def test_the_innermost_handler_stops_when_the_outermost_budget_ends(chain: Chain) -> None:
    started = monotonic()
    with pytest.raises(gtcp.CallTimeout):
        chain.client.call(PASS_ON, {"seconds": 60}, timeout=0.4)
    eventually(lambda: set(chain.ended) == {1, 2, 3})
    assert all(0.3 < when - started < 10 for _, when in chain.ended.values())
    assert chain.ended[3][0] == "Cancelled"


def test_a_killed_caller_cancels_hop_by_hop(chain: Chain) -> None:
    call = gevent.spawn(chain.client.call, PASS_ON, {"seconds": 60})
    while chain.began != [1, 2, 3]:
        gevent.sleep(0.002)
    call.kill()
    eventually(lambda: gevent.sleep(0.002) or set(chain.ended) == {1, 2, 3})
    assert {name for name, _ in chain.ended.values()} == {"Cancelled"}


def test_a_caller_that_closes_cancels_hop_by_hop(chain: Chain) -> None:
    call = gevent.spawn(chain.client.call, PASS_ON, {"seconds": 60})
    while chain.began != [1, 2, 3]:
        gevent.sleep(0.002)
    chain.client.close()
    with pytest.raises(gtcp.ConnectionLost):
        call.get()
    eventually(lambda: set(chain.ended) == {1, 2, 3})


def test_a_detached_call_has_a_time_of_its_own() -> None:
    inner, outer = gtcp.Commands(), gtcp.Commands()
    left: list[float | None] = []

    @inner.handler(QUICK)
    def quick(request: gtcp.Request) -> None:
        left.append(request.remaining())

    with serving(inner) as last:

        @outer.handler(DETACHED)
        def detached(request: gtcp.Request) -> None:
            with gtcp.Client(last.address) as client:
                client.call(QUICK, timeout=50)
                client.call(QUICK, timeout=50, detach=True)
                client.call(QUICK, timeout=1)

        with serving(outer) as first, gtcp.Client(first.address) as client:
            client.call(DETACHED, timeout=5)
    inherited, own, less = left
    assert inherited is not None
    assert own is not None
    assert less is not None
    assert inherited <= 5 < own <= 50
    assert less <= 1
