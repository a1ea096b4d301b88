"""The choice among hosts, in virtual time."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gtcp.client.hosts.balancer import EJECT_AFTER, LONGEST_PROBE, Balancer, Member
from gtcp.client.hosts.resolver import Host


class Simulated(Member):
    """A host whose calls in flight are a number."""

    def __init__(self, name: str, weight: float = 1.0, priority: int = 0) -> None:
        self.calls = 0
        super().__init__(Host(address=name, weight=weight, priority=priority), lambda: self.calls)


def balancer(*members: Member, seed: int = 1) -> Balancer:
    made = Balancer(random.Random(seed))
    made.set(members)
    return made


def hosts(count: int) -> list[Simulated]:
    return [Simulated(f"host{number}:1") for number in range(count)]


def test_one_host_is_always_chosen() -> None:
    (only,) = members = hosts(1)
    assert balancer(*members).choose(0.0) is only


def test_idle_hosts_get_equal_shares() -> None:
    chosen = balancer(*hosts(10))
    counted = Counter(chosen.choose(0.0).host.address for _ in range(20_000))
    assert max(counted.values()) < 1.15 * 2000
    assert min(counted.values()) > 0.85 * 2000


def test_weights() -> None:
    heavy, light = Simulated("heavy:1", 3.0), Simulated("light:1", 1.0)
    chosen = balancer(heavy, light)
    counted = Counter(chosen.choose(0.0) for _ in range(4000))
    assert counted[heavy] == pytest.approx(3000, rel=0.1)


def test_the_host_with_fewer_calls_in_flight_is_preferred() -> None:
    busy, idle = members = hosts(2)
    busy.calls = 1
    chosen = balancer(*members)
    assert {chosen.choose(0.0) for _ in range(50)} == {idle}


def test_the_host_with_the_best_priority_is_used_while_it_works() -> None:
    first, second = Simulated("first:1", priority=1), Simulated("second:1", priority=2)
    chosen = balancer(first, second)
    assert {chosen.choose(0.0) for _ in range(50)} == {first}
    chosen.failed(first, 0.0, connecting=True)
    assert chosen.choose(0.1) is second


def test_a_slow_host_gets_less_and_small_differences_do_not_count() -> None:
    members = hosts(10)
    chosen = balancer(*members)
    for number, member in enumerate(members):
        for _ in range(100):
            member.took(0.0 - (0.02 if number == 0 else 0.01 + number / 10_000), 0.0)
    counted = Counter(chosen.choose(1.0).host.address for _ in range(20_000))
    assert 0.4 < counted["host0:1"] / 2000 < 0.65
    assert max(counted.values()) < 1.2 * 2000


@pytest.mark.parametrize("position", [0, 20, 39])
def test_one_call_that_takes_long_does_not_make_its_host_slow(position: int) -> None:
    stalled, other = members = hosts(2)
    chosen = balancer(*members)
    for number in range(40):
        stalled.took(-0.1 if number == position else -0.001, 0.0)
        other.took(-0.001, 0.0)
    chosen.choose(0.0)
    assert stalled.capacity == other.capacity == 1.0


def test_a_call_that_takes_no_time_does_no_harm() -> None:
    members = hosts(2)
    chosen = balancer(*members)
    for member in members * 2:
        member.took(0.0, 0.0)
    assert {chosen.choose(0.0) for _ in range(50)} == set(members)


def test_an_old_latency_is_forgotten() -> None:
    slow, fast = members = hosts(2)
    chosen = balancer(*members)
    slow.took(-1.0, 0.0)
    fast.took(-0.1, 0.0)
    chosen.choose(1.0)
    assert slow.capacity < 0.2
    chosen.choose(20.0)
    assert slow.capacity == 1.0


def test_a_failed_host_is_avoided_for_a_moment() -> None:
    bad, good = members = hosts(2)
    chosen = balancer(*members)
    chosen.failed(bad, 0.0)
    assert {chosen.choose(0.1) for _ in range(50)} == {good}
    assert {chosen.choose(1.1) for _ in range(50)} == {bad, good}


def test_failures_in_a_row_eject_and_a_success_between_them_does_not() -> None:
    bad, _ = members = hosts(2)
    chosen = balancer(*members)
    for _ in range(EJECT_AFTER - 1):
        chosen.failed(bad, 0.0)
    bad.answered()
    chosen.failed(bad, 0.0)
    assert not bad.ejected
    for _ in range(EJECT_AFTER):
        chosen.failed(bad, 0.0)
    assert bad.ejected
    assert bad.ejections == 1
    assert {chosen.choose(100.0) for _ in range(50)} == set(members) - {bad}


def test_an_ejected_host_returns_after_a_ping() -> None:
    bad, good = members = hosts(2)
    chosen = balancer(*members)
    chosen.failed(bad, 0.0, connecting=True)
    assert chosen.to_probe(0.0) == []
    now = 0.0
    for _ in range(6):
        now += LONGEST_PROBE
        assert chosen.to_probe(now) == [bad]
        assert chosen.to_probe(now) == []  # it is under way
        chosen.probed(bad, now, alive=False)
    chosen.probed(bad, now, alive=True)
    assert not bad.ejected
    assert {chosen.choose(now + 0.1) for _ in range(50)} == {bad, good}


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_at_most_half_are_ejected(count: int, most: int) -> None:
    members = hosts(count)
    chosen = balancer(*members)
    for member in members:
        chosen.failed(member, 0.0, connecting=True)
    assert sum(each.ejected for each in members) == most
    assert chosen.choose(0.0) in members  # all are avoided: then none is


def test_hosts_that_were_tried_are_left_out() -> None:
    one, two, three = members = hosts(3)
    chosen = balancer(*members)
    assert {chosen.choose(0.0, {one}) for _ in range(50)} == {two, three}
    chosen.failed(three, 0.0, connecting=True)
    assert chosen.choose(0.0, {one, two}) is three  # the last resort


def test_a_key_stays_with_its_host() -> None:
    members = hosts(5)
    chosen = balancer(*members)
    keys = [f"user:{number}" for number in range(500)]
    homes = {key: chosen.pinned(key, 0.0) for key in keys}
    assert {chosen.pinned(key, 1.0) is homes[key] for key in keys} == {True}
    assert min(Counter(homes.values()).values()) > 60
    gone = members[0]
    chosen.failed(gone, 1.0, connecting=True)
    moved = [key for key in keys if chosen.pinned(key, 1.0) is not homes[key]]
    assert {homes[key] for key in moved} == {gone}
    assert chosen.pinned(moved[0], 1.0, set(members) - {gone}) is gone


def test_a_key_prefers_hosts_with_weight() -> None:
    heavy, light = Simulated("heavy:1", 4.0), Simulated("light:1", 1.0)
    chosen = balancer(heavy, light)
    counted = Counter(chosen.pinned(f"user:{number}", 0.0) for number in range(2000))
    assert counted[heavy] == pytest.approx(1600, rel=0.1)


def test_it_says_which_host_it_is() -> None:
    assert repr(hosts(1)[0]) == "<Member host0:1 ejected=False>"
