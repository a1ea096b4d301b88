"""The shared secret: the exchange itself, and between real clients and servers."""

from __future__ import annotations

import hmac
import json
import pickle
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.transport import secret
from gtcp.transport.secret import (
    BINDING_MARK,
    Challenge,
    Hello,
    Key,
    Nonce,
    Proof,
    Prove,
    Response,
    find_keys,
    read_keys,
)
from gtcp.transport.tls import sent_certificate, server_context
from tests.client.fakes import fake_server
from tests.edge.certificates import Authority
from tests.helpers import PATIENCE, Serving, eventually, in_fork, serving

OLD = "billing.1:" + "o" * 32
NEW = "billing.2:" + "n" * 32
OTHER = "billing.1:" + "x" * 32

#: What stands for the SHA-256 of a certificate.
CERTIFICATE = "a" * 64


def hello_with(more: bytes) -> bytes:
    """A client's first message, all right but for this value that nobody asked for."""
    said = b'"op":"hello","key":"k","nonce":"' + b"0" * 64 + b'"'
    return b'{"cmdid":0,"params":{' + said + b'},"more":' + more + b"}\n"


def commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def who(request: gtcp.Request) -> Any:
        return request.peer.identity

    return table


def guarded(*secrets: str, **settings: Any) -> gtcp.Server:
    server = gtcp.Server(gtcp.Settings(port=0, **settings), secret=secrets)
    server.include(commands())
    return server


