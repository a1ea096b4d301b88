"""Admission of peers by address and identity, and the commands that they may call."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gtcp
from gtcp.server.handshake.proxy_header import SIGNATURE
from tests.edge.certificates import Authority
from tests.helpers import Gate, eventually, serving

SECRET = "billing.1:" + "s" * 32


def commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def about(request: gtcp.Request) -> Any:
        peer = request.peer
        assert peer.address == request.address
        return {"address": peer.address, "identity": peer.identity, "pid": peer.pid}

    return table


ABOUT = {"cmdid": 1}


class TestNetworks:
    def test_others_are_told_403_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with serving(commands(), allow_networks=("10.0.0.0/8", "::1")) as server:
            with server.line() as line:
                assert line.rest() == [
                    {"code": 403, "message": "not allowed to connect from this network"}
                ]
            with gtcp.Client(server.address) as client:
                with pytest.raises(gtcp.RemoteError) as caught:
                    client.call(1)
            assert (caught.value.code, caught.value.executed) == (403, "no")
            assert not server.server.handled
            eventually(lambda: caplog.text.count("from this network; closing") == 2)

    @pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
    def test_those_listed_come_in(self, bind: str) -> None:
        networks = ("127.0.0.0/8", "::1/128")
        with serving(commands(), bind=(bind,), allow_networks=networks) as server:
            with server.line() as line:
                assert line.ask(ABOUT)["code"] == 0

    def test_a_unix_socket_is_in_no_network(self, short: Path) -> None:
        bind = (f"unix:{short}/s",)
        with serving(commands(), bind=bind, allow_networks=("10.0.0.0/8",)) as server:
            with server.line() as line:
                assert line.ask(ABOUT)["code"] == 0

    def test_where_tls_is_spoken_others_are_just_closed(self, authority: Authority) -> None:
        options = {"tls_cert": authority.issue("localhost"), "allow_networks": ("10.0.0.0/8",)}
        with serving(commands(), **options) as server, server.line() as line:
            assert line.at_end()

    def test_a_connection_too_many_is_told_so(self) -> None:
        options: Any = {"allow_networks": ("127.0.0.0/8",), "max_connections": 1}
        with serving(commands(), **options) as server, server.line() as first:
            assert first.ask(ABOUT)["code"] == 0
            with server.line() as second:
                assert second.rest() == [{"code": 429, "message": "too many connections"}]


V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 56789 443\r\n"
V2 = (
    SIGNATURE
    + b"\x21\x11\x00\x0c"
    + socket.inet_aton("192.0.2.1")
    + socket.inet_aton("192.0.2.2")
    + struct.pack("!HH", 56789, 443)
)
UNSPECIFIED = SIGNATURE + b"\x21\x00\x00\x00"
DATAGRAM = V2.replace(b"\x21\x11", b"\x21\x12")
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


class TestProxy:
    @pytest.mark.parametrize("header", [V1, V2])
    @pytest.mark.parametrize("at_once", [True, False])
    def test_the_address_is_the_true_origin(self, header: bytes, at_once: bool) -> None:
        with serving(commands(), proxy_from=("127.0.0.1/32",)) as server, server.line() as line:
            if at_once:
                line.send(header + b'{"cmdid":1}\n')
            else:
                for each in header + b'{"cmdid":1}\n':
                    line.send(bytes([each]))
            assert line.reply()["result"]["address"] == "192.0.2.1:56789"
            (connection,) = server.server.connections
            assert connection.address == "192.0.2.1:56789"

    @pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
    def test_a_proxy_that_speaks_for_itself(self, header: bytes) -> None:
        with serving(commands(), proxy_from=("127.0.0.1/32",)) as server, server.line() as line:
            line.send(header, ABOUT)
            assert line.reply()["result"]["address"].startswith("127.0.0.1:")

    @pytest.mark.parametrize("header", [V1, V2])
    @pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",)])
    def test_of_others_it_is_no_request(self, header: bytes, networks: tuple[str, ...]) -> None:
        with serving(commands(), proxy_from=networks) as server, server.line() as line:
            line.send(header, ABOUT)
            (last,) = line.rest()
            assert last["code"] == 400

    def test_a_proxy_that_sends_none(self) -> None:
        options: Any = {"proxy_from": ("127.0.0.1",), "handshake_timeout": 0.1}
        with serving(commands(), **options) as server:
            with server.line() as silent:
                assert silent.at_end()
            with server.line() as line:
                line.send(ABOUT)
                (last,) = line.rest()
                assert (last["code"], "PROXY header" in last["message"]) == (400, True)
            assert not server.server.handled

    def test_networks_are_those_of_the_origin(self) -> None:
        options: Any = {"proxy_from": ("127.0.0.1",), "allow_networks": ("10.0.0.0/8",)}
        with serving(commands(), **options) as server:
            with server.line() as line:
                line.send(V1, ABOUT)
                assert line.rest()[0]["code"] == 403
            with server.line() as line:
                line.send(b"PROXY TCP4 10.1.2.3 192.0.2.2 5 443\r\n", ABOUT)
                assert line.reply()["result"]["address"] == "10.1.2.3:5"
            with server.line() as line:
                line.send(LOCAL, ABOUT)  # the proxy's own health check
                assert line.reply()["code"] == 0

    @pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", UNSPECIFIED, DATAGRAM])
    def test_an_origin_that_the_proxy_can_not_tell_counts_as_the_proxy(self, header: bytes) -> None:
        for networks, code in ((("10.0.0.0/8",), 403), (("127.0.0.1",), 0)):
            options: Any = {"proxy_from": ("127.0.0.1",), "allow_networks": networks}
            with serving(commands(), **options) as server, server.line() as line:
                line.send(header, ABOUT)
                assert line.reply()["code"] == code

    def test_a_refused_origin_is_sent_no_plain_line_where_tls_is_spoken(
        self, authority: Authority
    ) -> None:
        options: Any = {"proxy_from": ("127.0.0.1",), "allow_networks": ("10.0.0.0/8",)}
        options["tls_cert"] = authority.issue("localhost")
        with serving(commands(), **options) as server, server.line() as line:
            line.send(V1)
            assert line.at_end()

    def test_a_unix_socket_beside_tls_is_told_why_it_is_refused(
        self, short: Path, authority: Authority
    ) -> None:
        options: Any = {"tls_cert": authority.issue("localhost"), "max_connections": 1}
        with serving(commands(), bind=(f"unix:{short}/s",), **options) as server:
            with server.line() as first, server.line() as second:
                assert first.ask(ABOUT)["code"] == 0
                assert second.reply()["code"] == 429

    def test_the_limit_per_address_is_that_of_the_origin(self) -> None:
        options: Any = {"proxy_from": ("127.0.0.1",), "max_connections_per_address": 1}
        with serving(commands(), **options) as server:
            with server.line() as first, server.line() as second, server.line() as third:
                first.send(V1, ABOUT)
                assert first.reply()["code"] == 0
                second.send(V1, ABOUT)
                assert second.rest()[0]["code"] == 429
                third.send(V1.replace(b"192.0.2.1 ", b"192.0.2.9 "), ABOUT)
                assert third.reply()["code"] == 0
            context = server.server._context
            assert context is not None
            eventually(lambda: not context.hosts)

    def test_tls_behind_the_header(self, authority: Authority) -> None:
        options: Any = {"proxy_from": ("127.0.0.1",), "tls_cert": authority.issue("localhost")}
        with serving(commands(), **options) as server, server.line() as line:
            line.send(V2)
            context = authority.client_context()
            line.sock = context.wrap_socket(line.sock, server_hostname="localhost")
            assert line.ask(ABOUT)["result"]["address"] == "192.0.2.1:56789"


class TestExposure:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_nobody_listens_for_everybody_by_accident(self, host: str) -> None:
        server = gtcp.Server(gtcp.Settings(host=host, port=0))
        with pytest.raises(gtcp.SettingsError, match=r"other hosts can reach .*insecure"):
            server.start()
        assert not server.addresses

    def test_one_address_is_enough_to_refuse_all(self) -> None:
        server = gtcp.Server(gtcp.Settings(bind=("127.0.0.1:0", "0.0.0.0:0")))
        with pytest.raises(gtcp.SettingsError, match="other hosts"):
            server.start()

    def test_listeners_that_were_made_elsewhere_count_too(self) -> None:
        with socket.create_server(("0.0.0.0", 0)) as sock:
            with pytest.raises(gtcp.SettingsError, match="other hosts"):
                gtcp.Server(gtcp.Settings()).start([sock])

    def test_insecure_says_that_it_is_meant(self) -> None:
        self.starts(gtcp.Server(gtcp.Settings(host="0.0.0.0", port=0, insecure=True)))

    def test_a_secret_or_tls_is_enough(self, authority: Authority) -> None:
        self.starts(gtcp.Server(gtcp.Settings(host="0.0.0.0", port=0), secret=SECRET))
        cert = authority.issue("localhost")
        self.starts(gtcp.Server(gtcp.Settings(host="0.0.0.0", port=0, tls_cert=cert)))

    def test_networks_alone_are_not(self) -> None:
        settings = gtcp.Settings(host="0.0.0.0", port=0, allow_networks=("10.0.0.0/8",))
        with pytest.raises(gtcp.SettingsError, match="other hosts"):
            gtcp.Server(settings).start()

    def starts(self, server: gtcp.Server) -> None:
        server.start()
        assert server.addresses
        server.stop(0)


class TestCommands:
    @pytest.fixture
    def table(self) -> gtcp.Commands:
        table = commands()
        self.ran = []

        @table.handler(7, allow=["billing.*", "*.team.example"])
        def guarded(request: gtcp.Request) -> str:
            self.ran.append(request.peer.identity)
            return "did it"

        return table

    def test_those_named_may_call_it(self, table: gtcp.Commands) -> None:
        server = gtcp.Server(gtcp.Settings(port=0), secret=[SECRET, "orders.1:" + "o" * 32])
        server.include(table)
        with serving(server) as running:
            with gtcp.Client(running.address, secret=SECRET) as client:
                assert client.call(7) == "did it"
                assert client.call(1)["identity"] == "billing.1"

    def test_others_get_403_and_it_did_not_run(
        self, table: gtcp.Commands, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = gtcp.Server(gtcp.Settings(port=0), secret=[SECRET, "orders.1:" + "o" * 32])
        server.include(table)
        with serving(server) as running:
            with gtcp.Client(running.address, secret="orders.1:" + "o" * 32) as client:
                with pytest.raises(gtcp.RemoteError, match="403 not allowed") as caught:
                    client.call(7)
                assert caught.value.executed == "no"
                assert client.call(1)["identity"] == "orders.1"
                eventually(lambda: "(orders.1): may not call cmdid 7" in caplog.text)
        assert not self.ran

    def test_somebody_unknown_may_not(self, table: gtcp.Commands) -> None:
        with serving(table) as running, running.line() as line:
            line.send(
                {"cmdid": 7, "id": 1}, {"cmdid": 7}, {"cmdid": 1}, {"cmdid": 7, "oneway": True}
            )
            replies = line.replies(3)
            assert [each["code"] for each in replies] == [403, 403, 0]
            assert line.ask({"cmdid": 0})["result"] == "pong"
        assert not self.ran

    def test_one_behind_a_call_that_waits_may_not_either(self, table: gtcp.Commands) -> None:
        gate = Gate()

        @table.handler(2)
        def wait(request: gtcp.Request) -> None:
            gate.wait()

        with serving(table) as running, running.line() as line:
            line.send({"cmdid": 2}, {"cmdid": 7})
            eventually(lambda: gate.waiting)
            gate.open()
            assert [each["code"] for each in line.replies(2)] == [0, 403]
        assert not self.ran

    def test_allow_is_a_list_of_names(self) -> None:
        for wrong in ("billing", [], [""], [1]):
            with pytest.raises(TypeError, match="allow: expected a list"):
                gtcp.Commands().handler(1, allow=wrong)(lambda request: None)  # type: ignore[arg-type]

    def test_identities_of_unix_peers(self, short: Path) -> None:
        table = commands()
        table.handler(7, allow=[f"uid:{os.getuid()}"])(lambda request: request.peer.uid)
        table.handler(8, allow=["uid:12345"])(lambda request: None)
        with serving(table, bind=(f"unix:{short}/s",)) as server:
            with gtcp.Client(server.address) as client:
                assert client.call(7) == os.getuid()
                identity = f"uid:{os.getuid()}"
                expected = {"address": "unix:", "identity": identity, "pid": os.getpid()}
                assert client.call(1) == expected
                with pytest.raises(gtcp.RemoteError, match="403"):
                    client.call(8)

    def test_who_may_connect_to_a_unix_socket(
        self, short: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bind = (f"unix:{short}/s",)
        with serving(commands(), bind=bind, allow_identities=("uid:12345",)) as server:
            with server.line() as line:
                assert line.rest()[0]["code"] == 403
        assert f"unix: (uid:{os.getuid()}): not allowed to connect" in caplog.text
        mine = (f"uid:{os.getuid()}",)
        with serving(commands(), bind=bind, allow_identities=mine) as server:
            with server.line() as line:
                assert line.ask(ABOUT)["code"] == 0


class TestSocketFile:
    def mode(self, path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    def test_only_the_owner_may_connect_unless_told_otherwise(self, short: Path) -> None:
        with serving(commands(), bind=(f"unix:{short}/s",)):
            assert self.mode(short / "s") == 0o600
        with serving(commands(), bind=(f"unix:{short}/s",), unix_mode="666"):
            assert self.mode(short / "s") == 0o666

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
    def test_owner_and_group(self, short: Path) -> None:
        options: Any = {"unix_owner": "12345", "unix_group": "12346", "unix_mode": "660"}
        with serving(commands(), bind=(f"unix:{short}/s",), **options):
            found = (short / "s").stat()
            assert (found.st_uid, found.st_gid) == (12345, 12346)

    def test_an_unknown_owner_is_told(self, short: Path) -> None:
        server = gtcp.Server(gtcp.Settings(bind=(f"unix:{short}/s",), unix_owner="nobody-here"))
        with pytest.raises(
            gtcp.SettingsError, match=r"^unix_owner: there is no user 'nobody-here'$"
        ):
            server.start()
        assert not (short / "s").exists()

    def test_a_socket_that_is_listened_on_is_left_alone(self, short: Path) -> None:
        bind = (f"unix:{short}/s",)
        with serving(commands(), bind=bind) as server:
            with pytest.raises(OSError, match="in use"):
                gtcp.Server(gtcp.Settings(bind=bind)).start()
            with server.line() as line:
                assert line.ask(ABOUT)["code"] == 0
        assert not (short / "s").exists()

    def test_a_file_that_is_no_socket_is_left_alone(self, short: Path) -> None:
        (short / "s").write_text("precious")
        with pytest.raises(OSError, match="no socket"):
            gtcp.Server(gtcp.Settings(bind=(f"unix:{short}/s",))).start()
        assert (short / "s").read_text() == "precious"

    def test_a_file_that_is_not_ours_any_more_is_left_alone(self, short: Path) -> None:
        with serving(commands(), bind=(f"unix:{short}/s",)):
            (short / "s").unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(short / "s"))
        assert (short / "s").exists()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: a unix socket's path has little room."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
