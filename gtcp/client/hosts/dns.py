"""Hosts from DNS: all addresses of a name, or its SRV records. Needs dnspython (extra ``dns``)."""

from __future__ import annotations

from typing import Any

from gtcp.client.hosts.resolver import Host
from gtcp.transport.address import Address, parse

#: Seconds between two queries, however short or long the records may be kept.
SHORTEST_TTL, LONGEST_TTL = 1.0, 300.0

#: Seconds for one query, with its retries.
LIFETIME = 5.0

#: Weight of an SRV record with weight 0, which gets few calls (RFC 2782).
LEAST_WEIGHT = 0.05


class _Dns:
    """Asks the system's name servers, or the one in the URL.

    Attributes:
        ttl: seconds that the last answer may be kept.
    """

    ttl = SHORTEST_TTL

    def __init__(self, text: str, *, tls: bool) -> None:
        self._dns = _library()
        server, slash, name = text.rpartition("/")
        self._servers = parse(server, 53) if slash else None
        self._name = name
        self._tls = tls

    def _query(self, name: str, kind: str) -> list[Any]:
        """Return a list with the set of records of one kind; empty if the name has none.

        Raises:
            LookupError: there is no such name, or no answer.
        """
        resolver, exceptions = self._dns.resolver, self._dns.exception
        asked = resolver.Resolver(configure=self._servers is None)
        if self._servers is not None:
            asked.nameservers = [self._servers.host]
            asked.port = self._servers.port
        try:
            answer = asked.resolve(name, kind, lifetime=LIFETIME)
        except resolver.NoAnswer:
            return []
        except resolver.NXDOMAIN as exc:
            raise LookupError(f"the name {name} does not exist") from exc
        except exceptions.DNSException as exc:
            raise LookupError(f"DNS: {exc}") from exc
        return [answer.rrset]

    def _records(self, found: list[Any]) -> list[Any]:
        """Return the records in these sets, and take note of how long they may be kept."""
        shortest = min((each.ttl for each in found), default=SHORTEST_TTL)
        self.ttl = min(LONGEST_TTL, max(SHORTEST_TTL, shortest))
        return [record for each in found for record in each]

    def _address(self, host: str, port: int) -> str:
        return str(Address(host, port, tls=self._tls))


class DnsResolver(_Dns):
    """All A and AAAA records of a name.

    Args:
        text: ``NAME`` or ``NAME:PORT``, with ``SERVER/`` or ``SERVER:PORT/`` before it.
        tls: whether TLS is used; the certificate is for the name.

    Raises:
        ValueError: the text is malformed, or dnspython is not installed.
    """

    def __init__(self, text: str, *, tls: bool) -> None:
        super().__init__(text, tls=tls)
        found = parse(self._name)
        if found.path or found.tls:
            raise ValueError("expected dns://NAME:PORT")
        self._host, self._port = found.host, found.port
        self.server_name = found.host

    def resolve(self) -> list[Host]:
        """Ask for the addresses. Name servers that refuse one of the two questions are common."""
        found: list[Any] = []
        error: LookupError | None = None
        for kind in ("A", "AAAA"):
            try:
                found += self._query(self._host, kind)
            except LookupError as exc:
                error = error or exc
        if error is not None and not found:
            raise error
        records = self._records(found)
        return [Host(address=self._address(each.address, self._port)) for each in records]


class SrvResolver(_Dns):
    """The SRV records of a name, with their priorities and weights.

    Args:
        text: a name such as ``_gtcp._tcp.orders.internal``, with ``SERVER/`` before it.
        tls: whether TLS is used; the certificates are for the hosts of the records.

    Raises:
        ValueError: the text is malformed, or dnspython is not installed.
    """

    def __init__(self, text: str, *, tls: bool) -> None:
        super().__init__(text, tls=tls)
        if not self._name or ":" in self._name:
            raise ValueError("expected srv://NAME, without a port: the records have it")

    def resolve(self) -> list[Host]:
        """Ask for the records."""
        return [
            Host(
                address=self._address(str(each.target).rstrip("."), each.port),
                weight=each.weight or LEAST_WEIGHT,
                priority=each.priority,
            )
            for each in self._records(self._query(self._name, "SRV"))
        ]


def _library() -> Any:
    try:
        import dns.exception
        import dns.resolver
    except ImportError:
        raise ValueError(
            "it needs dnspython, which is not installed: pip install 'gtcp-rpc[dns]'"
        ) from None
    return dns
