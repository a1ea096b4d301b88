"""Which host gets the next call, and which hosts get none for a while.

**Choice.** Two different hosts are drawn, with chances in proportion to their weight and speed; the
one with fewer calls in flight for its weight and speed gets the call (the power of two choices).
The speed of a host is how its recent latency compares with the median of all; small differences
do not count, so that equal hosts get equal shares.

**Ejection.** A host that can't be connected to, or whose calls failed several times in a row, is
ejected: it gets no calls until a ping succeeds. At most half of the hosts are ejected. A host
whose last call failed, or that goes away, is avoided for a short time.

No sockets, no clock of its own: the simulation in tests runs it in virtual time.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import blake2b
from itertools import accumulate
from math import exp, inf, log
from typing import Any

from gtcp.client.hosts.resolver import Host
from gtcp.jitter import uniform

#: Failed calls in a row after which a host is ejected.
EJECT_AFTER = 5

#: Seconds for which a host is avoided after a failed call, or when it goes away.
AVOID_SECONDS = 1.0

#: Seconds until an ejected host is pinged: jittered, doubled each time up to the second.
FIRST_PROBE, LONGEST_PROBE = 0.25, 0.9

#: Latencies that the average counts at most: a new one is at least one 32nd of it.
MOST_SAMPLES = 32

#: Seconds that a call is taken to need at least: 0 has no logarithm.
SHORTEST = 1e-6

#: Latencies that differ from the median by less than this factor count as equal.
EQUAL = 1.3

#: The least and the greatest speed, where 1 is that of the median.
SLOWEST, FASTEST = 0.1, 4.0

#: Seconds between two looks at the latencies, and after which a latency is forgotten.
LOOK_SECONDS, FORGET_SECONDS = 0.25, 10.0


class Member:
    """One host as the balancer sees it.

    Args:
        host: its address, weight and priority.
        in_flight: returns its calls in flight.

    Attributes:
        samples: latencies that were measured, up to ``MOST_SAMPLES``; 0 if none is known.
        latency: average of the logarithms of the seconds that recent calls took: their geometric
            mean. One that takes a hundred times as long raises that by a sixth; the arithmetic
            mean would rise fourfold.
        ejected: whether it gets no calls until a ping succeeds.
        ejections: how often it was ejected.
        probe_at: when an ejected one should be pinged.
        pool: its connections.
        avoid_until: when it may get calls again, if there are others.
    """

    __slots__ = (
        "avoid_until",
        "capacity",
        "ejected",
        "ejections",
        "failures",
        "host",
        "in_flight",
        "latency",
        "measured_at",
        "pool",
        "probe_at",
        "probes",
        "samples",
    )

    def __init__(self, host: Host, in_flight: Callable[[], int]) -> None:
        self.host = host
        self.pool: Any = None
        self.in_flight = in_flight
        self.latency = 0.0
        self.samples = 0
        self.measured_at = -inf
        self.failures = 0
        self.ejected = False
        self.ejections = 0
        self.probes = 0
        self.probe_at = inf
        self.avoid_until = -inf
        self.capacity = host.weight  # weight times speed

    def answered(self) -> None:
        """Take note of a call that was answered."""
        self.failures = 0

    def took(self, started: float | None, now: float) -> None:
        """Take note of how long a call took, whatever its outcome; of nothing if that is None."""
        if started is None:
            return
        if self.samples < MOST_SAMPLES:
            self.samples += 1
        self.latency += (log(max(now - started, SHORTEST)) - self.latency) / self.samples
        self.measured_at = now

    def __repr__(self) -> str:
        return f"<Member {self.host.address} ejected={self.ejected}>"


class Balancer:
    """Chooses among hosts. Not thread-safe: each thread has one.

    Args:
        generator: makes the random numbers.

    Attributes:
        members: the hosts.
        probe_at: when the next ejected host should be pinged.
        look_at: when to look at the latencies again: at once, if a host fails, leaves or comes.
        holds: for so many more calls the last choice may hold; 0 after such a change.
    """

    def __init__(self, generator: random.Random | None = None) -> None:
        self.members: list[Member] = []
        self.probe_at = inf
        self._random = (generator or random.Random(uniform(0, 1))).random
        self._usable: list[Member] = []
        self._sums: list[float] = []
        self._pairs = 0  # ordered pairs of usable hosts, if there are several and all are equal
        self.look_at = -inf
        self.holds = 0

    def set(self, members: Iterable[Member]) -> None:
        """Replace the hosts."""
        self.members = list(members)
        self._change()

    def choose(
        self, now: float, without: Collection[Member] = (), key: str | None = None
    ) -> Member:
        """Return the host for the next call.

        Args:
            now: monotonic seconds.
            without: hosts that were tried already; there must be others.
            key: the key that the call is pinned to, if it is; see ``pinned``.
        """
        if key is not None:
            return self.pinned(key, now, without)
        if now >= self.look_at:
            self._look(now)
        usable, sums = self._usable, self._sums
        if self._pairs and not without:  # all are equal
            if len(usable) == 2:
                one, other = usable
            else:
                first, second = divmod(int(self._random() * self._pairs), len(usable) - 1)
                one, other = usable[first], usable[second + (second >= first)]
            load, others = one.in_flight(), other.in_flight()
            if load == others:
                return self._longer_unused(one, other)
            return one if load < others else other
        if without:
            usable = [each for each in usable if each not in without]
            usable = usable or [each for each in self.members if each not in without]
            sums = list(accumulate(each.capacity for each in usable))
        if len(usable) == 1:
            return usable[0]
        total = sums[-1]
        first = bisect(sums, self._random() * total)
        second = bisect(sums, self._random() * total)
        if first == second:
            second = (first + 1 + int(self._random() * (len(usable) - 1))) % len(usable)
        one, other = usable[first], usable[second]
        if one.in_flight() * other.capacity <= other.in_flight() * one.capacity:
            return one
        return other

    def _longer_unused(self, one: Member, other: Member) -> Member:
        if one.measured_at == other.measured_at:  # neither has been used
            return one if self._random() < 0.5 else other
        return one if one.measured_at < other.measured_at else other

    def pinned(self, key: str, now: float, without: Collection[Member] = ()) -> Member:
        """Return the host of a key: always the same one, as long as it is usable.

        By rendezvous hashing: a host that leaves or comes changes the hosts of its own keys only.
        """
        candidates = [each for each in self.members if not each.ejected and each not in without]
        candidates = candidates or [each for each in self.members if each not in without]

        def score(member: Member) -> float:
            text = f"{member.host.address} {key}".encode()
            number = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
            return -member.host.weight / log((number + 1) / (2**64 + 2))

        lowest = min(each.host.priority for each in candidates)
        return max((each for each in candidates if each.host.priority == lowest), key=score)

    def is_any_left(self, now: float, tried: Collection[Member]) -> bool:
        """Return whether there are hosts that were not tried and have not failed lately."""
        return any(
            not each.ejected and each.avoid_until <= now and each not in tried
            for each in self.members
        )

    # Outcomes

    def failed(self, member: Member, now: float, *, connecting: bool = False) -> None:
        """Take note of a call that got no answer, or of a connection that could not be opened."""
        member.failures += 1
        self.avoid(member, now)
        if connecting or member.failures >= EJECT_AFTER:
            self._eject(member, now)

    def avoid(self, member: Member, now: float) -> None:
        """Use other hosts for a short time, for example since this one is about to stop."""
        member.avoid_until = now + AVOID_SECONDS * uniform(0.5, 1)
        self._change()

    def probed(self, member: Member, now: float, *, alive: bool) -> None:
        """Take note of the outcome of a ping of an ejected host."""
        if alive:
            member.ejected = False
            member.probe_at = inf
            member.failures = member.probes = 0
            member.avoid_until = member.measured_at = -inf
            member.samples = 0
            self._change()
        else:
            self._probe_later(member, now)

    def to_probe(self, now: float) -> list[Member]:
        """Return the ejected hosts that should be pinged now; each once."""
        due = [each for each in self.members if each.ejected and each.probe_at <= now]
        for each in due:
            each.probe_at = inf
        self.probe_at = min((each.probe_at for each in self.members), default=inf)
        return due

    def _eject(self, member: Member, now: float) -> None:
        ejected = sum(each.ejected for each in self.members)
        if member.ejected or (ejected + 1) * 2 > len(self.members):
            return
        member.ejected = True
        member.ejections += 1
        self._probe_later(member, now)

    def _probe_later(self, member: Member, now: float) -> None:
        longest = min(LONGEST_PROBE, FIRST_PROBE * 2**member.probes)
        member.probes += 1
        member.probe_at = now + uniform(longest / 2, longest)
        self.probe_at = min(self.probe_at, member.probe_at)

    # Which are usable, and how fast they are

    def _change(self) -> None:
        self.look_at = -inf
        self.holds = 0

    def _look(self, now: float) -> None:
        members = self.members
        usable = [each for each in members if not each.ejected and each.avoid_until <= now]
        usable = usable or [each for each in members if not each.ejected] or members
        lowest = min(each.host.priority for each in usable)
        usable = [each for each in usable if each.host.priority == lowest]
        self._set_capacities(usable, now)
        self._usable = usable
        self._sums = list(accumulate(each.capacity for each in usable))
        equal = len({each.capacity for each in usable}) == 1
        self._pairs = len(usable) * (len(usable) - 1) if equal else 0
        avoided = [each.avoid_until for each in members if each.avoid_until > now]
        self.look_at = min(now + LOOK_SECONDS, *avoided, inf)

    @staticmethod
    def _set_capacities(members: Sequence[Member], now: float) -> None:
        known = []
        for each in members:
            if each.measured_at < now - FORGET_SECONDS:
                each.samples = 0
            if each.samples:
                known.append(each.latency)
        middle = sorted(known)[(len(known) - 1) // 2] if known else 0.0
        for each in members:
            speed = exp(middle - each.latency) if each.samples else 1.0
            if 1 / EQUAL <= speed <= EQUAL:
                speed = 1.0
            each.capacity = each.host.weight * min(FASTEST, max(SLOWEST, speed))
