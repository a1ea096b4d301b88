"""From what a user writes for several hosts to the hosts of a client.

- a list of addresses, or one text with commas: ``a:8889,b:8889``
- ``dns://orders.internal:8889``: all addresses of a name; ``dns://SERVER:53/orders.internal:8889``
  asks this name server
- ``srv://_gtcp._tcp.orders.internal``: the SRV records of a name; a name server as with ``dns``
- ``zk://zk1:2181,zk2:2181/services/orders``: the nodes below a path of ZooKeeper
- a ``Resolver``

``+tls`` after the scheme (``dns+tls://``) means TLS; in a list, each address begins with ``tls://``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gtcp.client.hosts.known import KnownHosts, checked
from gtcp.client.hosts.resolver import Host, Resolver
from gtcp.transport.address import TLS, parse

#: What a URL begins with.
SCHEMES = ("dns", "srv", "zk")


def known_hosts(address: Any) -> KnownHosts:
    """Return the hosts that an address, a list of addresses or a resolver stands for.

    Raises:
        TypeError: it is something else.
        ValueError: an address is wrong, the scheme is unknown, or an extra is not installed.
    """
    if isinstance(address, str):
        if "://" in address and not address.startswith(TLS):
            return _of_url(address)
        return _of_list([each.strip() for each in address.split(",")])
    if isinstance(address, Resolver):
        return KnownHosts(type(address).__name__, address)
    if isinstance(address, Iterable) and not isinstance(address, bytes | dict):
        return _of_list(list(address))
    raise TypeError(f"address: expected a str, a list of them, or a gtcp.Resolver, got {address!r}")


def _of_list(addresses: list[Any]) -> KnownHosts:
    for each in addresses:
        if not isinstance(each, str | Host):
            raise TypeError(f"address: expected a list of str, got {each!r} in it")
    if not addresses:
        raise ValueError("address: expected at least one, got an empty list")
    hosts = checked(addresses)
    tls = {parse(each.address).tls for each in hosts}
    if len(tls) > 1:
        raise ValueError(f"address: either all or none begin with {TLS}")
    known = KnownHosts(",".join(each.address for each in hosts), None, hosts)
    known.tls = tls.pop()
    return known


def _of_url(url: str) -> KnownHosts:
    scheme, _, rest = url.partition("://")
    kind, plus, option = scheme.partition("+")
    if kind not in SCHEMES or (plus and option != "tls"):
        schemes = ", ".join(f"{each}://" for each in (*SCHEMES, "tls"))
        raise ValueError(f"{url!r} is not an address: unknown scheme, expected one of {schemes}")
    try:
        resolver = _resolver(kind, rest, tls=bool(plus))
    except ValueError as exc:
        raise ValueError(f"{url!r} is not an address: {exc}") from exc
    known = KnownHosts(url, resolver)
    known.server_name = getattr(resolver, "server_name", None)
    known.tls = bool(plus)
    return known


def _resolver(kind: str, text: str, *, tls: bool) -> Resolver:
    if kind == "zk":
        from gtcp.client.hosts.zookeeper import ZooKeeperResolver

        return ZooKeeperResolver(text, tls=tls)
    from gtcp.client.hosts.dns import DnsResolver, SrvResolver

    return SrvResolver(text, tls=tls) if kind == "srv" else DnsResolver(text, tls=tls)
