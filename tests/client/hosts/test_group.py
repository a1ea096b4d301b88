"""One client and several real servers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from math import inf
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.client.hosts import balancer, known
from gtcp.client.hosts.host_pool import MAX_SAMPLES
from gtcp.testing import FaultProxy
from tests.helpers import Serving, eventually, free_port, in_fork, serving


def commands(name: str, seconds: float = 0.0) -> gtcp.Commands:
    """Commands that answer with the name of their host."""
    table = gtcp.Commands()

    @table.handler(1)
    def who(_request: gtcp.Request) -> str:
        if seconds:
            gevent.sleep(seconds)
        return name

    @table.handler(2)
    def numbers(_request: gtcp.Request) -> Iterator[str]:
        for _ in range(3):
            yield name

    @table.handler(3)
    def nap(request: gtcp.Request) -> str:
        gevent.sleep(request.params["seconds"])
        return name

    return table


class Service:
    """Hosts, and a client of all of them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.hosts: list[Serving] = []

    def add(self, count: int = 1, seconds: float = 0.0, **settings: Any) -> Serving:
        for _ in range(count):
            table = commands(f"host{len(self.hosts)}", seconds)
            self.hosts.append(self._stack.enter_context(serving(table, **settings)))
        return self.hosts[-1]

    def client(self, **options: Any) -> gtcp.Client:
        addresses = [each.address for each in self.hosts]
        return self._stack.enter_context(gtcp.Client(addresses, **options))


@pytest.fixture
def service() -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(stack)


