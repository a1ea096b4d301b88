"""Who is at the other end, and whether a list of patterns means them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """Who sent a request.

    Attributes:
        address: "host:port", behind a listed proxy the true origin; "unix:" for a unix socket.
        identities: what they have proven to be: the DNS names and URIs of their certificate,
            the name of their secret's key, "uid:1000" of a unix socket's peer. Nothing else
            gets in here, so it may be trusted as far as who signs certificates is.
        pid: the process at the other end of a unix socket.
        uid: the user it runs as.
    """

    address: str
    identities: tuple[str, ...] = ()
    pid: int | None = None
    uid: int | None = None

    @property
    def identity(self) -> str | None:
        """The first of the identities, None when there is none."""
        return self.identities[0] if self.identities else None


def fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether one of the names fits one of the patterns.

    ``*`` stands for one whole label, between dots (``*.team.example``) or, in a URI, between
    slashes (``spiffe://example/team/*``). Case matters in URIs only.
    """
    patterns = tuple(patterns)
    return any(_fits(name, pattern) for name in names for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    if ":" in name or ":" in pattern:
        if "://" not in name or "://" not in pattern:  # "uid:1000" is meant as it stands
            return name == pattern
        labels, wanted = name.split("/"), pattern.split("/")
    else:
        labels, wanted = name.lower().split("."), pattern.lower().split(".")
    return len(labels) == len(wanted) and all(
        label == want or (want == "*" and label != "")
        for label, want in zip(labels, wanted, strict=True)
    )
