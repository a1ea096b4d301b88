"""The fault proxy: each fault does what it says, to a real connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

import gtcp
from gtcp.testing import FaultProxy, Running, running

ECHO = 10


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    commands = gtcp.Commands()

    @commands.handler(ECHO)
    def echo(request: gtcp.Request) -> object:
        return request.params

    with running(commands) as one:
        yield one


@pytest.fixture
def proxy(server: Running) -> Iterator[FaultProxy]:
    with FaultProxy(server.address) as one:
        yield one


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[gtcp.Client]:
    with gtcp.Client(proxy.address, retries=0, timeout=5) as one:
        yield one


def raw(proxy: FaultProxy) -> socket.socket:
    host, port = proxy.address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize("faults", [{}, {"slice": 1}], ids=str)
def test_what_is_not_lost_arrives_whole(
    proxy: FaultProxy, client: gtcp.Client, faults: dict[str, int]
) -> None:
    proxy.set(**faults)
    assert client.call(ECHO, {"text": "ä" * 100}) == {"text": "ä" * 100}


@pytest.mark.parametrize("faults", [{"delay": 0.1}, {"bandwidth": 10_000}], ids=str)
def test_delay_and_bandwidth_make_a_call_take_longer(
    proxy: FaultProxy, client: gtcp.Client, faults: dict[str, float]
) -> None:
    client.call(ECHO, {})
    proxy.set(**faults)
    started = monotonic()
    client.call(ECHO, {"text": "x" * 1000})  # a little over 1,000 bytes each way
    assert monotonic() - started >= 0.2


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_what_is_dropped_never_arrives(
    proxy: FaultProxy, client: gtcp.Client, direction: str
) -> None:
    client.call(ECHO, {})
    proxy.set(drop=direction)
    with pytest.raises(gtcp.CallTimeout):
        client.call(ECHO, {}, timeout=0.2)
    proxy.heal()


@pytest.mark.parametrize("heals", [True, False])
def test_nothing_follows_on_a_connection_that_lost_something(
    proxy: FaultProxy, heals: bool
) -> None:
    with raw(proxy) as sock:
        sock.sendall(b'{"cmdid":10}\n')
        assert sock.recv(1000)
        proxy.set(drop="replies")
        sock.sendall(b'{"cmdid":10}\n')
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1000)
        sock.settimeout(5)
        if heals:
            proxy.heal()
        else:
            proxy.set(delay=0.001)
            sock.sendall(b'{"cmdid":10}\n')
        with pytest.raises(ConnectionResetError):
            sock.recv(1000)


def test_silence_ends_and_nothing_is_lost(proxy: FaultProxy, client: gtcp.Client) -> None:
    client.call(ECHO, {})
    proxy.set(silent=True)
    with pytest.raises(gtcp.CallTimeout):
        client.call(ECHO, {}, timeout=0.1)
    proxy.heal()
    assert client.call(ECHO, {"back": 1}) == {"back": 1}
    assert client.stats()["opened"] == 1


def test_refused_connections_are_reset(proxy: FaultProxy) -> None:
    proxy.set(refuse=True)
    with pytest.raises(ConnectionResetError), raw(proxy) as sock:
        sock.recv(1)


@pytest.mark.parametrize(
    ("end", "seen"),
    [(FaultProxy.reset, ConnectionResetError), (FaultProxy.cut, None)],
    ids=["reset", "cut"],
)
def test_connections_are_ended_on_command(
    proxy: FaultProxy, end: Callable[[FaultProxy], None], seen: type[Exception] | None
) -> None:
    with raw(proxy) as sock:
        sock.sendall(b'{"cmdid":10}\n')
        assert sock.recv(1000)
        end(proxy)
        if seen is None:
            assert sock.recv(1000) == b""
        else:
            with pytest.raises(seen):
                sock.recv(1000)


def test_a_reply_is_cut_in_the_middle(proxy: FaultProxy) -> None:
    with raw(proxy) as sock:
        sock.sendall(b'{"cmdid":10}\n')
        assert sock.recv(1000).endswith(b"\n")
        proxy.cut_after(7, "replies")
        sock.sendall(b'{"cmdid":10}\n')
        got = b""
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            while True:
                got += sock.recv(1000)
        assert got in (b'{"code"', b"")  # a reset may destroy what was not read yet


def test_reply_lines_are_duplicated(proxy: FaultProxy, client: gtcp.Client) -> None:
    proxy.duplicate()
    assert client.call(ECHO, {"a": 1}) == {"a": 1}
    assert client.call(ECHO, {"a": 2}) == {"a": 2}
    assert client.stats()["dropped"] == 1


def test_reply_lines_are_garbled(proxy: FaultProxy, client: gtcp.Client) -> None:
    proxy.garble()
    with pytest.raises(gtcp.ProtocolError):
        client.call(ECHO, {})
    assert client.call(ECHO, {"a": 2}) == {"a": 2}


def test_a_proxy_without_a_server_resets(server: Running) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{placeholder.getsockname()[1]}"
        with FaultProxy(nobody) as proxy, pytest.raises(ConnectionResetError):  # noqa: SIM117
            with raw(proxy) as sock:
                sock.recv(1)


def test_a_schedule_injects_the_same_faults_for_the_same_seed(server: Running) -> None:
    counts = []
    for _ in range(2):
        with FaultProxy(server.address) as proxy:
            proxy.run_schedule(seed=7, seconds=1.0)
            counts.append(list(proxy.injected))
    shorter = min(map(len, counts))
    assert shorter > 0
    assert counts[0][:shorter] == counts[1][:shorter]


def test_a_restarted_server_has_the_same_address(server: Running) -> None:
    commands = gtcp.Commands()

    @commands.handler(1)
    def one(request: gtcp.Request) -> int:
        return 1

    with running(commands) as again, gtcp.Client(again.address) as client:
        assert client.call(1) == 1
        again.stop()
        again.start()
        assert client.call(1) == 1


@pytest.mark.cover_programs
def test_the_fixtures_are_there_by_themselves(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import gtcp

        def test_hello(gtcp_server, gtcp_proxy):
            server = gtcp.Server()

            @server.handler(10000)
            def hello(request):
                return request.params["content"]

            proxy = gtcp_proxy(gtcp_server(server).address)
            proxy.set(slice=1)
            with gtcp.Client(proxy.address) as client:
                assert client.call(10000, {"content": "hi"}) == "hi"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
