"""TLS between real clients and servers, with real certificates, good and bad."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

import gtcp
from tests.edge.certificates import Authority, encrypted, self_signed
from tests.edge.key_updates import KeyUpdates
from tests.helpers import PATIENCE, Gate, Line, Serving, eventually, serving


def commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def echo(request: gtcp.Request) -> Any:
        return request.params

    @table.handler(2)
    def who(request: gtcp.Request) -> Any:
        return [request.peer.identity, list(request.peer.identities)]

    return table


def tls(server: Serving | str) -> str:
    address = server if isinstance(server, str) else server.address
    return "tls://localhost:" + address.rpartition(":")[2]


def refused(server: Serving | str, **options: Any) -> gtcp.ConnectError:
    """Return the error of a call that can't connect; it must not have tried again."""
    with gtcp.Client(tls(server), **options) as client:
        with pytest.raises(gtcp.ConnectError) as caught:
            client.call(1)
        assert client.stats()["retries"] == 0
    assert caught.value.executed == "no"
    return caught.value


class TestGood:
    def test_a_call_over_tls(self, authority: Authority) -> None:
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert) as server:
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                assert client.call(1, {"a": "b"}) == {"a": "b"}
                assert client.call(2) == [None, []]
                assert client.stats()["opened"] == 1

    def test_many_large_calls_at_once(self, authority: Authority) -> None:
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert) as server:
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                texts = [chr(97 + n % 26) * (n * 7919 % 300_000) for n in range(60)]
                results = client.map(1, ({"t": text} for text in texts), window=30)
                assert [each["t"] for each in results] == texts

    def test_key_and_certificate_in_two_files(self, authority: Authority, tmp_path: Path) -> None:
        both = Path(authority.issue("localhost")).read_text()
        begin = both.index("-----BEGIN CERTIFICATE")
        (tmp_path / "key").write_text(both[:begin])
        (tmp_path / "cert").write_text(both[begin:])
        files = {"tls_cert": str(tmp_path / "cert"), "tls_key": str(tmp_path / "key")}
        with serving(commands(), **files) as server:
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                assert client.call(1) == {}

    def test_an_ip_address_as_name(self, authority: Authority) -> None:
        with serving(commands(), tls_cert=authority.issue("127.0.0.1")) as server:
            with gtcp.Client(f"tls://{server.address}", ca=authority.ca) as client:
                assert client.call(1) == {}

    def test_server_name_takes_the_place_of_the_host(self, authority: Authority) -> None:
        with serving(commands(), tls_cert=authority.issue("shop.example")) as server:
            options = {"ca": authority.ca, "server_name": "shop.example"}
            with gtcp.Client(f"tls://{server.address}", **options) as client:
                assert client.call(1) == {}

    def test_tls_1_2_still_does(self, authority: Authority) -> None:
        context = authority.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with serving(commands(), tls_cert=authority.issue("localhost")) as server:
            with tls_line(server, context) as line:
                assert line.ask({"cmdid": 1, "params": {"a": 1}})["result"] == {"a": 1}
                assert line.sock.version() == "TLSv1.2"

    def test_a_server_that_sends_session_tickets(self, authority: Authority) -> None:
        """OpenSSL's default: two of them behind the handshake, before any data."""
        with peer(authority.server_context(authority.issue("localhost"))) as where:
            with gtcp.Client(tls(where), ca=authority.ca) as client:
                assert client.call(1, {"a": 1}) == {"a": 1}


