"""200 clients and 200 servers in virtual time, with the real balancer and retry budget."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gtcp.client.hosts.balancer import Balancer, Member
from gtcp.client.hosts.resolver import Host
from gtcp.client.retry import Retry
from gtcp.errors import ConnectError, GtcpError

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

SERVICE_SECONDS = 0.005
SLOTS = 4


class World:
    """Virtual time, and what happens in it."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self._events: list[Any] = []
        self._count = itertools.count()

    def after(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), function, args))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, function, args = heapq.heappop(self._events)
            function(*args)
        self.now = until


class Server:
    """Handles a few calls at a time; the others wait."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.up, self.slowness, self.busy = True, 1.0, 0
        self.handled = 0
        self._queue: list[Callable[[], None]] = []

    def call(self, done: Callable[[], None]) -> None:
        self.handled += 1
        if self.busy >= SLOTS:
            self._queue.append(done)
        else:
            self._handle(done)

    def _handle(self, done: Callable[[], None]) -> None:
        self.busy += 1
        seconds = self.world.chance.expovariate(1 / (SERVICE_SECONDS * self.slowness))
        self.world.after(seconds, self._end, done)

    def _end(self, done: Callable[[], None]) -> None:
        self.busy -= 1
        done()
        if self._queue:
            self._handle(self._queue.pop(0))


class Simulated(Member):
    def __init__(self, server: Server) -> None:
        self.server, self.calls = server, 0
        super().__init__(Host(address=f"{server.name}:1"), lambda: self.calls)


class Client:
    """Calls at random times, and retries as a gtcp client does."""

    def __init__(
        self, world: World, servers: list[Server], rate: float, told: Counter[str]
    ) -> None:
        self.world, self.rate, self.told = world, rate, told
        self.balancer = Balancer(random.Random(world.chance.random()))
        self.balancer.set([Simulated(each) for each in servers])
        self.retry = Retry(3, lambda: world.now)
        world.after(world.chance.expovariate(rate), self.begin)

    def begin(self) -> None:
        self.world.after(self.world.chance.expovariate(self.rate), self.begin)
        self.told["calls"] += 1
        self.attempt(1)

    def attempt(self, number: int) -> None:
        now = self.world.now
        for each in self.balancer.to_probe(now):
            assert isinstance(each, Simulated)
            self.balancer.probed(each, now, alive=each.server.up)
        tried: set[Member] = set()
        while True:
            self.told["attempts"] += 1
            member = self.balancer.choose(now, tried)
            assert isinstance(member, Simulated)
            if member.server.up:
                break
            tried.add(member)
            self.balancer.failed(member, now, connecting=True)
            if not self.balancer.is_any_left(now, tried):
                self.failed(ConnectError("refused"), number)
                return
        member.calls += 1
        member.server.call(lambda: self.ended(member, now))

    def ended(self, member: Simulated, started: float) -> None:
        member.calls -= 1
        member.answered()
        member.took(started, self.world.now)
        self.told["answered"] += 1

    def failed(self, error: GtcpError, number: int) -> None:
        try:
            pause = self.retry.pause_or_raise(error, number, False, None)
        except GtcpError:
            self.told["failed"] += 1
        else:
            self.world.after(pause, self.attempt, number + 1)


def simulate(seed: int, rate: float, hosts: int = 200) -> tuple[World, list[Server], Counter[str]]:
    world, told = World(seed), Counter[str]()
    servers = [Server(world, f"server{number}") for number in range(hosts)]
    for _ in range(200):
        Client(world, servers, rate, told)
    return world, servers, told


def test_the_load_is_spread() -> None:
    world, servers, told = simulate(1, 40)
    world.run(2.0)
    mean = sum(each.handled for each in servers) / len(servers)
    assert max(each.handled for each in servers) < 1.5 * mean  # 80 calls each, at random
    assert told["failed"] == 0


def test_slow_servers_get_less_and_the_others_do_not_suffer() -> None:
    world, servers, told = simulate(2, 40)
    slow, fast = servers[:20], servers[20:]
    for each in slow:
        each.slowness = 10.0
    world.run(2.0)
    before = {each: each.handled for each in servers}
    world.run(3.5)
    handled = [sum(each.handled - before[each] for each in group) for group in (slow, fast)]
    assert handled[0] / len(slow) < 0.65 * handled[1] / len(fast)
    assert told["failed"] == 0


def test_restarts_in_sequence_fail_no_call_and_leave_no_storm() -> None:
    world, servers, told = simulate(3, 20)

    def restart(number: int) -> None:
        servers[number].up = False
        world.after(0.5, setattr, servers[number], "up", True)

    for number in range(len(servers)):
        world.after(0.5 + number * 0.02, restart, number)
    world.run(5.5)
    assert told["failed"] == 0
    assert told["attempts"] < 1.3 * told["calls"]
    before = Counter(told)
    world.run(6.5)
    assert told["attempts"] - before["attempts"] < 1.02 * (told["calls"] - before["calls"])


def test_the_retry_budget_bounds_an_outage_of_all() -> None:
    world, servers, told = simulate(4, 20, 10)
    world.run(0.5)
    for each in servers:
        each.up = False
    before = Counter(told)
    world.run(6.5)
    calls = told["calls"] - before["calls"]
    # For each client and its 20 calls a second: 100 retries at once and 10 a second, and about
    # 13 a second to the hosts whose last failure is a moment ago.
    assert told["attempts"] - before["attempts"] < 3.4 * calls
    for each in servers:
        each.up = True
    world.run(8.0)
    before = Counter(told)
    world.run(9.0)
    assert told["attempts"] - before["attempts"] < 1.05 * (told["calls"] - before["calls"])
    assert told["failed"] == before["failed"]
