"""Addresses of several hosts: what they stand for, and which are refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import gtcp
from gtcp.client.hosts.resolver import Host
from gtcp.client.hosts.urls import known_hosts


@pytest.mark.parametrize(
    "given",
    ["a:1,b", "a:1 , b", ["a:1", "b"], ("a:1", Host(address="b")), iter(["a:1", "b", "a:1"])],
)
def test_lists(given: Any) -> None:
    assert [each.address for each in known_hosts(given).hosts] == ["a:1", "b"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ([], "address: expected at least one, got an empty list"),
        ("a,,b", "'' is not an address: "),
        ("a,b c", "'b c' is not an address: "),
        ("tls://a,b", "address: either all or none begin with tls://"),
        ("http://a", "'http://a' is not an address: unknown scheme, expected one of dns://, "),
        ("dns+ssl://a", "'dns\\+ssl://a' is not an address: unknown scheme"),
        ("dns://", "'dns://' is not an address: "),
        ("dns://a:b", "'dns://a:b' is not an address: "),
        ("dns://unix:/a", "'dns://unix:/a' is not an address: "),
        ("dns://tls://a", "'dns://tls://a' is not an address: "),
        ("srv://a:5", "'srv://a:5' is not an address: expected srv://NAME, without a port"),
        ("srv://", "'srv://' is not an address: expected srv://NAME"),
        ("zk://a", "'zk://a' is not an address: expected zk://HOST:PORT,HOST:PORT/PATH"),
        ("zk://a:b/c", "'zk://a:b/c' is not an address: "),
        ("zk://a/b/", "'zk://a/b/' is not an address: "),
    ],
)
def test_what_is_no_address(address: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gtcp.Client(address)


@pytest.mark.parametrize("address", [3, None, b"a", {"a": 1}, ["a", 3]])
def test_what_is_no_text(address: Any) -> None:
    with pytest.raises(TypeError, match=r"^address: expected a "):
        gtcp.Client(address)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("dns://a", "dns.resolver", "dns"), ("zk://a/b", "kazoo", "zookeeper")],
)
def test_an_extra_that_is_not_installed_is_named(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"not installed: pip install 'gtcp-rpc\[{extra}\]'"):
        gtcp.Client(url)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"weight": 0}, ValueError),
        ({"weight": float("inf")}, ValueError),
        ({"weight": "2"}, TypeError),
        ({"weight": True}, TypeError),
        ({"address": 3}, TypeError),
    ],
)
def test_hosts_that_are_none(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{next(iter(options))}: expected "):
        Host(**{"address": "a:1", **options})


@pytest.mark.parametrize("address", [["a", "b"], "dns://a:1"])
def test_files_of_tls_need_an_address_with_tls(address: Any) -> None:
    with pytest.raises(ValueError, match="ca: expected addresses that begin with tls://"):
        gtcp.Client(address, ca="/nowhere.pem")
    with pytest.raises(TypeError, match="server_name"):
        gtcp.Client(address, server_name=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", [["tls://a", "tls://b"], "dns+tls://a:1"])
def test_files_of_tls_are_read_at_once(address: Any) -> None:
    with pytest.raises(ValueError, match=r"/nowhere\.pem"):
        gtcp.Client(address, ca="/nowhere.pem")