class TestServerIsNotTrusted:
    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            ("expired", "certificate has expired"),
            ("not_yet_valid", "certificate is not yet valid"),
            ("cn_only", "Hostname mismatch"),
        ],
    )
    def test_a_bad_certificate(self, authority: Authority, kind: str, why: str) -> None:
        cert = getattr(authority, kind)("localhost")
        with serving(commands(), tls_cert=cert) as server:
            assert why in str(refused(server, ca=authority.ca))
            assert not server.server.handled

    def test_a_wrong_name(self, authority: Authority) -> None:
        with serving(commands(), tls_cert=authority.issue("other.example")) as server:
            assert "Hostname mismatch" in str(refused(server, ca=authority.ca))

    def test_a_wrong_authority(self, authority: Authority, tmp_path: Path) -> None:
        other = Authority(tmp_path, "other")
        with serving(commands(), tls_cert=other.issue("localhost")) as server:
            assert "unable to get local issuer" in str(refused(server, ca=authority.ca))

    def test_the_systems_authorities_do_not_know_ours(self, authority: Authority) -> None:
        with serving(commands(), tls_cert=authority.issue("localhost")) as server:
            assert "can't be trusted" in str(refused(server))

    def test_a_self_signed_certificate(self, authority: Authority, tmp_path: Path) -> None:
        with serving(commands(), tls_cert=self_signed(tmp_path, "localhost")) as server:
            assert "self-signed certificate" in str(refused(server, ca=authority.ca))

    def test_a_server_that_speaks_plain(self, authority: Authority) -> None:
        with serving(commands()) as server:
            message = str(refused(server, ca=authority.ca))
        assert "does not speak TLS" in message

    def test_a_server_that_only_knows_tls_1_1(self, authority: Authority) -> None:
        context = authority.server_context(authority.issue("localhost"))
        allow_tls_1_1(context)
        with peer(context) as where:
            assert "TLS failed" in str(refused(where, ca=authority.ca))

    def test_a_server_that_says_nothing(self, authority: Authority) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            where = f"127.0.0.1:{silent.getsockname()[1]}"
            options = {"ca": authority.ca, "connect_timeout": 0.1, "retries": 0}
            with gtcp.Client(tls(where), **options) as client:
                with pytest.raises(gtcp.ConnectError, match=r"not connected within 0\.1 s"):
                    client.call(1)
                with pytest.raises(gtcp.CallTimeout) as caught:
                    client.call(1, timeout=0.05)
                assert caught.value.executed == "no"


