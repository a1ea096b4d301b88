"""The options for certificates and secrets: the same for all commands that call."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gtcp
from tests.edge.certificates import Authority
from tests.helpers import serving

SECRET = "billing.1:" + "s" * 32

#: What is typed before the address, and after it.
CALLING = {
    "call": (["call"], ["1"]),
    "raw": (["call", "--raw"], ["1"]),
    "ping": (["ping", "-c", "1"], []),
    "bench": (["bench", "--duration", "0.05", "-c", "1", "--json"], ["1"]),
    "commands": (["commands"], []),
}

each_command = pytest.mark.parametrize(("before", "after"), CALLING.values(), ids=CALLING)


pytestmark = pytest.mark.usefixtures("no_secret_around")


@pytest.fixture
def port(authority: Authority) -> Iterator[str]:
    """Where a server listens that speaks TLS and asks for a certificate and the secret."""
    settings = gtcp.Settings(
        port=0, tls_cert=authority.issue("localhost"), tls_ca=authority.ca, require_client_cert=True
    )
    server = gtcp.Server(settings, secret=SECRET)

    @server.handler(1, allow=["dns:client.example"])
    def who(request: gtcp.Request) -> Any:
        return request.peer.identities

    with serving(server) as running:
        yield running.address.rpartition(":")[2]


@pytest.fixture
def trust(authority: Authority, tmp_path: Path) -> list[str]:
    """The options that this server takes."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    cert = authority.issue("client.example", file="client")
    return ["--ca", authority.ca, "--cert", cert, "--secret-file", str(tmp_path / "secret")]


@each_command
def test_every_command_takes_them(
    before: list[str], after: list[str], port: str, trust: list[str], typed: Any
) -> None:
    status, out, err = typed(*before, f"tls://localhost:{port}", *after, *trust)
    assert (status, err) == (0, "")
    assert out


@each_command
def test_without_the_secret_nothing_runs(
    before: list[str], after: list[str], port: str, trust: list[str], typed: Any
) -> None:
    status, out, err = typed(*before, f"tls://localhost:{port}", *after, *trust[:4])
    assert status == 1
    assert "401" in out + err


@each_command
def test_a_file_that_is_not_there_is_a_misuse(
    before: list[str], after: list[str], typed: Any
) -> None:
    status, out, err = typed(*before, "tls://localhost:1", *after, "--ca", "no/such.pem")
    assert (status, out) == (2, "")
    assert "no/such.pem" in err
    assert err.count("\n") == 1


def test_the_name_in_the_certificate_may_be_another(
    authority: Authority, port: str, trust: list[str], typed: Any
) -> None:
    call = ("call", f"tls://127.0.0.1:{port}", "1", *trust)
    status, _, err = typed(*call)
    assert status == 1
    assert "can't be trusted" in err
    assert "(executed: no)" in err
    status, out, _ = typed(*call, "--server-name", "localhost")
    assert (status, json.loads(out)) == (0, ["client.example", "billing.1"])


def test_raw_gives_up_in_time_where_tls_is_never_answered(authority: Authority, typed: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"tls://127.0.0.1:{silent.getsockname()[1]}"
        status, out, err = typed("call", where, "1", "--raw", "--timeout", "0.1")
    assert (status, out) == (1, "")
    assert "deadline" in err
    assert "(executed: no)" in err


def test_certificates_need_an_address_with_tls(typed: Any) -> None:
    status, _, err = typed("call", "127.0.0.1:1", "1", "--ca", "ca.pem")
    assert status == 2
    assert "tls://" in err


def test_a_server_does_not_listen_on_an_address_with_tls(typed: Any) -> None:
    status, _, err = typed("serve", "app", "--bind", "tls://127.0.0.1:0")
    assert status == 2
    assert "tls://" in err
    assert err.count("\n") == 1
