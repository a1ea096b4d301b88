"""The admin port's HTTP server by itself."""

from __future__ import annotations

import pytest

from gtcp.server.admin.http import AdminPort, _ErrorLog
from gtcp.transport.address import Address


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "192.0.2.1"])
def test_an_address_that_is_not_this_host_s(host: str) -> None:
    with pytest.raises(OSError, match="admin: can't listen on"):
        AdminPort(Address(host, 0), {}, shared=False)


def test_ipv6() -> None:
    port = AdminPort(Address("::1", 0), {}, shared=False)
    assert str(port.address).startswith("[::1]:")
    port.close()


def test_tracebacks_of_the_http_server_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = _ErrorLog()
    log.write("\n")
    log.write("Traceback\n")
    log.flush()
    assert [each.getMessage() for each in caplog.records] == ["admin port: Traceback"]


def test_a_forked_child_closes_its_copy() -> None:
    port = AdminPort(Address("127.0.0.1", 0), {}, shared=True)
    port.abandon()
    assert port._sock.fileno() == -1
