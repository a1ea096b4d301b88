"""Servers that register in a real ZooKeeper, and clients that find them there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.client.hosts import known
from gtcp.client.hosts.zookeeper import ZooKeeperResolver
from gtcp.testing import FaultProxy
from gtcp.transport.zookeeper import end_client, new_client, parse_place
from tests.cli.processes import only_line, run, served
from tests.client.hosts.programs import works, zookeeper
from tests.client.hosts.test_group import commands
from tests.helpers import PATIENCE, eventually, free_port, serving

pytestmark = [pytest.mark.programs, pytest.mark.xdist_group("zookeeper")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with zookeeper(tmp_path_factory.mktemp("zookeeper")) as address:
        yield address


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "RETRY_SECONDS", 0.1)


def found(url: str) -> list[str]:
    ended = run("resolve", url)
    return [line.split()[0] for line in ended.stdout.splitlines()[1:]]


@contextmanager
def reading(url: str) -> Iterator[tuple[ZooKeeperResolver, Any]]:
    """Return a resolver of this URL, and a client of its ZooKeeper, connected."""
    text = url.removeprefix("zk://")
    client = new_client(parse_place(text))
    try:
        eventually(lambda: gevent.sleep(0.01) or client.connected)
        with closing(ZooKeeperResolver(text, tls=False)) as resolver:
            yield resolver, client
    finally:
        end_client(client)


def answering(client: gtcp.Client, calls: int = 30) -> set[str]:
    return {client.call(1) for _ in range(calls)}


def test_servers_come_and_go(directory: str) -> None:
    url = f"zk://{directory}/services/shop"
    with ExitStack() as stack:
        first = stack.enter_context(serving(commands("host1"), register=f"{url}?weight=2"))
        client = stack.enter_context(gtcp.Client(url))
        eventually(lambda: works(client))
        assert answering(client) == {"host1"}
        second = stack.enter_context(serving(commands("host2"), register=url))
        eventually(lambda: answering(client) == {"host1", "host2"})
        weights = sorted(run("resolve", url).stdout.splitlines()[1:])
        assert {line.split()[0]: line.split()[1] for line in weights} == {
            first.address: "2",
            second.address: "1",
        }
        first.stop()
        assert answering(client) == {"host2"}
        eventually(lambda: found(url) == [second.address])


def test_the_entry_is_gone_before_the_drain_delay_has_passed(directory: str) -> None:
    url = f"zk://{directory}/services/delayed"
    server = serving(commands("host"), register=url, drain_delay=3.0, graceful_timeout=5.0)
    with server as running, reading(url) as (resolver, _):
        eventually(lambda: found(url))
        running.start_stopping()
        eventually(lambda: not resolver.resolve(), 2.5)
        assert running.server.addresses


def test_workers_have_one_address(directory: str, tmp_path: Path) -> None:
    url = f"zk://{directory}/services/workers"
    (tmp_path / "app.py").write_text(
        "import gtcp\nserver = gtcp.Server()\n@server.handler(1)\ndef one(request): return 1\n"
    )
    with served(
        tmp_path, "app", "--bind", "127.0.0.1:0", "--workers", "2", "--register", url
    ) as running:
        eventually(lambda: found(url) == [running.address])
        assert run("call", url, "1").stdout == "1\n"
        with reading(url) as (resolver, client):

            def gone(old: set[str]) -> bool:
                assert {each.address for each in resolver.resolve()} == {running.address}
                return not old & set(client.get_children("/services/workers"))

            for _ in range(3):
                old = set(client.get_children("/services/workers"))
                running.process.send_signal(signal.SIGHUP)
                eventually(lambda old=old: gone(old), 2 * PATIENCE)
        running.end()
    eventually(lambda: not found(url))


@pytest.mark.cover_programs
def test_an_entry_that_was_lost_is_created_again(directory: str) -> None:
    url = f"zk://{directory}/services/lost"
    with (
        serving(commands("host"), register=url) as running,
        reading(url) as (resolver, client),
    ):
        eventually(lambda: found(url))
        (name,) = client.get_children("/services/lost")
        client.delete(f"/services/lost/{name}")
        eventually(lambda: gevent.sleep(0.01) or client.get_children("/services/lost"))
        assert client.get_children("/services/lost") != [name]
        client.create("/services/lost/moved", b'{"address": "10.0.0.1:1"}')
        assert "10.0.0.1:1" in {each.address for each in resolver.resolve()}
        client.set("/services/lost/moved", b'{"address": "10.0.0.2:1"}')
        assert "10.0.0.2:1" in {each.address for each in resolver.resolve()}
        client.delete("/services/lost/moved")
        client.create("/services/lost/garbage", b"{")
        client.create("/services/lost/wrong", b'{"address": "a b"}')
        assert found(url) == [running.address]


def test_a_stop_does_not_wait_for_a_directory_that_does_not_answer(directory: str) -> None:
    place = parse_place(f"{directory}/services/stalled")
    with FaultProxy(directory) as proxy:
        server = gtcp.Server(
            gtcp.Settings(port=0, register=f"zk://{proxy.address}/services/stalled")
        )
        with running_quietly(server) as running:
            client = new_client(place)
            eventually(lambda: gevent.sleep(0.01) or client.connected)
            eventually(lambda: client.exists(place.path) and client.get_children(place.path))
            proxy.set(silent=True)
            began = monotonic()
            running.stop()
            assert monotonic() - began < 3.0
            proxy.heal()
            eventually(lambda: gevent.sleep(0.05) or not client.get_children(place.path))
            client.stop()
            client.close()


def test_a_directory_that_comes_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtcp.client.hosts import zookeeper as resolver
    from gtcp.server.ops import register

    monkeypatch.setattr(resolver, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(register, "PATIENCE", 0.1)
    port = free_port()
    url = f"zk://127.0.0.1:{port}/services/shop"
    with ExitStack() as stack:
        table = commands("host")
        server = gtcp.Server(gtcp.Settings(port=0, register=url))
        server.include(table)
        stack.enter_context(running_quietly(server))
        client = stack.enter_context(gtcp.Client(url, retries=0))
        message = f"{url}: ZooKeeper at 127.0.0.1:{port} can't be reached"
        with pytest.raises(gtcp.ConnectError, match=message) as caught:
            client.call(1, timeout=2.0)
        assert caught.value.executed == "no"
        eventually(lambda: "can't register in ZooKeeper" in caplog.text)
        stack.enter_context(zookeeper(tmp_path, port))
        eventually(lambda: works(client), 30.0)


def running_quietly(server: gtcp.Server) -> Any:
    from gtcp.testing import running

    return running(server)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("dns://a/b", "register"),
        ("zk://a", "register"),
        ("zk://a/b?weight=0", "register"),
        ("zk://a/b?wait=1", "register"),
        ("zk://a/b?address=a b", "register"),
    ],
)
def test_settings_that_are_none(url: str, part: str) -> None:
    with pytest.raises(gtcp.SettingsError, match=f"{part}: .*expected a URL such as zk://"):
        gtcp.Settings(register=url)


def test_an_address_that_clients_can_not_use() -> None:
    table = commands("host")
    settings: dict[str, Any] = {"host": "0.0.0.0", "insecure": True}
    running = serving(table, register="zk://a/b", **settings)
    with pytest.raises(gtcp.SettingsError, match=r"register: .*zk://a/b\?address=HOST:PORT"):
        running.__enter__()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.cover_programs
def test_without_kazoo_it_is_one_line(tmp_path: Path, workers: str) -> None:
    (tmp_path / "app.py").write_text("import gtcp\nserver = gtcp.Server()\n")
    (tmp_path / "kazoo.py").write_text("raise ImportError\n")
    ended = run(
        *("serve", "app", "--bind", "127.0.0.1:0", "--workers", workers),
        *("--register", "zk://127.0.0.1/a"),
        cwd=tmp_path,
    )
    assert ended.returncode == 2
    assert only_line(ended.stderr) == (
        "error: register: it needs kazoo, which is not installed: pip install 'gtcp-rpc[zookeeper]'"
    )
