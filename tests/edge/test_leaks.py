"""Secrets and data that must not appear in logs, error replies and output."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gtcp
from gtcp.server.ops.logger import EscapingFormatter
from tests.edge.certificates import Authority
from tests.helpers import PATIENCE, eventually, serving

SECRET = "billing.1:" + "s3cr3t" * 6
WORD = "hush-hush"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Return all that gtcp logs at level debug, as its own formatter writes it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(EscapingFormatter("%(name)s %(message)s"))
    logger = logging.getLogger("gtcp")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield text
    logger.setLevel(level)
    logger.removeHandler(handler)


class Pin(msgspec.Struct):
    pin: int


def commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def fail(request: gtcp.Request) -> None:
        raise RuntimeError("it broke")

    @table.handler(2)
    def typed(request: gtcp.Request[Pin]) -> str:
        return "ok"

    @table.handler(3, allow=["nobody"])
    def guarded(request: gtcp.Request) -> None: ...

    return table


def test_params_are_in_no_log_line_and_no_error_reply(log: io.StringIO) -> None:
    with serving(commands(), access_log=True) as server, server.line() as line:
        requests = [
            {"cmdid": 1, "params": {"word": WORD}},
            {"cmdid": 2, "params": {"pin": WORD}},
            {"cmdid": 3, "params": {"word": WORD}},
            {"cmdid": 99, "params": {"word": WORD}},
            {"cmdid": 0, "params": {"op": WORD}},
            {"cmdid": 1, "params": {"word": WORD}, "meta": {WORD: WORD}},
        ]
        replies = [line.ask(each) for each in requests]
        line.send(b'{"cmdid":1,"params":{"word":"' + WORD.encode() + b'"\n')
        replies += line.rest()
        assert [each["code"] for each in replies] == [500, 422, 403, 404, 422, 500, 400]
        eventually(lambda: "not a request" in log.getvalue())
    assert "it broke" in log.getvalue()
    assert WORD not in log.getvalue()
    assert WORD not in json.dumps(replies)
    assert "it broke" not in json.dumps(replies)
    assert "Traceback" not in json.dumps(replies)


def test_lines_of_peers_can_not_be_forged(log: io.StringIO, authority: Authority) -> None:
    """A name in a certificate is the one text of a peer's own that is logged."""
    evil = "spiffe://example/\n\x1b[2Jgtcp.server all is well" + "x" * 1000
    options: Any = {"tls_cert": authority.issue("localhost"), "tls_ca": authority.ca}
    cert = authority.with_uri("a.example", evil)
    with serving(commands(), **options) as server:
        where = "tls://localhost:" + server.address.rpartition(":")[2]
        with gtcp.Client(where, ca=authority.ca, cert=cert) as client:
            with pytest.raises(gtcp.RemoteError, match="403"):
                client.call(3)
        eventually(lambda: "may not call" in log.getvalue())
    assert "\x1b" not in log.getvalue()
    assert not any(line.startswith("\x1b") for line in log.getvalue().splitlines())
    assert max(len(each) for each in log.getvalue().splitlines()) < 500


def test_a_secret_is_nowhere(log: io.StringIO) -> None:
    server = gtcp.Server(gtcp.Settings(port=0, access_log=True), secret=SECRET)
    server.include(commands())
    shown = ""
    with serving(server) as running:
        for secret in (SECRET, SECRET.replace("s3", "S3")):
            with gtcp.Client(running.address, secret=secret) as client:
                try:
                    client.call(1)
                except gtcp.GtcpError as exc:
                    shown += f"{exc!r} {exc.__cause__!r} {vars(exc)}"
                shown += repr(vars(client)) + repr(client._options)
        shown += repr(vars(server)) + repr(server.settings) + repr(server._handshake.get())
        shown += repr(vars(server._handshake.get()))
    assert "3cr3t" not in log.getvalue() + shown
    assert "the secret is wrong" in log.getvalue()


