"""The interface of a pool: of one host's ``Pool``, and of the ``HostGroup`` of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class AnyPool(Protocol):
    """The part that a call uses."""

    @property
    def idempotent(self) -> bool:
        """Whether all calls may be retried although they may have run."""

    @property
    def left_to_parent(self) -> bool:
        """Whether this is a forked child's copy of its parent's pool."""

    def ready(self) -> Any:
        """Return a connection with room for a call, or None."""

    def get_for(
        self, cmdid: int, params: Any, deadline: float | None, meta: dict[str, str] | None
    ) -> Any:
        """Return a connection with room for a call; open one or wait, if necessary."""


class HubPool(AnyPool, Protocol):
    """The pool that a client has in each thread."""

    left_to_parent: bool

    @property
    def connections(self) -> Iterable[Any]:
        """The open connections."""

    def still_ready(self, connection: Any) -> bool:
        """Return whether the next call of a map may use this connection, too."""

    def pinned(self, key: str) -> AnyPool:
        """Return a pool for the calls with this key."""

    def fill(self, deadline: float | None) -> None:
        """Open ``min_connections``."""

    def close(self) -> None:
        """Close every connection; calls in flight raise ConnectionLost."""

    def shut(self) -> None:
        """Accept no more calls, and end the connections without calls; for other threads."""

    def abandon(self, stop_watching: bool) -> None:
        """Drop all connections without writing anything."""

    def counts(self) -> Mapping[str, int]:
        """Return counters, as ``Client.stats``."""

    def counts_of_hosts(self) -> Mapping[str, Mapping[str, int]]:
        """Return the counters of each of several hosts; nothing for one host."""