def shares(client: gtcp.Client, calls: int, greenlets: int = 10) -> Counter[str]:
    """Call as many times, from several greenlets; return how often each host answered."""
    counted: Counter[str] = Counter()

    def call() -> None:
        for _ in range(calls // greenlets):
            counted[client.call(1)] += 1

    gevent.joinall([gevent.spawn(call) for _ in range(greenlets)], raise_error=True)
    return counted


@pytest.fixture
def equally_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the balancer take all hosts for equally fast, however busy the machine is."""
    monkeypatch.setattr(balancer, "EQUAL", inf)


@pytest.mark.usefixtures("equally_fast")
def test_calls_are_spread_evenly(service: Service) -> None:
    service.add(5, 0.001)
    counted = shares(service.client(), 2000)
    assert max(counted.values()) < 1.25 * 400
    assert len(counted) == 5


@pytest.mark.usefixtures("equally_fast")
def test_calls_one_after_another_stay_on_a_host_for_a_few(service: Service) -> None:
    service.add(2)
    client = service.client()
    client.connect()
    names = [client.call(1) for _ in range(400)]
    changes = sum(one != other for one, other in pairwise(names))
    assert 10 < changes < 200
    assert min(Counter(names).values()) > 100


def test_a_host_with_a_call_in_flight_is_not_kept(service: Service) -> None:
    service.add(2)
    client = service.client()
    client.connect()
    for _ in range(10):
        slow = gevent.spawn(client.call, 3, {"seconds": 0.02})
        gevent.idle()
        others = {client.call(1) for _ in range(3)}
        assert others.isdisjoint({slow.get()})


@pytest.mark.usefixtures("equally_fast")
def test_a_call_with_a_key_keeps_no_host_for_others(service: Service) -> None:
    service.add(2)
    client = service.client()
    client.connect()
    counted: Counter[str] = Counter()
    for _ in range(200):
        client.call(1, hash_key="x")
        counted[client.call(1)] += 1
    assert min(counted.values()) > 50


def test_latencies_of_calls_without_a_reply_are_given_up(service: Service) -> None:
    service.add(2)
    client = service.client()
    client.connect()
    for _ in range(2000):
        client.notify(1)
    connections: list[Any] = list(client._pools.here().connections)
    assert max(len(each._samples) for each in connections) <= MAX_SAMPLES
    client.call(1)


def test_a_host_that_is_half_as_fast_gets_about_half(service: Service) -> None:
    service.add(4, 0.01)
    service.add(1, 0.02)
    client = service.client()
    shares(client, 300)
    counted = shares(client, 1500, 20)
    assert 0.3 < counted["host4"] / (counted.total() / 5) < 0.75


def test_a_map_and_streams_learn_which_host_is_slow(service: Service) -> None:
    service.add(2, 0.01)
    service.add(1, 0.1)
    client = service.client(min_connections=1)
    counted = Counter(client.map(1, [None] * 600, window=24, ordered=False))
    assert counted["host2"] < 100  # a third would be 200


def test_a_host_whose_streams_fail_is_ejected(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancer, "AVOID_SECONDS", 0.01)
    service.add(3)
    with FaultProxy(service.hosts[2].address) as proxy:
        addresses = [*(each.address for each in service.hosts[:2]), proxy.address]
        with gtcp.Client(addresses, retries=0) as client:
            client.connect()
            proxy.set(silent=True)
            failed = 0
            while not client.stats()["hosts"][proxy.address]["ejected"]:
                try:
                    list(client.stream(2, timeout=0.2))
                except gtcp.CallTimeout:
                    failed += 1
            assert failed >= balancer.EJECT_AFTER
            assert client.stats()["hosts"][addresses[0]]["ejected"] == 0


def test_everything_that_calls(service: Service) -> None:
    service.add(2)
    client = service.client()
    client.connect()
    assert client.stats()["connections"] == 2
    names = {"host0", "host1"}
    assert set(client.map(1, [{}] * 50)) == names
    assert {client.call("who") for _ in range(50)} == names
    assert {next(iter(client.stream(2))) for _ in range(50)} == names
    assert len(list(client.stream("numbers", hash_key="a"))) == 3
    client.notify(1)
    assert str(client.address) == ",".join(each.address for each in service.hosts)


def test_a_key_stays_with_its_host(service: Service) -> None:
    service.add(3)
    client = service.client()
    homes = {key: client.call(1, hash_key=key) for key in map(str, range(30))}
    assert set(homes.values()) == {"host0", "host1", "host2"}
    for key, home in homes.items():
        assert client.call("who", hash_key=key) == home
        assert next(iter(client.stream(2, hash_key=key))) == home
        client.notify(1, hash_key=key)
    service.hosts[0].stop()
    moved = {key: client.call(1, hash_key=key) for key in homes}
    assert {key for key in homes if moved[key] != homes[key]} == {
        key for key, home in homes.items() if home == "host0"
    }


def test_a_key_with_one_host_changes_nothing(service: Service) -> None:
    address = service.add().address
    with gtcp.Client(address) as client:
        assert client.call(1, hash_key="a") == "host0"
        assert "hosts" not in client.stats()
        with pytest.raises(TypeError, match="hash_key"):
            client.call(1, hash_key=3)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="hash_key"):
            client.stream(2, hash_key=3)  # type: ignore[call-overload]


def test_counters_of_each_host(service: Service) -> None:
    service.add(2)
    client = service.client()
    shares(client, 100)
    stats = client.stats()
    assert list(stats["hosts"]) == [each.address for each in service.hosts]
    each = stats["hosts"][service.hosts[0].address]
    assert each["connections"] == 1
    assert each["ejected"] == each["ejections"] == 0
    assert stats["sent"] == sum(host["sent"] for host in stats["hosts"].values())


def test_a_drain_under_load_fails_no_call(service: Service) -> None:
    service.add(3, 0.002)
    client = service.client()
    counted: Counter[str] = Counter()
    problems: list[str] = []
    going_on = True

    def call() -> None:
        while going_on:
            try:
                counted[client.call(1)] += 1
            except gtcp.GtcpError as exc:
                problems.append(f"{exc.executed} {exc}")

    callers = [gevent.spawn(call) for _ in range(20)]
    try:
        gevent.sleep(0.2)
        leaving = service.hosts[1]
        address = leaving.address
        leaving.start_stopping()
        gevent.sleep(0.5)
        counted.clear()
        eventually(lambda: gevent.sleep(0.01) or counted.total() > 100)
        assert set(counted) == {"host0", "host2"}
        eventually(lambda: gevent.sleep(0.01) or client.stats()["hosts"][address]["ejected"])
    finally:
        going_on = False
        gevent.joinall(callers)
    assert problems == []


def test_a_host_that_is_back_takes_calls_within_a_second_or_two(service: Service) -> None:
    service.add(2)
    client = service.client()
    shares(client, 20)
    port = int(service.hosts[1].address.rpartition(":")[2])
    service.hosts[1].stop()
    assert set(shares(client, 40)) == {"host0"}
    service.add(port=port)
    eventually(lambda: "host2" in shares(client, 20), 5.0)


def test_only_what_was_in_flight_on_a_killed_host_is_uncertain(service: Service) -> None:
    service.add(2)
    with FaultProxy(service.hosts[1].address) as proxy:
        addresses = [service.hosts[0].address, proxy.address]
        with gtcp.Client(addresses) as client:
            client.connect()

            def call() -> str:
                try:
                    return str(client.call(3, {"seconds": 1.0}))
                except gtcp.ConnectionLost as exc:
                    return exc.executed

            callers = [gevent.spawn(call) for _ in range(20)]
            eventually(lambda: gevent.sleep(0.01) or client.stats()["in_flight"] == 20)
            gevent.sleep(0.1)  # and sent
            proxy.set(refuse=True)
            proxy.reset()
            told = Counter(each.get() for each in callers)
            assert told["maybe"] + told["host0"] == 20
            assert 5 <= told["maybe"] <= 15
            assert set(shares(client, 40)) == {"host0"}


def test_calls_go_elsewhere_when_a_host_does_not_answer(service: Service) -> None:
    service.add(2)
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(service.hosts[1].address))
        addresses = [service.hosts[0].address, proxy.address]
        with gtcp.Client(addresses, timeout=0.3) as client:
            client.connect()
            proxy.set(silent=True)
            told: Counter[str] = Counter()

            def call() -> None:
                for _ in range(10):
                    try:
                        told[client.call(1)] += 1
                    except gtcp.CallTimeout as exc:
                        told[exc.executed] += 1

            gevent.joinall([gevent.spawn(call) for _ in range(10)])
            assert told["maybe"] <= 20
            told.clear()
            gevent.joinall([gevent.spawn(call) for _ in range(10)])
            assert told["host0"] >= 95


def test_hosts_that_can_not_be_reached_are_passed_over(service: Service) -> None:
    service.add(1)
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    with gtcp.Client([*dead, service.hosts[0].address], retries=0) as client:
        assert {client.call(1) for _ in range(20)} == {"host0"}
        with pytest.raises(gtcp.ConnectError):
            client.connect()
    with gtcp.Client(dead, retries=0) as client:
        with pytest.raises(gtcp.ConnectError, match=r"no host could be connected: .*refused.*; "):
            client.call(1)
        with pytest.raises((gtcp.CallTimeout, gtcp.ConnectError)):
            client.call(1, timeout=0)


def test_full_hosts_are_a_pool_timeout(service: Service) -> None:
    service.add(2)
    client = service.client(max_connections=1, max_in_flight=1, retries=0)
    napping = [gevent.spawn(client.call, 3, {"seconds": 1.0}) for _ in range(2)]
    gevent.sleep(0.1)
    with pytest.raises(gtcp.PoolTimeout):
        client.call(1, timeout=0.1)
    assert {each.get() for each in napping} == {"host0", "host1"}


def test_a_closed_client_says_so(service: Service) -> None:
    service.add(2)
    client = service.client()
    client.call(1)
    client.close()
    with pytest.raises(gtcp.ConnectError, match="closed"):
        client.call(1)


def test_threads_and_forked_processes_have_connections_of_their_own(service: Service) -> None:
    service.add(2)
    client = service.client()
    assert client.call(1)
    told: list[Counter[str]] = []
    thread = threading.Thread(target=lambda: told.append(shares(client, 40)))
    thread.start()
    thread.join()
    assert sum(told[0].values()) == 40
    assert in_fork(lambda: set(shares(client, 40)) == {"host0", "host1"}) == 0
    assert sum(shares(client, 20).values()) == 20
    client.close()


class Changing:
    """A resolver whose answer the test sets."""

    ttl = 0.01

    def __init__(self, *answer: Any) -> None:
        self.answer: Any = answer
        self.asked = 0
        self.closed = False

    def resolve(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(known, "CLOSE_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_resolver_of_ones_own(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.add(3)
    one, two, three = (each.address for each in service.hosts)
    resolver = Changing(one, gtcp.Host(address=two, weight=2.0))
    with gtcp.Client(resolver) as client:
        assert set(shares(client, 60)) == {"host0", "host1"}
        resolver.answer = [two, three]
        eventually(lambda: set(shares(client, 60)) == {"host1", "host2"})
        assert client.stats()["connections"] == 2
        for answer in (OSError("no\nnetwork"), [], ["a b"], 3):
            resolver.answer = answer
            eventually(lambda: "kept" in caplog.text)
            assert set(shares(client, 60)) == {"host1", "host2"}
            assert caplog.text.count("the 2 known hosts are kept") == 1
            caplog.clear()
            asked = resolver.asked
            eventually(lambda asked=asked: resolver.asked > asked)
    eventually(lambda: resolver.closed)


@pytest.mark.usefixtures("impatient")
def test_a_resolver_that_fails_at_first(service: Service) -> None:
    service.add(1)
    resolver = Changing()
    resolver.answer = LookupError("the directory is closed")
    with gtcp.Client(resolver, retries=0) as client:
        with pytest.raises(gtcp.ConnectError, match=r"Changing: the directory is closed") as caught:
            client.call(1, timeout=2)
        assert caught.value.executed == "no"
        resolver.answer = [service.hosts[0].address]
        eventually(lambda: client_answers(client))


def client_answers(client: gtcp.Client) -> bool:
    try:
        return bool(client.call(1) == "host0")
    except gtcp.ConnectError:
        return False


def test_a_resolver_that_hangs_at_first() -> None:
    class Hanging:
        def resolve(self) -> list[str]:
            gevent.sleep(60)
            return []

    with gtcp.Client(Hanging()) as client:
        with pytest.raises(gtcp.ConnectError, match="Hanging: no hosts were found in time"):
            client.call(1, timeout=0.1)
        with pytest.raises(gtcp.ConnectError):
            client.connect(timeout=0.1)
