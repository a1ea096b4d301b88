"""Behind a real HAProxy."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import gtcp
from tests.edge.certificates import Authority
from tests.helpers import Line, serving

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

pytestmark = [
    pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed"),
    pytest.mark.programs,
]

CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen gtcp
    bind fd@{fd}
    server one {server} {send}
"""


def commands() -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def address(request: gtcp.Request) -> str:
        return request.address

    return table


@pytest.fixture
def haproxy(tmp_path: Path) -> Any:
    """Start it in front of a server; returns where it listens."""
    with ExitStack() as stack:

        def start(server: str, send: str) -> str:
            assert HAPROXY is not None
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            file = tmp_path / "haproxy.cfg"
            file.write_text(CONFIGURATION.format(fd=listener.fileno(), server=server, send=send))
            log = stack.enter_context((tmp_path / "haproxy.log").open("wb"))
            process = subprocess.Popen(
                [HAPROXY, "-db", "-f", str(file)],
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield start


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_the_address_is_the_true_origin(haproxy: Callable[..., str], send: str) -> None:
    with serving(commands(), proxy_from=("127.0.0.1",)) as server:
        where = haproxy(server.address, send)
        with Line(where) as line:
            host, port = line.sock.getsockname()
            assert line.ask({"cmdid": 1})["result"] == f"{host}:{port}"
        with gtcp.Client(where) as client:
            assert client.call(1).startswith("127.0.0.1:")


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_tls_goes_through_to_the_server(
    haproxy: Callable[..., str], send: str, authority: Authority
) -> None:
    options: Any = {"proxy_from": ("127.0.0.1",), "tls_cert": authority.issue("localhost")}
    with serving(commands(), **options) as server:
        port = haproxy(server.address, send).rpartition(":")[2]
        with gtcp.Client(f"tls://localhost:{port}", ca=authority.ca) as client:
            assert client.call(1).startswith("127.0.0.1:")


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_a_server_that_does_not_know_it_refuses(haproxy: Callable[..., str], send: str) -> None:
    with serving(commands()) as server:
        where = haproxy(server.address, send)
        with Line(where) as line:
            line.send({"cmdid": 1})
            assert [each["code"] for each in line.rest()] == [400]


def test_health_checks_are_let_in(haproxy: Callable[..., str]) -> None:
    """They speak for HAProxy itself."""
    options: Any = {"proxy_from": ("127.0.0.1",), "allow_networks": ("127.0.0.0/8",)}
    with serving(commands(), **options) as server:
        where = haproxy(server.address, "send-proxy-v2 check inter 50 check-send-proxy")
        with gtcp.Client(where) as client:
            assert client.call(1)
