"""The identities of a peer, and whether a list of patterns names one of them.

Each identity has a kind: ``dns`` and ``uri`` (the alternative names of a certificate), ``key`` (the
name of a secret) and ``uid`` (the user at the other end of a unix socket). Written with its kind
(``key:billing.1``) an identity can't be mistaken for one of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

KINDS = frozenset({"dns", "uri", "key", "uid"})

#: The kinds that alternative names of a certificate have here, by the words of ``getpeercert()``.
_OF_CERTIFICATES = {"DNS": "dns", "URI": "uri"}

_WELL_FORMED = {
    "dns": re.compile(r"[A-Za-z0-9*_.-]{1,255}"),
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+"),
}


class Identity(NamedTuple):
    """One identity that a peer has proven."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class Peer(msgspec.Struct, frozen=True):
    """The sender of a request.

    Attributes:
        address: "host:port" ("unix:" for a unix socket); behind a proxy in ``proxy_from`` the
            client's.
        identities: what the peer has proven: the DNS names and URIs of its certificate, the name of
            its secret, "uid:1000" for the peer of a unix socket.
        pid: the process at the other end of a unix socket, or None.
        uid: the user of that process, or None.
        names: all spellings by which ``allow`` and ``allow_identities`` may name the peer: each
            identity with its kind ("dns:a.example", "uri:spiffe://a/b", "key:billing.1",
            "uid:1000") and without it, except that the DNS names of a peer that has also proven
            a secret are only there with their kind, as they might be the name of another secret.
    """

    address: str
    identities: tuple[str, ...] = ()
    pid: int | None = None
    uid: int | None = None
    names: tuple[str, ...] = ()

    @property
    def identity(self) -> str | None:
        """The first of the identities, or None."""
        return self.identities[0] if self.identities else None


def make_peer(
    address: str, proven: Iterable[Identity], pid: int | None = None, uid: int | None = None
) -> Peer:
    """Return the peer with these identities, and its user's if it is known."""
    proven = tuple(proven)
    own = () if uid is None else (f"uid:{uid}",)
    with_key = any(each.kind == "key" for each in proven)
    names: list[str] = []
    for each in proven:
        names.append(str(each))
        if not (with_key and each.kind == "dns"):
            names.append(each.name)
    identities = (*(each.name for each in proven), *own)
    return Peer(address, identities, pid, uid, (*names, *own))


def of_certificate(names: Iterable[tuple[str, str]]) -> tuple[list[Identity], list[str]]:
    """Return the identities that a verified certificate proves, and the names that are ignored.

    Ignored are names that are not well-formed, and URIs that begin like an identity of another kind
    ("uid:0"): an authority may sign them without knowing what they mean here.

    Args:
        names: alternative names with their kinds, as in ``getpeercert()["subjectAltName"]``.
    """
    proven: list[Identity] = []
    ignored: list[str] = []
    for word, name in names:
        kind = _OF_CERTIFICATES.get(word)
        if kind is None:
            continue
        forged = name.partition(":")[0].lower() in KINDS
        if forged or _WELL_FORMED[kind].fullmatch(name) is None:
            ignored.append(name)
        else:
            proven.append(Identity(kind, name))
    return proven, ignored


def fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether one of the names fits one of the patterns.

    ``*`` stands for one whole label, between dots (``*.team.example``) or, in a URI, between
    slashes (``spiffe://example/team/*``). Case matters in URIs only. A pattern may begin with a
    kind (``dns:*.team.example``, ``key:billing.*``).
    """
    patterns = tuple(patterns)
    return any(_fits(name, pattern) for name in names for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    kind, _, rest = name.partition(":")
    if kind in ("dns", "key") and rest:
        wanted_kind, _, pattern = pattern.partition(":")
        if wanted_kind != kind:
            return False
        name = rest
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