class TestClientIsNotTrusted:
    @pytest.fixture
    def server(self, authority: Authority) -> Any:
        cert = authority.issue("localhost")
        options = {"tls_ca": authority.ca, "require_client_cert": True}
        with serving(commands(), tls_cert=cert, **options) as server:
            yield server
            assert not server.server.handled

    def test_none(self, server: Serving, authority: Authority) -> None:
        assert "certificate required" in str(refused(server, ca=authority.ca))

    @pytest.mark.parametrize(
        ("kind", "why"), [("expired", "certificate expired"), ("not_yet_valid", "bad certificate")]
    )
    def test_a_bad_one(self, server: Serving, authority: Authority, kind: str, why: str) -> None:
        cert = getattr(authority, kind)("billing.example")
        assert why in str(refused(server, ca=authority.ca, cert=cert))

    def test_one_of_a_wrong_authority(
        self, server: Serving, authority: Authority, tmp_path: Path
    ) -> None:
        cert = Authority(tmp_path, "other").issue("billing.example")
        assert "unknown ca" in str(refused(server, ca=authority.ca, cert=cert))

    def test_a_self_signed_one(self, server: Serving, authority: Authority, tmp_path: Path) -> None:
        cert = self_signed(tmp_path, "billing.example")
        assert "TLS failed" in str(refused(server, ca=authority.ca, cert=cert))

    def test_a_client_of_tls_1_1(self, server: Serving, authority: Authority) -> None:
        context = authority.client_context(authority.issue("billing.example"))
        allow_tls_1_1(context)
        with pytest.raises(ssl.SSLError), tls_line(server, context):
            pass

    def test_a_plain_client_is_told_what_is_spoken(
        self, server: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        with gtcp.Client(server.address) as client, pytest.raises(gtcp.RemoteError) as caught:
            client.call(1)
        assert (caught.value.code, caught.value.executed) == (400, "no")
        assert caught.value.message == "TLS is spoken here"
        eventually(lambda: "TLS is spoken here" in caplog.text)


class TestIdentity:
    NAMES = ("billing.team.example", "spiffe://example/team/billing")

    def test_names_of_the_certificate(self, authority: Authority) -> None:
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        cert = authority.with_uri(*self.NAMES)
        with serving(commands(), **options) as server:
            with gtcp.Client(tls(server), ca=authority.ca, cert=cert) as client:
                assert client.call(2) == [self.NAMES[0], list(self.NAMES)]
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                assert client.call(2) == [None, []]

    @pytest.mark.parametrize("forged", ["uid:0", "key:billing.1", "UID:0"])
    def test_a_uri_can_not_pass_for_another_kind(
        self, authority: Authority, forged: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = commands()
        table.handler(3, allow=["uid:0", "key:billing.*", forged])(lambda request: "done")
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        cert = authority.with_uri("orders.example", forged)
        with serving(table, **options) as server:
            with gtcp.Client(tls(server), ca=authority.ca, cert=cert) as client:
                assert client.call(2) == ["orders.example", ["orders.example"]]
                with pytest.raises(gtcp.RemoteError, match="403"):
                    client.call(3)
            eventually(lambda: f"names in its certificate are ignored: {forged}" in caplog.text)

    def test_a_dns_name_with_a_nul_or_a_line_break_is_none(
        self, authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        names = ["billing.example\0.evil.example", "a\nINFO forged", "\x1b[2J"]
        cert = authority.sign("", *(x509.DNSName(each) for each in names))
        with serving(commands(), **options) as server:
            with gtcp.Client(tls(server), ca=authority.ca, cert=cert) as client:
                assert client.call(2) == [None, []]
            eventually(lambda: "are ignored: billing.example\\x00.evil" in caplog.text)
            assert r"a\nINFO forged, \x1b[2J" in caplog.text

    @pytest.mark.parametrize(
        "kind", [x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name]
    )
    def test_names_that_can_not_be_decoded_are_refused_with_one_line(
        self, authority: Authority, kind: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        cert = authority.with_undecodable(kind)
        with serving(commands(), **options) as server:
            why = "the names in the certificate can't be decoded"
            assert f"403 {why}" in str(refused(server, ca=authority.ca, cert=cert))
            eventually(lambda: caplog.text.count(f"{why}; closing") == 1)
            assert "Traceback" not in caplog.text
            assert not server.server.handled

    def test_the_common_name_is_none(self, authority: Authority) -> None:
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        cert = authority.cn_only("billing.team.example")
        with serving(commands(), **options) as server:
            with gtcp.Client(tls(server), ca=authority.ca, cert=cert) as client:
                assert client.call(2) == [None, []]

    @pytest.mark.parametrize(
        ("allowed", "comes_in"),
        [
            ("billing.team.example", True),
            ("*.team.example", True),
            ("spiffe://example/team/*", True),
            ("*.example", False),
            ("spiffe://example/*", False),
            ("orders.team.example", False),
        ],
    )
    def test_who_may_connect(
        self, authority: Authority, allowed: str, comes_in: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        cert = authority.with_uri(*self.NAMES)
        options = {"tls_ca": authority.ca, "allow_identities": (allowed,)}
        with serving(commands(), tls_cert=authority.issue("localhost"), **options) as server:
            if comes_in:
                with gtcp.Client(tls(server), ca=authority.ca, cert=cert) as client:
                    assert client.call(1) == {}
            else:
                message = str(refused(server, ca=authority.ca, cert=cert))
                assert "refused: 403 not allowed to connect" in message
                eventually(lambda: "not allowed to connect; closing" in caplog.text)
            assert "403" in str(refused(server, ca=authority.ca))


class TestWire:
    """Peers that speak TLS with the standard library."""

    @pytest.fixture
    def server(self, authority: Authority) -> Any:
        with serving(commands(), tls_cert=authority.issue("localhost")) as server:
            yield server

    def test_lines_that_come_with_the_end_of_the_handshake(
        self, server: Serving, authority: Authority
    ) -> None:
        """Handshake's last message, request and goodbye in one segment."""
        memory_in, memory_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = authority.client_context().wrap_bio(
            memory_in, memory_out, server_hostname="localhost"
        )
        with Line(server.address) as line:
            while True:
                try:
                    peer.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    line.sock.sendall(memory_out.read())
                    memory_in.write(line.sock.recv(65536))
            peer.write(b'{"cmdid":1}\n')
            with pytest.raises(ssl.SSLWantReadError):
                peer.unwrap()
            line.sock.sendall(memory_out.read())
            while data := line.sock.recv(65536):
                memory_in.write(data)
            memory_in.write_eof()
            assert json.loads(peer.read()) == {"code": 0, "result": {}}
            with pytest.raises(ssl.SSLZeroReturnError):  # the server has said goodbye too
                peer.read()

    def test_half_a_line_that_is_cut_off_is_not_run(
        self, server: Serving, authority: Authority
    ) -> None:
        with tls_line(server, authority.client_context()) as line:
            assert line.ask({"cmdid": 1})["code"] == 0
            line.send(b'{"cmdid":1}')
            line.sock.shutdown(socket.SHUT_WR)  # a FIN without TLS's goodbye
            assert broken(line)
        eventually(lambda: not server.server.connections)
        assert server.server.handled == 1

    def test_tampering_ends_the_connection(self, server: Serving, authority: Authority) -> None:
        with tls_line(server, authority.client_context()) as line:
            assert line.ask({"cmdid": 1})["code"] == 0
            with socket.socket(fileno=socket.dup(line.sock.fileno())) as raw:
                raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            assert broken(line)
        eventually(lambda: not server.server.connections)
        assert server.server.handled == 1

    def test_a_reply_of_many_records_to_a_slow_reader(
        self, server: Serving, authority: Authority
    ) -> None:
        with tls_line(server, authority.client_context(), receive_buffer=4096) as line:
            text = "x" * 900_000
            line.send(*({"cmdid": 1, "params": {"t": text}, "id": n} for n in range(5)))
            assert {each["id"] for each in line.replies(5)} == set(range(5))

    def test_a_drain_says_goodbye_within_tls(self, server: Serving, authority: Authority) -> None:
        with tls_line(server, authority.client_context()) as line:
            assert line.ask({"cmdid": 1})["code"] == 0
            server.stop()
            assert line.rest() == [{"code": 503, "message": "going away"}]

    def test_key_updates_of_a_peer_that_does_not_read_end_by_the_write_timeout(
        self, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """TLS answers each update by itself; the connection is not read from meanwhile."""
        context = authority.client_context()
        context.keylog_filename = str(tmp_path / "keys")
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert, write_timeout=0.3) as server:
            send_little(server)
            with tls_line(server, context, receive_buffer=4096) as line:
                updates = KeyUpdates(line.sock, tmp_path / "keys")
                with socket.socket(fileno=socket.dup(line.sock.fileno())) as raw:
                    raw.settimeout(PATIENCE)
                    with suppress(ConnectionError):
                        while True:
                            raw.sendall(updates.records(1000))
            eventually(lambda: "takes no replies; closing" in caplog.text)
            assert not server.server.connections

    def test_key_updates_before_the_secret_is_proven_end(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        context = authority.client_context()
        context.keylog_filename = str(tmp_path / "keys")
        settings = gtcp.Settings(port=0, tls_cert=authority.issue("localhost"))
        settings = msgspec.structs.replace(settings, handshake_timeout=PATIENCE)
        with serving(gtcp.Server(settings, secret="s" * 32)) as server:
            send_little(server)
            with tls_line(server, context, receive_buffer=4096) as line:
                updates = KeyUpdates(line.sock, tmp_path / "keys")
                with socket.socket(fileno=socket.dup(line.sock.fileno())) as raw:
                    raw.settimeout(PATIENCE)
                    with suppress(ConnectionError):
                        while True:
                            raw.sendall(updates.records(1000))

    def test_silence_is_closed_in_the_end(self, authority: Authority) -> None:
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert, handshake_timeout=0.1) as server:
            with Line(server.address) as line:
                assert line.at_end()
            assert not server.server.connections

    def test_garbage_behind_a_good_beginning(self, server: Serving) -> None:
        with Line(server.address) as line:
            line.send(b"\x16\x03\x01\x00\x05hello")
            assert broken(line)

    def test_unfinished_handshakes_count_as_connections(
        self, authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert, max_connections=2) as server:
            with Line(server.address) as one, Line(server.address) as two:
                eventually(lambda: server.server._context.entering == 2)  # type: ignore[union-attr]
                with Line(server.address) as three:
                    assert three.at_end()
                one.close()
                two.close()
            eventually(lambda: not server.server._context.entering)  # type: ignore[union-attr]
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                assert client.call(1) == {}


class TestClientWire:
    def test_a_reply_that_is_cut_off_is_a_lost_connection(self, authority: Authority) -> None:
        with peer(authority.server_context(authority.issue("localhost")), cut_off) as where:
            with gtcp.Client(tls(where), ca=authority.ca, retries=0) as client:
                with pytest.raises(gtcp.ConnectionLost, match="cut off") as caught:
                    client.call(1)
                assert caught.value.executed == "maybe"

    def test_a_client_reads_replaced_certificates(self, authority: Authority) -> None:
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        cert = authority.issue("old.example", file="client")
        with serving(commands(), **options) as server:
            with gtcp.Client(tls(server), ca=authority.ca, cert=cert) as client:
                assert client.call(2)[0] == "old.example"
                authority.issue("new.example", file="client")
                for connection in list(server.server.connections):
                    server.run(connection.close)
                assert client.call(2, idempotent=True)[0] == "new.example"
                Path(cert).write_text("half written")
                for connection in list(server.server.connections):
                    server.run(connection.close)
                assert client.call(2, idempotent=True)[0] == "new.example"

    @pytest.mark.parametrize("option", ["ca", "cert", "key", "server_name"])
    def test_options_of_tls_need_an_address_of_tls(self, option: str) -> None:
        with pytest.raises(ValueError, match=f"{option}: expected an address that begins with"):
            gtcp.Client("127.0.0.1", **{option: "x"})

    def test_files_are_read_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"can't use the authorities in .*: No such file"):
            gtcp.Client("tls://localhost", ca=str(tmp_path / "none"))

    def test_threads_share_a_client(self, authority: Authority) -> None:
        with serving(commands(), tls_cert=authority.issue("localhost")) as server:
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                results: list[Any] = []
                threads = [
                    threading.Thread(target=lambda n=n: results.append(client.call(1, {"n": n})))
                    for n in range(5)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(PATIENCE)
                assert sorted(each["n"] for each in results) == list(range(5))

    def test_what_was_sent_last_runs_though_the_client_closes(self, authority: Authority) -> None:
        gate, table = Gate(), gtcp.Commands()
        table.handler(1)(lambda request: gate.wait())
        with serving(table, tls_cert=authority.issue("localhost"), half_close_grace=60) as server:
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                client.notify(1)
                eventually(lambda: gate.waiting)
            eventually(lambda: not next(iter(server.server.connections)).reading)
            assert gate.waiting
            gate.open()
            eventually(lambda: gate.passed == 1)


class TestReload:
    def test_new_connections_get_the_new_certificate_and_old_ones_stay(
        self, authority: Authority
    ) -> None:
        cert = authority.issue("localhost", "old.example")
        with serving(commands(), tls_cert=cert) as server:
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                client.call(1)
                authority.issue("localhost", "new.example")
                server.run(server.server.reload)
                with tls_line(server, authority.client_context()) as line:
                    names = dict(line.sock.getpeercert()["subjectAltName"])
                    assert names == {"DNS": "new.example"}
                client.call(1)
                assert client.stats()["opened"] == 1

    def test_a_bad_new_certificate_is_logged_and_the_old_one_kept(
        self, authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert) as server:
            Path(cert).write_text("oops")
            with caplog.at_level(logging.ERROR, "gtcp.server"):
                server.run(server.server.reload)
            assert f"can't use certificate {cert}" in caplog.text
            with gtcp.Client(tls(server), ca=authority.ca) as client:
                assert client.call(1) == {}

    def test_a_server_does_not_start_with_a_bad_certificate(self, tmp_path: Path) -> None:
        (tmp_path / "cert").write_text("oops")
        server = gtcp.Server(gtcp.Settings(port=0, tls_cert=str(tmp_path / "cert")))
        with pytest.raises(gtcp.SettingsError, match=r"can't use .*: there is nothing in PEM form"):
            server.start()
        assert not server.addresses

    def test_an_encrypted_key_does_not_ask_for_a_password(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        cert = Path(authority.issue("localhost"))
        cert.write_bytes(encrypted(cert.read_bytes()))
        server = gtcp.Server(gtcp.Settings(port=0, tls_cert=str(cert)))
        with pytest.raises(gtcp.SettingsError, match="keys without a password"):
            server.start()


# What they share


def broken(line: Line) -> bool:
    """Whether the connection ends without a reply, whichever way."""
    try:
        return b"code" not in line.line()
    except OSError:
        return True


def send_little(server: Serving) -> None:
    """Have the kernel hold less for peers that do not read: connections inherit the size."""
    (listener,) = server.server._listeners
    listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def tls_line(server: Serving, context: ssl.SSLContext, **options: Any) -> Line:
    line = Line(server.address, **options)
    try:
        line.sock = context.wrap_socket(line.sock, server_hostname="localhost")
    except BaseException:
        line.close()
        raise
    return line


def allow_tls_1_1(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would not even try


def echo(sock: ssl.SSLSocket) -> None:
    """Answer every line with its params."""
    for line in sock.makefile("rb"):
        request = json.loads(line)
        reply = {"code": 0, "id": request["id"], "result": request.get("params", "pong")}
        sock.sendall(json.dumps(reply).encode() + b"\n")


def cut_off(sock: ssl.SSLSocket) -> None:
    """Let the client in; the reply to its call ends in the middle, without TLS's goodbye."""
    sock.recv(65536)
    sock.sendall(b'{"code":0,"id":1,"result":"pong"}\n')
    sock.recv(65536)
    sock.sendall(b'{"code":0,"id":1}')
    sock.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        sock.recv(65536)


@contextmanager
def peer(context: ssl.SSLContext, script: Callable[[ssl.SSLSocket], None] = echo) -> Iterator[str]:
    """A server on the standard library's TLS, one connection after another."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), sock, context.wrap_socket(sock, server_side=True) as tls_sock:
                script(tls_sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
