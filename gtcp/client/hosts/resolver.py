"""Hosts, and what says which ones there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import msgspec

#: Seconds until a resolver without a ``ttl`` is asked again.
DEFAULT_TTL = 5.0


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a service.

    Args:
        address: "host:port" or "unix:/path", as for ``Client``.
        weight: its share of the calls, compared with those of the other hosts.
        priority: hosts with the lowest number are used, as long as one of them works.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the weight is not above 0.
    """

    address: str
    weight: float = 1.0
    priority: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.address, str):
            raise TypeError(f"address: expected a str, got {self.address!r}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            raise TypeError(f"weight: expected a number, got {self.weight!r}")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight: expected more than 0, got {self.weight}")


@runtime_checkable
class Resolver(Protocol):
    """Finds the hosts of a service. Pass one to ``Client`` in place of an address.

    ``resolve`` is called in a thread of its own, again and again. If it has an attribute ``ttl``,
    that is how many seconds its last answer is valid; else the next call is after 5 s. A method
    ``close``, if there is one, is called when the client is closed.
    """

    def resolve(self) -> Iterable[Host | str]:
        """Find the hosts. It may block.

        Returns:
            Iterable[Host | str]: the hosts, or their addresses.

        Raises:
            Exception: they can't be found now; the client keeps the hosts that it knows, and logs
                one line.
        """
