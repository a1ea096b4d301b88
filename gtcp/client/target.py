"""From the address that a user gives to what a client connects to: one host, or several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from gtcp.arguments import check_text
from gtcp.client.any_pool import HubPool
from gtcp.client.credentials import Files, Trusts, key_of, tls_of
from gtcp.client.dialing.dial import Dialled, Options, Trust, dial
from gtcp.client.dialing.history import AddressHistory
from gtcp.client.pool import Pool
from gtcp.transport.address import Address, is_one_host, parse


class Target(NamedTuple):
    """The hosts that a client connects to.

    Attributes:
        address: the address; of several hosts, the text that stands for them.
        make: makes the pool of a thread.
        dial: opens a socket until a deadline.
        close: stops what looks for hosts, if anything does.
    """

    address: Address | str
    make: Callable[[], HubPool]
    dial: Callable[[float | None], Dialled]
    close: Callable[[], None] | None = None


def target_of(
    address: Any,
    options: Options,
    files: Files,
    server_name: str | None,
    secret: Any,
    secret_file: str | None,
    default: object,
) -> Target:
    """Return the target of a client's arguments.

    Args:
        files: the arguments ca, cert and key.
        default: what ``secret`` is when it was not given.

    Raises:
        TypeError, ValueError: as ``Client``.
    """
    if not is_one_host(address):
        return _several(address, options, files, server_name, key_of(secret, secret_file, default))
    check_text("address", address)
    host = parse(address)
    tls = tls_of(host, files, server_name)
    proven = key_of(secret, secret_file, default)
    trust = None
    if tls is not None or proven is not None:
        trust = Trust(tls, server_name or host.host, proven)
    history = AddressHistory()
    return Target(
        host,
        partial(Pool, host, options, trust, history),
        partial(dial, host, options, trust, history),
    )


def _several(
    address: Any,
    options: Options,
    files: Files,
    server_name: str | None,
    secret: Any,
) -> Target:
    from gtcp.client.hosts.group import HostGroup  # here: most clients have one host
    from gtcp.client.hosts.host_pool import HostPool
    from gtcp.client.hosts.urls import known_hosts

    known = known_hosts(address)
    trusts = Trusts(known.name, known.tls, files, server_name or known.server_name, secret)

    def make(host: Address) -> HostPool:
        return HostPool(host, options, trusts.of(host), AddressHistory())

    def dial_one(deadline: float | None) -> Dialled:
        known.start()
        known.wait(deadline)
        host = parse(known.hosts[0].address)
        return dial(host, options, trusts.of(host), AddressHistory(), deadline)

    return Target(known.name, partial(HostGroup, known, make), dial_one, known.close)
