"""Connections that are closed without a byte, as load balancers' health checks make them."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

import gtcp
from gtcp.server.handshake.proxy_header import SIGNATURE
from gtcp.transport.address import parse
from tests.cli.processes import served
from tests.edge.certificates import Authority
from tests.helpers import PATIENCE, Serving, eventually, serving

SECRET = "billing.1:" + "s" * 32

#: A PROXY header of version 2 with the command LOCAL: the proxy connects for itself.
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def one(request: gtcp.Request) -> Any:
        return 1

    return table


@pytest.fixture(params=["plain", "tls", "secret", "proxy", "proxy, tls and secret"])
def settings(request: pytest.FixtureRequest, authority: Authority, tmp_path: Path) -> Any:
    found: dict[str, Any] = {}
    if "tls" in request.param:
        found["tls_cert"] = authority.issue("localhost")
    if "secret" in request.param:
        (tmp_path / "secret").write_text(SECRET)
        (tmp_path / "secret").chmod(0o600)
        found["secret_file"] = str(tmp_path / "secret")
    if "proxy" in request.param:
        found["proxy_from"] = ("127.0.0.1",)
    return found


def check(address: str, sent: bytes = b"", *, reset: bool = False) -> None:
    """Connect, send this, close; with a reset as HAProxy and AWS's load balancers do."""
    where = parse(address)
    sock = socket.create_connection((where.host, where.port), PATIENCE)
    with sock:
        if sent:
            sock.sendall(sent)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wait_until_seen(server: Serving) -> None:
    """Wait until the server has accepted, and ended, what connected before."""
    context = server.server._context
    assert context is not None
    eventually(lambda: not context.entering and not context.connections)


@pytest.mark.parametrize("reset", [False, True])
def test_nothing_is_logged(
    reset: bool,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    no_secret_around: None,
) -> None:
    with serving(commands(), **settings) as server:
        caplog.clear()
        for _ in range(3):
            check(server.address, reset=reset)
            if "proxy_from" in settings and not reset:
                check(server.address, LOCAL)
        server.run(lambda: None)
        wait_until_seen(server)
        assert not [each.getMessage() for each in caplog.records]


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one", "workers"])
@pytest.mark.parametrize("reset", [False, True])
def test_nothing_is_logged_by_a_program(
    flags: tuple[str, ...], reset: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("import gtcp\nserver = gtcp.Server()\n")
    env = {
        f"GTCP_{name.upper()}": value if isinstance(value, str) else ",".join(value)
        for name, value in settings.items()
    }
    with served(tmp_path, "app", "--bind", "127.0.0.1:0", *flags, env=env) as server:
        for _ in range(10):
            check(server.address, reset=reset)
        said = server.end().splitlines()
    expected = r"listening on|draining|worker is ready|\[INFO\] (?!gtcp)"  # the last: gunicorn's
    assert not [line for line in said if not re.search(expected, line)]


@pytest.mark.parametrize("sent", [b"\x16\x03\x01", b"{"])
def test_a_peer_that_has_said_something_is_logged(
    sent: bytes,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    no_secret_around: None,
) -> None:
    if not settings:
        pytest.skip("nothing is asked of a peer there")
    with serving(commands(), **settings) as server:
        check(server.address, sent)
        eventually(lambda: "closing" in caplog.text)


def test_a_peer_that_stays_silent_is_logged(
    caplog: pytest.LogCaptureFixture, authority: Authority
) -> None:
    options = {"tls_cert": authority.issue("localhost"), "handshake_timeout": 0.05}
    with serving(commands(), **options) as server, server.line() as line:
        assert line.at_end()
        eventually(lambda: "the handshake did not end within 0.05 s; closing" in caplog.text)


# Without "linger", HAProxy sends a reset before the kernel hands the connection to the server.
CONFIGURATION = """\
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen checked
  bind unix@{folder}/front
  option tcp-check
  tcp-check connect {connect}
  server one {address} check inter 20
"""


@pytest.mark.programs
@pytest.mark.parametrize("connect", ["linger", "linger send-proxy"])
def test_haproxy_checks_it_without_a_log_line(
    connect: str,
    tmp_path: Path,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    settings: dict[str, Any] = {"tls_cert": authority.issue("localhost")}
    if "proxy" in connect:
        settings["proxy_from"] = ("127.0.0.1",)
    with serving(commands(), **settings) as server:
        caplog.clear()
        seen: list[None] = []
        admit = server.server._admission.serve  # type: ignore[union-attr]
        for listener in server.server._listeners:
            listener._handle = lambda *args: (seen.append(None), admit(*args))
        text = CONFIGURATION.format(address=server.address, connect=connect, folder=tmp_path)
        (tmp_path / "haproxy.cfg").write_text(text)
        process = subprocess.Popen([haproxy, "-db", "-f", str(tmp_path / "haproxy.cfg")])
        try:
            eventually(lambda: len(seen) > 5)
        finally:
            process.terminate()
            process.wait(PATIENCE)
        wait_until_seen(server)
        assert not [each.getMessage() for each in caplog.records]
