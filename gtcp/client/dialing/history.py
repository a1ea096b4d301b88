"""Which of a server's addresses connected last, and which failed a short time ago."""

from __future__ import annotations

from time import monotonic

from gtcp.client.dialing.resolve import Endpoint

#: Seconds for which an address that failed is tried after the others.
FAILED_FOR = 30.0


class AddressHistory:
    """The outcome of recent attempts to connect. One for each client; for any number of threads."""

    def __init__(self) -> None:
        self._last: Endpoint | None = None
        self._failed: dict[Endpoint, float] = {}  # until when

    def ordered(self, endpoints: list[Endpoint]) -> list[Endpoint]:
        """Return them with the one that connected last first, and those that failed recently last.

        Of those that failed, the one whose failure is the longest ago is first: calls whose
        deadline only allows one attempt try each in turn.
        """
        now, last, failed = monotonic(), self._last, self._failed

        def rank(endpoint: Endpoint) -> tuple[float, bool]:
            until = failed.get(endpoint, 0.0)
            return (until if until > now else 0.0, endpoint != last)

        return sorted(endpoints, key=rank)

    def connected(self, endpoint: Endpoint) -> None:
        """Remember that this one connected."""
        self._last = endpoint
        self._failed.pop(endpoint, None)

    def failed(self, endpoint: Endpoint) -> None:
        """Remember that this one failed, or did not answer in time."""
        now = monotonic()
        # Old ones are forgotten: over time a name may have many different addresses. The list is
        # made in one step, as other threads may change the dict meanwhile.
        recent = {each: until for each, until in list(self._failed.items()) if until > now}
        self._failed = {**recent, endpoint: now + FAILED_FOR}