class TestCommandLine:
    """The gtcp command as a client that is known."""

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        import os

        return subprocess.run(
            [sys.executable, "-m", "gtcp", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, **env},
        )

    @pytest.mark.parametrize("raw", [(), ("--raw",)])
    def test_call_with_a_secret(self, tmp_path: Path, raw: tuple[str, ...]) -> None:
        file = tmp_path / "secret"
        file.write_text(SECRET)
        server = gtcp.Server(gtcp.Settings(port=0), secret=SECRET)
        server.include(commands())
        with serving(server) as running:
            call = ("call", running.address, "2", '{"pin": 1}', *raw)
            for ended in (
                self.run(*call, GTCP_SECRET=SECRET),
                self.run(*call, GTCP_SECRET_FILE=str(file)),
                self.run(*call, "--secret-file", str(file)),
            ):
                assert (ended.returncode, ended.stderr) == (0, "")
                assert '"ok"' in ended.stdout
            ended = self.run(*call, GTCP_SECRET=SECRET[:-1] + "X")
            assert ended.returncode == 1
            assert "401 the secret is wrong (executed: no)" in ended.stderr
            assert "3cr3t" not in ended.stdout + ended.stderr
            for wrong in ("short", "a b:" + WORD * 9):
                ended = self.run(*call, GTCP_SECRET=wrong)
                assert ended.returncode == 2
                assert ended.stderr.startswith("error: GTCP_SECRET: ")
                assert WORD not in ended.stderr
                assert "short" not in ended.stderr.replace("too short", "")

    @pytest.mark.parametrize("command", ["call", "ping", "commands", "serve"])
    def test_no_command_takes_a_secret_as_an_option(self, command: str) -> None:
        ended = self.run(command, "--help")
        assert "--secret-file" in ended.stdout
        assert "--secret " not in ended.stdout

    @pytest.mark.parametrize("command", [("call", "127.0.0.1", "1"), ("serve", "app")])
    def test_a_secret_as_an_option_is_refused_with_the_reason(self, command: tuple[str]) -> None:
        ended = self.run(*command, "--secret", SECRET)
        assert ended.returncode == 2
        assert "use --secret-file or GTCP_SECRET" in ended.stderr
        assert "s3cr3t" not in ended.stderr

    @pytest.mark.parametrize(
        "args",
        [
            ("call", SECRET, "1"),
            ("call", "127.0.0.1", "1", "--secret-file", SECRET),
            ("serve", "app", "--secret-file", SECRET),
            ("serve", "app", "--tls-cert", SECRET),
            ("serve", "app", "--bind", SECRET),
        ],
    )
    def test_a_secret_in_the_wrong_place(self, args: tuple[str, ...]) -> None:
        ended = self.run(*args)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert "s3cr3t" not in ended.stderr

    def test_a_secret_as_a_setting_is_told_where_it_belongs(self, tmp_path: Path) -> None:
        (tmp_path / "s.toml").write_text(f"secret = '{SECRET}'")
        for ended in (
            self.run("serve", "app", "--config", str(tmp_path / "s.toml")),
            self.run("serve", "app", GTCP_SECRETS=SECRET),
        ):
            assert ended.returncode == 2
            assert "a file that secret_file names, or in GTCP_SECRET" in ended.stderr
            assert "s3cr3t" not in ended.stderr

    @pytest.mark.parametrize("raw", [(), ("--raw",)])
    def test_over_tls(self, authority: Authority, raw: tuple[str, ...]) -> None:
        options: Any = {"tls_ca": authority.ca, "require_client_cert": True}
        cert = authority.issue("localhost")
        with serving(commands(), tls_cert=cert, **options) as server:
            where = "tls://localhost:" + server.address.rpartition(":")[2]
            known = ("--ca", authority.ca, "--cert", authority.issue("billing", file="b"))
            ended = self.run("call", where, "2", '{"pin": 1}', *known, *raw)
            assert (ended.returncode, ended.stderr) == (0, "")
            assert '"ok"' in ended.stdout
            ended = self.run("call", where, "2", '{"pin": 1}', *raw)
            assert ended.returncode == 1
            assert "can't be trusted" in ended.stderr
            assert "(executed: no)" in ended.stderr
            if not raw:
                ended = self.run("ping", where, "-c", "1", *known)
                assert ended.returncode == 0
                assert f"reply from {where}" in ended.stdout
                assert self.run("commands", where, *known).returncode == 0

    def test_options_of_tls_without_tls(self, authority: Authority) -> None:
        ended = self.run("ping", "127.0.0.1", "--ca", authority.ca)
        assert ended.returncode == 2
        assert "expected an address that begins with tls://" in ended.stderr
