"""A name of which one address is dead: packets to it go nowhere.

A network namespace with its own ``/etc/hosts``, so that the system's resolver gives the name both
addresses; packets to the dead ones have a wrong hardware address. Needs root, and ``ip`` from
iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import PATIENCE
from tests.reliability.test_vanished_host import ip

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the program ip"
)

LIVE, DEAD, DEAD_V6 = "10.254.98.1", "10.254.98.9", "2001:db8:98::9"

HOSTS = f"""\
127.0.0.1 localhost
{DEAD_V6} half.test
{LIVE} half.test
{DEAD_V6} dead.test
{DEAD} dead.test
"""

PROGRAM = f"""
import socket, gtcp

server = gtcp.Server(gtcp.Settings(bind=("{LIVE}:8889",), insecure=True))

@server.handler(1)
def peer(request):
    return request.address.split(":")[0]

server.start()
found = socket.getaddrinfo("half.test", 8889, type=socket.SOCK_STREAM)
print([each[4][0] for each in found])
client = gtcp.Client("half.test", retries=0)
print(client.call(1))
client.dial(None)[0].close()
try:
    gtcp.Client("dead.test", retries=0, connect_timeout=0.8).call(1)
except gtcp.ConnectError as exc:
    print(exc)
"""


@pytest.fixture
def host() -> Iterator[str]:
    name = f"gtcp-c-{os.getpid()}"
    etc = Path("/etc/netns") / name  # ``ip netns exec`` mounts what is in it over /etc
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no network namespaces here: {exc.stderr}")
    try:
        etc.mkdir(parents=True)
        (etc / "hosts").write_text(HOSTS)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "cable", "type", "veth", "peer", "name", "far")
        for device in ("cable", "far"):
            ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "addr", "add", f"{LIVE}/24", "dev", "cable")
        ip("-n", name, "addr", "add", "2001:db8:98::1/64", "dev", "cable", "nodad")
        for dead in (DEAD, DEAD_V6):
            wrong = ("lladdr", "02:00:00:00:00:99", "dev", "cable", "nud", "permanent")
            ip("-n", name, "neigh", "replace", dead, *wrong)
        yield name
    finally:
        shutil.rmtree(etc, ignore_errors=True)
        ip("netns", "del", name)


def test_the_other_address_is_reached(host: str) -> None:
    ended = subprocess.run(
        ["ip", "netns", "exec", host, sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    order, caller, error = ended.stdout.splitlines()
    assert order == str([DEAD_V6, LIVE])  # what the resolver says is to be tried first
    assert caller == LIVE
    assert error == (
        "dead.test:8889: not connected within 0.8 s "
        f"([{DEAD_V6}]:8889: no answer; {DEAD}:8889: no answer)"
    )
