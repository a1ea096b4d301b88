"""Hosts with a network of their own: namespaces, each with a link and an address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest

import gtcp
from tests.helpers import PATIENCE, eventually

APP = """
import os
import time

import gtcp

server = gtcp.Server()


@server.handler(1)
def who(request):
    with open(request.params["id"], "x"):  # fails if the call has run before
        time.sleep(0.002)
    return os.environ["HOST"]


@server.handler(2)
def wait(request):
    time.sleep(request.params["seconds"])
    return os.environ["HOST"]
"""

PORT = 8889


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def may_make_namespaces() -> bool:
    name = f"gtcp{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        ip("link", "del", name)
        ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


pytestmark = pytest.mark.programs


class Host:
    """A namespace with one server in it.

    Attributes:
        address: of the server.
        process: the server's.
    """

    def __init__(self, number: int, folder: Path, stack: ExitStack) -> None:
        process = os.getpid()  # other tests may run at the same time
        self.name = f"gtcp{process}-{number}"
        network = f"10.{200 + process // 64 % 50}.{process % 64 * 4 + number}"
        self._here, inside = f"{network}.1", f"{network}.2"
        self.address = f"{inside}:{PORT}"
        ip("netns", "add", self.name)
        stack.callback(ip, "netns", "del", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        # A namespace, and the link in it, may last as long as its closed connections.
        stack.callback(ip, "link", "del", self.name)
        ip("address", "add", f"{self._here}/30", "dev", self.name)
        ip("link", "set", self.name, "up")
        ip("-n", self.name, "address", "add", f"{inside}/30", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.name, sys.executable, "-m", "gtcp"),
                *("serve", "app", "--bind", self.address, "--insecure"),
            ],
            cwd=folder,
            env={**os.environ, "HOST": self.name},
            stderr=subprocess.DEVNULL,
        )
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)

    def drop_packets(self) -> None:
        """Have what the host sends disappear; nothing tells the other side."""
        ip("-n", self.name, "route", "add", "blackhole", f"{self._here}/32")

    def answers(self) -> bool:
        with gtcp.Client(self.address, retries=0, timeout=1) as client:
            try:
                return client.call(0) is not None
            except gtcp.GtcpError:
                return False


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    if not may_make_namespaces():
        pytest.skip("network namespaces need root and a kernel that has them")
    (tmp_path / "app.py").write_text(APP)
    with ExitStack() as stack:
        found = [Host(number, tmp_path, stack) for number in range(3)]
        for each in found:
            eventually(each.answers)
        yield found


class Load:
    """Greenlets that call without a pause, without idempotent calls.

    Attributes:
        counted: calls by the host that answered.
        told: calls that failed, by the time and ``executed``.
    """

    def __init__(self, hosts: list[Host], folder: Path, timeout: float) -> None:
        self.counted: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.client = gtcp.Client([each.address for each in hosts], timeout=timeout)
        self._folder, self._going_on = folder, True
        self._callers = [gevent.spawn(self._run, number) for number in range(20)]

    def _run(self, caller: int) -> None:
        number = 0
        while self._going_on:
            number += 1
            try:
                name = self.client.call(1, {"id": str(self._folder / f"{caller}.{number}")})
                self.counted[name] += 1
            except gtcp.GtcpError as exc:
                self.told[exc.executed] += 1

    def goes_on(self, calls: int = 500) -> Counter[str]:
        """Return which hosts answered the next calls."""
        self.counted.clear()
        with gevent.Timeout(PATIENCE):
            while self.counted.total() < calls:
                gevent.sleep(0.01)
        return Counter(self.counted)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._going_on = False
        gevent.joinall(self._callers)
        self.client.close()


@pytest.mark.untraced
def test_a_drain_fails_no_call(hosts: list[Host], tmp_path: Path) -> None:
    with Load(hosts, tmp_path, PATIENCE) as load:
        assert set(load.goes_on()) == {each.name for each in hosts}
        hosts[1].process.send_signal(signal.SIGTERM)
        while hosts[1].process.poll() is None:
            gevent.sleep(0.01)
        assert hosts[1].process.returncode == 0
        assert set(load.goes_on()) == {hosts[0].name, hosts[2].name}
    assert load.told == {}


@pytest.mark.untraced
def test_of_a_killed_host_only_calls_in_flight_are_uncertain(
    hosts: list[Host], tmp_path: Path
) -> None:
    with Load(hosts, tmp_path, PATIENCE) as load:
        load.goes_on()
        hosts[1].process.kill()
        gevent.sleep(0.1)
        assert set(load.goes_on()) == {hosts[0].name, hosts[2].name}
    assert set(load.told) <= {"maybe"}
    assert load.told["maybe"] <= 20


def test_a_host_whose_packets_are_lost_is_left_within_a_second(
    hosts: list[Host], tmp_path: Path
) -> None:
    with Load(hosts, tmp_path, 2.0) as load:
        load.goes_on()
        hosts[1].drop_packets()
        gevent.sleep(1.0)
        in_flight = load.client.stats()["hosts"][hosts[1].address]["in_flight"]
        assert set(load.goes_on()) == {hosts[0].name, hosts[2].name}
        gevent.sleep(2.0)  # its calls end by their deadlines
    assert load.told == Counter(maybe=load.told["maybe"])
    assert load.told["maybe"] <= max(20, in_flight)


def test_a_host_that_acknowledges_nothing_gets_no_more_calls(hosts: list[Host]) -> None:
    """Even if it has fewer calls in flight than the others."""
    with gtcp.Client([each.address for each in hosts], retries=0) as client:
        client.connect()
        lost = next(
            each for each in hosts if each.name == client.call(2, {"seconds": 0}, hash_key="a")
        )
        lost.drop_packets()
        first = gevent.spawn(client.call, 2, {"seconds": 0}, hash_key="a", timeout=5.0)
        gevent.sleep(1.5)  # it is sent again and again
        calls = [gevent.spawn(client.call, 2, {"seconds": 0.3}, timeout=5.0) for _ in range(60)]
        gevent.joinall(calls)
        names = {each.name for each in hosts} - {lost.name}
        assert {each.get() for each in calls} == names
        assert client.stats()["hosts"][lost.address]["in_flight"] <= 1
        first.kill()
