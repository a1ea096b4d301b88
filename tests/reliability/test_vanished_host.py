"""A host that vanishes: its packets go nowhere, and nobody says so.

Two network namespaces with a cable between them; the fault is a wrong hardware address, so
that what is sent gets lost without an error. Needs root, and ``ip`` from iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gtcp
from tests.helpers import eventually

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the program ip"
    ),
    pytest.mark.slow,
]

COUNT = 1

SERVER = """
import gtcp
server = gtcp.Server(gtcp.Settings(
    bind=("10.254.97.1:8889", "unix:{folder}/inside"), keepalive=3.0, insecure=True))

@server.handler(1)
def connections(request):
    return len(server.connections)

server.start()
print("up", flush=True)
server._done.wait()
"""

CLIENT = """
import sys, time, gevent, gtcp
client = gtcp.Client("10.254.97.1:8889", keepalive=3.0, retries=0)
client.call(1)
print("connected", flush=True)
sys.stdin.readline()
started = time.monotonic()
while client.stats()["connections"]:
    gevent.sleep(0.05)
print(time.monotonic() - started, flush=True)
started = time.monotonic()
try:
    client.call(1, timeout=1)
except gtcp.GtcpError as exc:
    print(type(exc).__name__, exc.executed, time.monotonic() - started, flush=True)
sys.stdin.readline()
print(client.call(1, timeout=20), flush=True)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    one, other = f"gtcp-a-{os.getpid()}", f"gtcp-b-{os.getpid()}"
    try:
        for name in (one, other):
            ip("netns", "add", name)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no network namespaces here: {exc.stderr}")
    try:
        ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "cable", "netns", other)
        for name, address in ((one, "10.254.97.1/24"), (other, "10.254.97.2/24")):
            ip("-n", name, "addr", "add", address, "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield one, other
    finally:
        for name in (one, other):
            ip("netns", "del", name)


def lose_packets(name: str, peer: str) -> None:
    ip("-n", name, "neigh", "replace", peer, "lladdr", "02:00:00:00:00:99", "dev", "cable")


def find_again(name: str, peer: str) -> None:
    ip("-n", name, "neigh", "del", peer, "dev", "cable")


class Program:
    """A Python program on one of the hosts, told and asked by lines."""

    def __init__(self, host: str, code: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_both_sides_find_out_and_go_on_afterwards(
    two_hosts: tuple[str, str], tmp_path: Path
) -> None:
    one, other = two_hosts
    programs = [Program(one, SERVER.replace("{folder}", str(tmp_path)))]
    try:
        assert programs[0].line() == "up"
        programs.append(Program(other, CLIENT))
        client = programs[1]
        assert client.line() == "connected"
        with gtcp.Client(f"unix:{tmp_path}/inside") as inside:
            assert inside.call(COUNT) == 2
            lose_packets(one, "10.254.97.2")
            lose_packets(other, "10.254.97.1")
            client.go_on()
            assert float(client.line()) < 10  # keepalive says 3
            name, executed, seconds = client.line().split()
            assert (name, executed) == ("CallTimeout", "no")
            assert float(seconds) < 5
            eventually(lambda: inside.call(COUNT) == 1)
            find_again(one, "10.254.97.2")
            find_again(other, "10.254.97.1")
            client.go_on()
            assert client.line() == "2"
    finally:
        for program in programs:
            program.kill()
