"""The connections to several hosts in one thread: used in place of the one pool of an address.

A call takes the host that the balancer chooses. If that has no connection with room, one is opened
in the background, and the call takes another host: as long as any host is connected, no call waits
for one that is not.

A choice holds for a few more calls, so few that they make little difference to the load of the
host. Most calls are spared the choice then.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
from gevent.timeout import Timeout

from gtcp.client.connections.connection import Connection
from gtcp.client.hosts.balancer import Balancer, Member
from gtcp.client.hosts.host_pool import HostConnection, HostPool
from gtcp.client.hosts.known import KnownHosts
from gtcp.client.hosts.resolver import Host
from gtcp.client.pool import CLOSED
from gtcp.deadline import earliest
from gtcp.errors import (
    CallTimeout,
    ClientClosed,
    ConnectError,
    GtcpError,
    PoolTimeout,
    Untrusted,
)
from gtcp.protocol.messages import OWN_CMDID, Outgoing, encode_request
from gtcp.transport.address import Address, parse

#: Seconds for an attempt to connect to one host, as long as there are others to try.
ATTEMPT_SECONDS = 1.0

#: Seconds for the ping of an ejected host, with connecting.
PROBE_SECONDS = 1.0

#: For how many more calls a choice holds: the part of the calls in flight on the connection; and
#: the number, if there are none and each call begins after the one before has ended.
HELD_BUSY, HELD_IDLE = 2, 3

#: Seconds without a reply after which the system is asked whether the host still acknowledges.
SILENT_SECONDS = 0.3


class HostGroup:
    """The pools of all hosts in one hub. Has what calls use of a ``Pool``.

    Args:
        known: the hosts.
        make: makes the pool of one address.
    """

    idempotent = False

    def __init__(self, known: KnownHosts, make: Callable[[Address], HostPool]) -> None:
        self.left_to_parent = False
        self.balancer = Balancer()
        self.pools: dict[str, HostPool] = {}
        self._leaving: list[HostPool] = []  # of hosts that are gone, with calls in flight
        self._past: Counter[str] = Counter()
        self._known = known
        self._make = make
        self._version = 0
        self._closed = ""
        self._held: Any = None  # the connection of the last choice
        self._held_busy = False  # whether calls were in flight on it
        self._limit = 0  # calls in flight that a connection may have
        known.start()

    @property
    def connections(self) -> list[Connection]:
        """The open connections to all hosts."""
        return [each for pool in self._all() for each in pool.connections]

    def ready(self, key: str | None = None) -> Connection | None:
        """Like ``Pool.ready``: a connection to the chosen host, or else to another one.

        Args:
            key: pins the call to the host of this key.
        """
        balancer = self.balancer
        if balancer.holds and key is None:
            balancer.holds -= 1
            held: HostConnection = self._held
            if self._held_busy:
                if held.usable and not held.writer.busy and 0 < len(held.waiting) < self._limit:
                    return held
            elif not held.waiting and monotonic() < balancer.look_at and held.pool.ready() is held:
                return held
            balancer.holds = 0
        return self._chosen(monotonic(), key)

    def _chosen(self, now: float, key: str | None) -> Connection | None:
        """Choose a host for this call, and for a few after it."""
        if self._version != self._known.version:
            self._update()
        balancer = self.balancer
        if not balancer.members:
            return None
        member = balancer.choose(now, (), key)
        if now >= balancer.probe_at:
            self._probe(now)
        pool: HostPool = member.pool
        connection: HostConnection | None = pool.ready()  # type: ignore[assignment]
        if connection is not None:
            count = len(connection.waiting)
            if not count:
                connection.watchers = self._watchers(connection)
            elif connection.is_silent(now, SILENT_SECONDS):
                self._leave_silent(pool, connection, now)
                return self._other(member, key, now)
            connection.sample(now)
            if key is None:
                self._held, self._held_busy = connection, count > 0
                balancer.holds = count // HELD_BUSY if count else HELD_IDLE
            return connection
        if key is not None and pool.member.avoid_until <= now:
            return None  # its own host is worth the wait
        return self._other(member, key, now)

    def _watchers(self, connection: Connection) -> int:
        """Return the number of connections, if none but this one may be about to wait; else 1."""
        count = 0
        for pool in self.pools.values():
            for each in pool.connections:
                if each.waiting and each is not connection:
                    return 1
                count += 1
        return count

    def _other(self, member: Member, key: str | None, now: float) -> Connection | None:
        """Return a connection to another host, and open one to the chosen host meanwhile."""
        tried = {member}
        while len(tried) < len(self.balancer.members):
            other = self.balancer.choose(now, tried, key)
            tried.add(other)
            pool: HostPool = other.pool
            connection = pool.ready()
            if connection is not None:
                if not member.ejected:
                    self._open(member.pool)
                connection.watchers = self._watchers(connection)
                return connection
        return None

    def pinned(self, key: str) -> PinnedGroup:
        """Return the group for the calls with this key."""
        return PinnedGroup(self, key)

    def still_ready(self, _connection: Connection) -> bool:
        """Return False: each call of a map is balanced."""
        return False

    def get_for(
        self,
        cmdid: int,
        params: Any,
        deadline: float | None,
        meta: dict[str, str] | None,
        key: str | None = None,
    ) -> Connection:
        """Like ``Pool.get_for``: tries the hosts that have not failed lately, at least one."""
        encode_request(Outgoing(cmdid, params=params, meta=meta))
        if self._closed:
            raise ClientClosed(self._closed)
        self._find_hosts(deadline)
        return self._connected(deadline, key)

    def _connected(self, deadline: float | None, key: str | None) -> Connection:
        balancer, tried, why = self.balancer, set[Member](), ""
        error: GtcpError | None = None
        while True:
            now = monotonic()
            if tried and not balancer.is_any_left(now, tried):
                if not isinstance(error, PoolTimeout):
                    raise ConnectError(f"{self._known.name}: no host could be connected: {why}")
                tried.clear()  # they are full, and there is time left
            if not tried and key is None:
                tried = self._full()
            member = balancer.choose(now, tried, key)
            tried.add(member)
            last = not balancer.is_any_left(now, tried)
            limit = deadline if last else earliest(deadline, now + ATTEMPT_SECONDS)
            try:
                pool: HostPool = member.pool
                return pool.get(limit)
            except (ClientClosed, Untrusted):
                raise
            except (ConnectError, CallTimeout, PoolTimeout) as exc:
                if deadline is not None and monotonic() >= deadline:
                    raise
                error = exc
                if not isinstance(exc, PoolTimeout):
                    balancer.failed(member, monotonic(), connecting=True)
                    why = f"{why}; {exc}" if why else str(exc)

    def _full(self) -> set[Member]:
        """Return the hosts that have no room for a call; none if all are full."""
        full = {each.member for each in self.pools.values() if each.is_full()}
        return set() if len(full) == len(self.pools) else full

    def fill(self, deadline: float | None) -> None:
        """Open ``min_connections`` to each host; raise the error of the last one that fails."""
        self._find_hosts(deadline)
        error: GtcpError | None = None
        for pool in list(self.pools.values()):
            try:
                pool.fill(deadline)
            except (ConnectError, CallTimeout) as exc:
                error = exc
        if error is not None:
            raise error

    def close(self) -> None:
        """Close every connection; calls in flight raise ConnectionLost."""
        self._closed = CLOSED
        for pool in self._all():
            pool.close()

    def shut(self) -> None:
        """Like ``Pool.shut``."""
        self._closed = CLOSED
        for pool in self._all():
            pool.shut()

    def abandon(self, stop_watching: bool) -> None:
        """Like ``Pool.abandon``."""
        for pool in self._all():
            pool.left_to_parent = self.left_to_parent
            pool.abandon(stop_watching)

    def counts(self) -> Counter[str]:
        """Return the sum of the counts of all hosts, including those that are gone."""
        total = Counter(self._past)
        for pool in self._all():
            total.update(pool.counts())
        return total

    def counts_of_hosts(self) -> dict[str, dict[str, int]]:
        """Return the counters of each host that is known now."""
        return {
            address: {
                **pool.counts(),
                "ejected": int(pool.member.ejected),
                "ejections": pool.member.ejections,
            }
            for address, pool in list(self.pools.items())
        }

    def _all(self) -> Iterator[HostPool]:
        yield from list(self.pools.values())
        yield from list(self._leaving)

    # The hosts

    def _find_hosts(self, deadline: float | None) -> None:
        """Take the hosts that are known now; wait for the first ones, if there are none yet."""
        self._known.wait(deadline)
        if self._version != self._known.version:
            self._update()

    def _update(self) -> None:
        """Take the hosts that are known now."""
        version, hosts = self._known.version, self._known.hosts
        members = []
        for host in hosts:
            pool = self.pools.get(host.address)
            if pool is None:
                pool = self.pools[host.address] = self._new(host)
            pool.member.host = host
            members.append(pool.member)
        gone = self.pools.keys() - {each.address for each in hosts}
        for address in gone:
            pool = self.pools.pop(address)
            pool.retire()
            self._leaving.append(pool)
        for pool in [each for each in self._leaving if not each.connections]:
            self._past.update(pool.counts())
            self._leaving.remove(pool)
        self.balancer.set(members)
        self._version = version

    def _new(self, host: Host) -> HostPool:
        pool = self._make(parse(host.address))
        pool.balancer = self.balancer
        pool.member = Member(host, pool.in_flight)
        pool.member.pool = pool
        self._limit = pool.max_in_flight
        return pool

    def _leave_silent(self, pool: HostPool, connection: Connection, now: float) -> None:
        """Send no more calls to a host that does not even acknowledge."""
        connection.usable = False
        self.balancer.failed(pool.member, now, connecting=True)

    # In the background

    def _open(self, pool: HostPool) -> None:
        if not pool.opening:
            pool.opening = True
            gevent.spawn(self._open_now, pool)

    def _open_now(self, pool: HostPool) -> None:
        try:
            pool.get(monotonic() + ATTEMPT_SECONDS)
        except (ConnectError, CallTimeout):
            self.balancer.failed(pool.member, monotonic(), connecting=True)
        except GtcpError:
            pass  # the client is closed, or the host is full
        finally:
            pool.opening = False

    def _probe(self, now: float) -> None:
        for member in self.balancer.to_probe(now):
            gevent.spawn(self._probe_now, member.pool)

    def _probe_now(self, pool: HostPool) -> None:
        """Ping an ejected host."""
        alive = False
        try:
            deadline = monotonic() + PROBE_SECONDS
            with contextlib.suppress(GtcpError, Timeout):
                connection = pool.get(deadline)
                alive = connection.call(OWN_CMDID, None, deadline, None).code == 0
        finally:
            self.balancer.probed(pool.member, monotonic(), alive=alive)


class PinnedGroup:
    """A group whose calls go to the host of one key. For one call."""

    def __init__(self, group: HostGroup, key: str) -> None:
        self._group, self._key = group, key
        self.idempotent = False

    @property
    def left_to_parent(self) -> bool:
        """Return that of the group."""
        return self._group.left_to_parent

    def ready(self) -> Connection | None:
        """Like ``HostGroup.ready``, for the key."""
        return self._group.ready(self._key)

    def get_for(
        self, cmdid: int, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> Connection:
        """Like ``HostGroup.get_for``, for the key."""
        return self._group.get_for(cmdid, params, deadline, meta, self._key)
