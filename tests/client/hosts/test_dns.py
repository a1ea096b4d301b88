"""Hosts from a real name server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gtcp
from gtcp.client.hosts import dns, known
from tests.cli.processes import run
from tests.client.hosts.programs import NameServer, works
from tests.client.hosts.test_group import commands
from tests.helpers import eventually, free_port, serving

pytestmark = pytest.mark.programs


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    monkeypatch.setattr(known, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(dns, "LIFETIME", 0.3)
    server = NameServer(tmp_path)
    yield server
    server.stop()


def test_all_addresses_of_a_name_as_they_change(
    names: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with ExitStack() as stack:
        for number in (1, 2, 3):
            table = commands(f"host{number}")
            stack.enter_context(serving(table, host=f"127.0.0.{number}", port=port, insecure=True))
        names.serve("--address=/shop.test/127.0.0.1", "--address=/shop.test/127.0.0.2")
        client = stack.enter_context(gtcp.Client(f"dns://{names.address}/shop.test:{port}"))

        def answering() -> set[str]:
            return {client.call(1) for _ in range(30)}

        eventually(lambda: works(client))
        assert answering() == {"host1", "host2"}
        names.serve("--address=/shop.test/127.0.0.3")
        eventually(lambda: answering() == {"host3"})
        names.stop()
        eventually(lambda: "the 1 known hosts are kept" in caplog.text)
        assert answering() == {"host3"}


def test_srv_records_with_priority_and_weight(names: NameServer) -> None:
    names.serve(
        "--address=/one.test/127.0.0.1",
        "--srv-host=_gtcp._tcp.shop.test,one.test,7001,1,30",
        "--srv-host=_gtcp._tcp.shop.test,two.test,7002,2,0",
    )
    url = f"srv://{names.address}/_gtcp._tcp.shop.test"
    eventually(lambda: run("resolve", url).returncode == 0)
    assert run("resolve", url).stdout.splitlines() == [
        "HOST           WEIGHT  PRIORITY",
        "one.test:7001  30      1",
        "two.test:7002  0.05    2",
    ]


@pytest.mark.cover_programs
def test_a_name_that_does_not_exist(names: NameServer) -> None:
    names.serve("--address=/shop.test/127.0.0.1", "--local=/test/")
    eventually(lambda: run("resolve", f"dns://{names.address}/shop.test").returncode == 0)
    ended = run("resolve", f"dns://{names.address}/none.test")
    assert ended.returncode == 1
    assert "the name none.test does not exist" in ended.stderr
    ended = run("call", f"dns://{names.address}/none.test", "1", "--timeout", "2")
    assert ended.returncode == 1
    assert ended.stderr.endswith("the name none.test does not exist (executed: no)\n")


@pytest.mark.cover_programs
def test_a_name_without_addresses(names: NameServer) -> None:
    names.serve("--srv-host=_gtcp._tcp.shop.test,one.test,7001", "--local=/test/")
    eventually(
        lambda: run("resolve", f"srv://{names.address}/_gtcp._tcp.shop.test").returncode == 0
    )
    ended = run("resolve", f"dns://{names.address}/_gtcp._tcp.shop.test")
    assert (ended.returncode, ended.stderr.endswith("there are no hosts\n")) == (1, True)


@pytest.mark.usefixtures("names")
def test_a_name_server_that_does_not_answer() -> None:
    resolver = dns.DnsResolver(f"127.0.0.1:{free_port()}/shop.test", tls=True)
    assert resolver.server_name == "shop.test"
    with pytest.raises(LookupError, match="DNS: "):
        resolver.resolve()