class TestExchange:
    def test_both_sides_prove_that_they_know_it(self) -> None:
        challenge, response = Challenge(read_keys([OLD])), Response(Key(OLD))
        nonce = challenge.answer(response.hello())
        assert isinstance(nonce, Nonce)
        proof = challenge.answer(response.prove(nonce))
        assert isinstance(proof, Proof)
        assert response.is_proven_by(proof)
        assert challenge.identity == "billing.1"

    @pytest.mark.parametrize("wrong", [OTHER, "nobody:" + "o" * 32])
    def test_a_wrong_secret_and_an_unknown_key_look_the_same(self, wrong: str) -> None:
        challenge, response = Challenge(read_keys([OLD])), Response(Key(wrong))
        nonce = challenge.answer(response.hello())
        assert isinstance(nonce, Nonce)
        assert challenge.answer(response.prove(nonce)) is None
        assert challenge.identity is None

    @pytest.mark.parametrize("name", ["billing.1", "nobody", "billing", "\u00e9", ""])
    @pytest.mark.parametrize("certificate", ["", CERTIFICATE])
    def test_a_known_and_an_unknown_name_cost_the_same(
        self, name: str, certificate: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One proof is computed, over as many bytes and with as long a secret."""
        computed: list[tuple[int, int]] = []
        digest = hmac.digest

        def counting(secret: bytes, words: bytes, name: str) -> bytes:
            computed.append((min(len(secret), 64), len(words)))
            return digest(secret, words, name)

        longer = "billing.1:" + "o" * 200
        challenge = Challenge(read_keys([longer, "other:" + "p" * 64]), certificate)
        assert challenge.answer(Hello(name, "0" * 48 + BINDING_MARK)) is not None
        monkeypatch.setattr(hmac, "digest", counting)
        lines, made = self.lines_of(lambda: challenge.answer(Prove("0" * 64)))
        assert made is None
        words = len(name.encode()) + len("gtcp 1 client  ") + 2 * 64 + 1
        assert computed == [(computed[0][0], words + (65 if certificate else 0))]
        assert computed[0][0] in (32, 64)  # one block of HMAC's, however long the secret is
        other = Challenge(read_keys([longer]), certificate)
        other.answer(Hello("x" * 60, "0" * 48 + BINDING_MARK))
        assert lines == self.lines_of(lambda: other.answer(Prove("0" * 64)))[0]

    def lines_of(self, function: Any) -> tuple[list[tuple[str, int]], Any]:
        """The lines of gtcp.transport.secret that a call runs, and what it returns."""
        lines: list[tuple[str, int]] = []

        def trace(frame: Any, event: str, _arg: object) -> Any:
            if not frame.f_code.co_filename.endswith("gtcp/transport/secret.py"):
                return None
            if event == "line":
                lines.append((frame.f_code.co_name, frame.f_lineno))
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            outcome = function()
        finally:
            sys.settrace(before)
        return lines, outcome

    def test_no_proof_is_accepted_for_an_unknown_name(self) -> None:
        """Refuse even a proof with the secret that replaces a missing one."""
        challenge = Challenge(read_keys([OLD]))
        hello = Hello("nobody", "0" * 64)
        nonce = challenge.answer(hello)
        assert isinstance(nonce, Nonce)
        proof = secret._UNKNOWN.proof("nobody", "client", (hello.nonce, nonce.nonce), "")
        assert challenge.answer(Prove(proof)) is None
        assert challenge.identity is None

    def test_there_is_one_try(self) -> None:
        challenge, response = Challenge(read_keys([OLD])), Response(Key(OLD))
        nonce = challenge.answer(response.hello())
        assert isinstance(nonce, Nonce)
        right = response.prove(nonce)
        assert challenge.answer(Prove("0" * 64)) is None
        assert challenge.answer(right) is None
        assert challenge.answer(response.hello()) is None

    def test_proof_comes_after_hello_and_hello_once(self) -> None:
        assert Challenge(read_keys([OLD])).answer(Prove("0" * 64)) is None
        challenge = Challenge(read_keys([OLD]))
        assert challenge.answer(Response(Key(OLD)).hello()) is not None
        assert challenge.answer(Response(Key(OLD)).hello()) is None

    def test_a_replayed_proof_is_worth_nothing(self) -> None:
        first, response = Challenge(read_keys([OLD])), Response(Key(OLD))
        hello = response.hello()
        nonce = first.answer(hello)
        assert isinstance(nonce, Nonce)
        prove = response.prove(nonce)
        assert first.answer(prove) is not None
        again = Challenge(read_keys([OLD]))
        assert again.answer(hello) is not None
        assert again.answer(prove) is None

    def test_a_reflected_proof_is_worth_nothing(self) -> None:
        """A server without the secret sends back what the client proved."""
        response = Response(Key(OLD))
        hello = response.hello()
        prove = response.prove(Nonce(hello.nonce))
        assert not response.is_proven_by(Proof(prove.proof))

    def test_a_client_can_not_be_made_to_prove_for_another_name(self) -> None:
        """The name is in the proof: one secret under two names is two keys."""
        challenge = Challenge(read_keys(["a:" + "o" * 32, "b:" + "o" * 32]))
        response = Response(Key("a:" + "o" * 32))
        nonce = challenge.answer(Hello("b", response.hello().nonce))
        assert isinstance(nonce, Nonce)
        assert challenge.answer(response.prove(nonce)) is None


class TestBinding:
    """Over TLS, proofs are bound to the server's certificate."""

    def outcome(self, challenge: Challenge, response: Response, *, strip: bool = False) -> str:
        """How the exchange of these two ends, with a relay in between that may strip the offer."""
        nonce = challenge.answer(response.hello())
        assert isinstance(nonce, Nonce)
        proof = challenge.answer(response.prove(Nonce(nonce.nonce) if strip else nonce))
        if proof is None:
            return "refused by the server"
        assert isinstance(proof, Proof)
        return "proven" if response.is_proven_by(proof) else "refused by the client"

    @pytest.mark.parametrize(
        ("server", "client", "strip", "outcome"),
        [
            (CERTIFICATE, CERTIFICATE, False, "proven"),
            (CERTIFICATE, "b" * 64, False, "refused by the server"),  # a relay in between
            (CERTIFICATE, "b" * 64, True, "refused by the server"),  # which says that it is of 0.2
            (CERTIFICATE, CERTIFICATE, True, "refused by the server"),
            (CERTIFICATE, "", False, "proven"),  # a client of 0.2
            ("", CERTIFICATE, False, "proven"),  # a server of 0.2, or without TLS behind a proxy
            ("", "", False, "proven"),
        ],
    )
    def test_who_trusts_whom(self, server: str, client: str, strip: bool, outcome: str) -> None:
        challenge = Challenge(read_keys([OLD]), server)
        assert self.outcome(challenge, Response(Key(OLD), client), strip=strip) == outcome

    def test_the_servers_proof_is_bound_too(self) -> None:
        """Even if the real server accepted a relayed proof, the client refuses the answer."""
        response = Response(Key(OLD), CERTIFICATE)
        hello = response.hello()
        response.prove(Nonce("0" * 64, "certificate"))
        for certificate in ("", "b" * 64):
            proof = Key(OLD).proof("billing.1", "server", (hello.nonce, "0" * 64), certificate)
            assert not response.is_proven_by(Proof(proof))

    def test_the_words_are_those_of_the_documentation(self) -> None:
        """Computed as docs/reference/wire.md says, without gtcp."""

        def by_hand(words: str) -> str:
            return hmac.new(b"o" * 32, words.encode(), "sha256").hexdigest()

        for certificate, version in (("", "1"), (CERTIFICATE, "2")):
            challenge = Challenge(read_keys([OLD]), certificate)
            client = "c" * 48 + "6774637062696e64"
            answer = challenge.answer(Hello("billing.1", client))
            assert isinstance(answer, Nonce)
            assert answer.binding == ("certificate" if certificate else None)
            rest = f"billing.1 {client} {answer.nonce}" + (certificate and f" {certificate}")
            proof = challenge.answer(Prove(by_hand(f"gtcp {version} client {rest}")))
            assert proof == Proof(by_hand(f"gtcp {version} server {rest}"))

    @pytest.fixture
    def real(self, authority: Authority) -> Iterator[Serving]:
        with serving(guarded(OLD, tls_cert=authority.issue("localhost"))) as server:
            yield server

    @pytest.mark.parametrize("strips", [False, True])
    def test_a_relay_with_a_certificate_of_its_own_is_refused(
        self, authority: Authority, real: Serving, strips: bool
    ) -> None:
        """A server that the client calls connects to another one in the client's name."""
        cert = authority.issue("relay.example", file="relay")
        with relay(authority, cert, real.address, strips=strips) as where:
            options: Any = {"ca": authority.ca, "server_name": "relay.example", "secret": OLD}
            with gtcp.Client(f"tls://{where}", **options) as client:
                with pytest.raises(gtcp.ConnectError, match="401 the secret is wrong") as caught:
                    client.call(1)
        assert caught.value.executed == "no"
        assert not real.server.handled

    def test_a_relay_with_the_servers_own_certificate_is_the_server(
        self, authority: Authority, real: Serving
    ) -> None:
        """A proxy that ends TLS and begins it again."""
        cert = real.server.settings.tls_cert
        assert cert is not None
        with relay(authority, cert, real.address) as where:
            options: Any = {"ca": authority.ca, "server_name": "localhost", "secret": OLD}
            with gtcp.Client(f"tls://{where}", **options) as client:
                assert client.call(1) == "billing.1"

    def test_a_proxy_that_ends_tls(self, authority: Authority) -> None:
        cert = authority.issue("localhost")
        with serving(guarded(OLD)) as server:
            with relay(authority, cert, server.address, encrypts=False) as where:
                options: Any = {"ca": authority.ca, "server_name": "localhost", "secret": OLD}
                with gtcp.Client(f"tls://{where}", **options) as client:
                    assert client.call(1) == "billing.1"

    @pytest.mark.parametrize("required", [False, True])
    def test_a_client_of_0_2_is_accepted_unless_binding_is_required(
        self, authority: Authority, required: bool
    ) -> None:
        settings = {"tls_cert": authority.issue("localhost"), "require_channel_binding": required}
        with serving(guarded(OLD, **settings)) as server, server.line() as line:
            context = authority.client_context()
            line.sock = context.wrap_socket(line.sock, server_hostname="localhost")
            response = Response(Key(OLD))  # knows nothing of a certificate
            line.send(hello(response))
            answer = line.reply()
            if required:
                assert answer["code"] == 401
                assert answer["message"] == "the proof is not bound to the certificate"
                return
            prove = response.prove(Nonce(answer["result"]["nonce"]))
            line.send({"cmdid": 0, "params": {"op": "prove", "proof": prove.proof}}, {"cmdid": 1})
            proof, reply = line.replies(2)
            assert response.is_proven_by(Proof(proof["result"]["proof"]))
            assert reply["result"] == "billing.1"

    def test_required_binding_is_for_tls_only(self) -> None:
        with serving(guarded(OLD, require_channel_binding=True)) as server:
            with gtcp.Client(server.address, secret=OLD) as client:
                assert client.call(1) == "billing.1"

    def test_required_binding_accepts_a_client_that_binds(self, authority: Authority) -> None:
        settings = {"tls_cert": authority.issue("localhost"), "require_channel_binding": True}
        with serving(guarded(OLD, **settings)) as server:
            where = "tls://localhost:" + server.address.rpartition(":")[2]
            with gtcp.Client(where, ca=authority.ca, secret=OLD) as client:
                assert client.call(1) == "billing.1"

    def test_the_certificate_is_the_one_in_use(self, authority: Authority) -> None:
        """After a reload, and when the file has changed without one."""
        cert = authority.issue("localhost")
        with serving(guarded(OLD, tls_cert=cert)) as server:
            where = "tls://localhost:" + server.address.rpartition(":")[2]
            options: Any = {"ca": authority.ca, "secret": OLD}
            for reloads in (False, True):
                authority.issue("localhost")
                if reloads:
                    server.run(server.server.reload)
                with gtcp.Client(where, **options) as client:
                    assert client.call(1) == "billing.1"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("required", [False, True])
    def test_the_certificate_that_a_context_sends(
        self, authority: Authority, version: ssl.TLSVersion, required: bool
    ) -> None:
        cert = authority.issue("localhost")
        context = server_context(cert, None, authority.ca, require_client_cert=required)
        context.maximum_version = version
        text = Path(cert).read_text()
        pem = text[text.index("-----BEGIN CERTIFICATE") :]
        assert sent_certificate(context) == ssl.PEM_cert_to_DER_cert(pem)
        assert context.verify_mode == (ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL)


@contextmanager
def relay(
    authority: Authority, cert: str, to: str, *, strips: bool = False, encrypts: bool = True
) -> Iterator[str]:
    """A server that passes each line on to another one, and the replies back.

    Args:
        strips: whether it takes the offer to bind out of the answer to hello.
        encrypts: whether it speaks TLS to the other one.
    """

    def pass_replies_on(source: Any, target: Any) -> None:
        with suppress(OSError):
            for line in source.makefile("rb"):
                target.sendall(line.replace(b',"binding":"certificate"', b"") if strips else line)
            target.close()

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                near = authority.server_context(cert).wrap_socket(near, server_side=True)
                host, port = to.split(":")
                far = socket.create_connection((host, int(port)))
                if encrypts:
                    far = authority.client_context().wrap_socket(far, server_hostname="localhost")
                replies = threading.Thread(target=pass_replies_on, args=(far, near), daemon=True)
                replies.start()
                with suppress(OSError):
                    for line in near.makefile("rb"):
                        far.sendall(line)
                with suppress(OSError):
                    far.shutdown(socket.SHUT_RDWR)
                replies.join(PATIENCE)
                near.close()
                far.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        assert not thread.is_alive()


class TestKeys:
    def test_a_name_or_none(self) -> None:
        assert [each.name for each in read_keys(f"{OLD}, {'x' * 16}")] == ["billing.1", "default"]
        assert read_keys(OLD.encode() + b"\n")[0].name == "billing.1"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "no secret in it"),
            ("# only a comment", "no secret in it"),
            ("a:short", "at least 16 characters"),
            ("a b:" + "x" * 32, "the name of a secret"),
            (":" + "x" * 32, "the name of a secret"),
            ("a:" + "x y" * 16, "without spaces"),
            ("a:" + "ü" * 16, "printable ASCII"),
            (("a:" + "ü" * 16).encode(), "printable ASCII"),
            (f"{OLD},{OTHER}", "two secrets have the same name"),
        ],
    )
    def test_bad_ones_are_refused_and_not_shown(self, text: str | bytes, why: str) -> None:
        with pytest.raises(ValueError, match=why) as caught:
            read_keys(text)
        assert "xxx" not in str(caught.value)

    def test_no_repr_holds_a_secret(self) -> None:
        key = Key(OLD)
        client = gtcp.Client("127.0.0.1", secret=OLD)
        shown = f"{key!r} {[key]} {client!r} {vars(client)!r} {client.dial!r}"
        shown += repr(vars(guarded(OLD))) + repr(Response(key)) + repr(Challenge([key]))
        assert "ooo" not in shown
        assert "billing.1" in shown

    def test_a_secret_is_not_pickled(self) -> None:
        with pytest.raises(TypeError):
            pickle.dumps(Key(OLD))

    def test_where_they_are_found(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text(f"# the old one goes in May\n{NEW}\n{OLD}\n")
        names = ["billing.2", "billing.1"]
        assert find_keys(None, {}) == []
        assert [each.name for each in find_keys(str(file), {})] == names
        assert [each.name for each in find_keys(None, {"GTCP_SECRET_FILE": str(file)})] == names
        assert [each.name for each in find_keys(None, {"GTCP_SECRET": OLD})] == ["billing.1"]
        with pytest.raises(ValueError, match="both set"):
            find_keys(None, {"GTCP_SECRET": OLD, "GTCP_SECRET_FILE": str(file)})
        with pytest.raises(ValueError, match=r"can't read the secret in .*none: No such file"):
            find_keys(str(tmp_path / "none"), {})
        with pytest.raises(ValueError, match="GTCP_SECRET: a secret has at least"):
            find_keys(None, {"GTCP_SECRET": "short"})


class TestConnecting:
    def test_the_right_secret_and_its_name_is_the_identity(self) -> None:
        with serving(guarded(OLD)) as server, gtcp.Client(server.address, secret=OLD) as client:
            assert client.call(1) == "billing.1"
            assert client.stats()["opened"] == 1

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GTCP_SECRET", OLD)
        with serving(commands()) as server, gtcp.Client(server.address) as client:
            assert client.call(1) == "billing.1"
            with gtcp.Client(server.address, secret=None) as without:
                with pytest.raises(gtcp.RemoteError, match="401"):
                    without.call(1)

    def test_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(OLD + "\n")
        file = str(tmp_path / "secret")
        with serving(commands(), secret_file=file) as server:
            with gtcp.Client(server.address, secret_file=file) as client:
                assert client.call(1) == "billing.1"

    @pytest.mark.parametrize("secret", [OTHER, NEW])
    def test_a_wrong_secret_is_not_tried_again(
        self, secret: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with serving(guarded(OLD)) as server, gtcp.Client(server.address, secret=secret) as client:
            with pytest.raises(gtcp.ConnectError, match="401 the secret is wrong") as caught:
                client.call(1)
            assert caught.value.executed == "no"
            assert client.stats()["retries"] == 0
            assert not server.server.handled
            eventually(lambda: "the secret is wrong; closing" in caplog.text)
        assert "ooo" not in caplog.text + str(caught.value)

    def test_a_plain_client_is_told_that_nothing_ran(self) -> None:
        with serving(guarded(OLD)) as server, gtcp.Client(server.address) as client:
            calls = [gevent.spawn(client.call, 1, retries) for retries in ({}, {}, {})]
            for call in calls:  # joinall's timeout counts from the hub's last run
                call.join(PATIENCE)
                assert isinstance(call.exception, gtcp.RemoteError)
                assert (call.exception.code, call.exception.executed) == (401, "no")
            assert not server.server.handled

    def test_a_server_that_asks_for_none_is_not_trusted(self) -> None:
        with serving(commands()) as server, gtcp.Client(server.address, secret=OLD) as client:
            with pytest.raises(gtcp.ConnectError, match="asks for no secret") as caught:
                client.call(1)
            assert caught.value.executed == "no"

    def test_a_server_that_does_not_know_it_is_not_trusted(self) -> None:
        def impostor(peer: Any) -> None:
            hello = peer.request()
            peer.answer(hello, result={"nonce": hello["params"]["nonce"]})
            prove = peer.request()
            peer.answer(prove, result={"proof": prove["params"]["proof"]})
            peer.silence()

        with fake_server(impostor) as fake, gtcp.Client(fake.address, secret=OLD) as client:
            with pytest.raises(gtcp.ConnectError, match="does not know the secret"):
                client.call(1)
        assert [each["params"]["op"] for each in fake.peers[0].lines] == ["hello", "prove"]

    def test_two_keys_while_one_replaces_the_other(self) -> None:
        with serving(guarded(NEW, OLD)) as server:
            for secret, name in ((OLD, "billing.1"), (NEW, "billing.2")):
                with gtcp.Client(server.address, secret=secret) as client:
                    assert client.call(1) == name

    def test_rotation_in_a_file_on_reload(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text(OLD)
        with serving(commands(), secret_file=str(file)) as server:
            with gtcp.Client(server.address, secret=OLD) as old:
                assert old.call(1) == "billing.1"
                file.write_text(NEW)
                server.run(server.server.reload)
                with gtcp.Client(server.address, secret=NEW) as new:
                    assert new.call(1) == "billing.2"
                assert old.call(1) == "billing.1"  # its connection stays
            with gtcp.Client(server.address, secret=OLD) as late:
                with pytest.raises(gtcp.ConnectError):
                    late.call(1)
            file.write_text("short")
            server.run(server.server.reload)
            with gtcp.Client(server.address, secret=NEW) as new:
                assert new.call(1) == "billing.2"

    def test_within_tls_there_are_two_identities(self, authority: Any) -> None:
        options = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
        cert = authority.issue("billing.example", file="client")
        with serving(guarded(OLD, **options)) as server:
            where = "tls://localhost:" + server.address.rpartition(":")[2]
            with gtcp.Client(where, ca=authority.ca, cert=cert, secret=OLD) as client:
                assert client.call(1) == "billing.example"

    def test_threads_and_forks(self) -> None:
        with serving(guarded(OLD)) as server, gtcp.Client(server.address, secret=OLD) as client:
            assert client.call(1) == "billing.1"
            results: list[Any] = []
            thread = threading.Thread(target=lambda: results.append(client.call(1)))
            thread.start()
            thread.join(PATIENCE)
            assert results == ["billing.1"]
            assert in_fork(lambda: client.call(1) == "billing.1") == 0
            assert client.call(1) == "billing.1"

    def test_min_connections_and_a_restart(self) -> None:
        with serving(guarded(OLD)) as server:
            options: Any = {"secret": OLD, "min_connections": 3}
            with gtcp.Client(server.address, **options) as client:
                calls = [gevent.spawn(client.call, 1) for _ in range(30)]
                for call in calls:
                    call.get(timeout=PATIENCE)


class TestStrangers:
    @pytest.fixture
    def server(self) -> Any:
        with serving(guarded(OLD, handshake_timeout=0.3)) as server:
            yield server
            assert not server.server.handled

    @pytest.mark.parametrize(
        ("said", "code"),
        [
            (b'{"cmdid":1}\n', 401),
            (b'{"cmdid":0}\n', 401),
            (b'{"cmdid":0,"params":{"op":"commands"}}\n{"cmdid":1,"id":7}\n', 401),
            (b"garbage\n", 401),
            (b"\xff\xfe\n", 401),
            (b"[" * 900 + b"\n", 401),
            (b'{"cmdid":0,"params":{"op":"hello","key":"k","nonce":"short"}}\n', 401),
            (b'{"cmdid":0,"params":{"op":"prove","proof":"' + b"0" * 64 + b'"}}\n', 401),
            (b"x" * 5000, 413),
            (hello_with(b'"' + b"x" * 1000 + b'"'), 413),
            (hello_with(b"[" * 100 + b"]" * 100), 401),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", 401),
        ],
    )
    def test_are_told_so_and_nothing_more(self, server: Serving, said: bytes, code: int) -> None:
        with server.line() as line:
            line.send(said)
            (last,) = line.rest()
            assert last["code"] == code
            assert "id" not in last

    def test_who_is_slow_is_closed(self, server: Serving) -> None:
        with server.line() as line:
            line.send(b'{"cmdid":0,"params":{"op":"hel')
            assert line.at_end()
        assert not server.server.connections

    def test_who_goes_in_the_middle_leaves_nothing(self, server: Serving) -> None:
        with server.line() as line:
            line.send(hello())
            assert len(line.reply()["result"]["nonce"]) == 64
        context = server.server._context
        assert context is not None
        eventually(lambda: not context.entering and not context.hosts)

    def test_a_drain_does_not_wait_for_them(self) -> None:
        with serving(guarded(OLD, handshake_timeout=600.0)) as server, server.line() as line:
            line.send(hello())
            line.reply()
            server.stop()
            assert line.at_end()

    def test_per_address_limit_counts_those_who_have_not_proven_it(self) -> None:
        with serving(guarded(OLD, max_connections_per_address=1)) as server:
            with server.line() as first:
                first.send(hello())
                first.reply()
                with server.line() as second:
                    assert second.reply()["code"] == 429
            context = server.server._context
            assert context is not None
            eventually(lambda: not context.hosts)
            with gtcp.Client(server.address, secret=OLD) as client:
                assert client.call(1) == "billing.1"

    def test_requests_right_behind_the_proof_are_served(self) -> None:
        with serving(guarded(OLD)) as server, server.line() as line:
            response = Response(Key(OLD))
            line.send(hello(response))
            prove = response.prove(Nonce(line.reply()["result"]["nonce"]))
            params = {"op": "prove", "proof": prove.proof}
            line.send({"cmdid": 0, "params": params}, {"cmdid": 1}, b'{"cmdid"', b":1}\n")
            proof, *replies = line.replies(3)
            assert response.is_proven_by(Proof(proof["result"]["proof"]))
            assert [each["result"] for each in replies] == ["billing.1"] * 2


def hello(response: Response | None = None) -> bytes:
    said = (response or Response(Key(OLD))).hello()
    params = {"op": "hello", "key": said.key, "nonce": said.nonce}
    return json.dumps({"cmdid": 0, "params": params}).encode() + b"\n"


def test_a_line_of_the_client_never_holds_the_secret() -> None:
    with fake_server(lambda peer: peer.silence()) as fake:
        options: Any = {"secret": OLD, "connect_timeout": 0.1, "retries": 0}
        with gtcp.Client(fake.address, **options) as client, pytest.raises(gtcp.ConnectError):
            client.call(1)
        eventually(lambda: fake.peers[0].lines)
    assert "ooo" not in json.dumps(fake.peers[0].lines)


def test_a_line_that_is_no_reply_is_no_server(tmp_path: Path) -> None:
    for said in (b"SSH-2.0-OpenSSH_9.2\r\n", b"x" * 10_000, b'{"code":0,"id":1,"result":[]}\n'):
        with fake_server(lambda peer, said=said: (peer.send(said), peer.silence())) as fake:
            with gtcp.Client(fake.address, secret=OLD) as client:
                with pytest.raises(gtcp.ConnectError, match="does not"):
                    client.call(1)


@pytest.mark.parametrize("more", ["[" * 600 + "]" * 600, '"' + "x" * 5000 + '"'])
def test_a_nonce_that_nests_too_deep_or_is_too_long_is_no_server(more: str) -> None:
    said = f'{{"code":0,"id":1,"result":{{"nonce":"{"0" * 64}","more":{more}}}}}\n'.encode()
    with fake_server(lambda peer: (peer.send(said), peer.silence())) as fake:
        options: Any = {"secret": OLD, "connect_timeout": 5.0, "retries": 0}
        with gtcp.Client(fake.address, **options) as client:
            with pytest.raises(gtcp.ConnectError, match="does not speak gtcp"):
                client.call(1)
