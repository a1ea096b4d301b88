"""TLS and the secret, from a client's options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gtcp.arguments import check_path, check_secret, check_text
from gtcp.transport.address import Address

if TYPE_CHECKING:
    from gtcp.transport.secret import Key
    from gtcp.transport.tls import ClientTls

#: Environment variables that may hold the secret.
SECRET_VARIABLES = ("GTCP_SECRET", "GTCP_SECRET_FILE")


def tls_of(
    address: Address, ca: str | None, cert: str | None, key: str | None, server_name: str | None
) -> ClientTls | None:
    """Return what to speak TLS with; None where the address does not ask for it."""
    given = {"ca": ca, "cert": cert, "key": key}
    for name, path in given.items():
        check_path(name, path)
    if server_name is not None:
        check_text("server_name", server_name)
    if address.tls:
        from gtcp.transport.tls import (
            ClientTls,  # here: slow to import, and most clients do not need it
        )

        return ClientTls(ca, cert, key)
    for name, value in {**given, "server_name": server_name}.items():
        if value is not None:
            raise ValueError(f"{name}: expected an address that begins with tls://, got {address}")
    return None


def key_of(secret: Any, path: str | None, default: object) -> Key | None:
    """Return the secret to prove; of several, which servers accept for a while, the first.

    Args:
        default: what ``secret`` is when it was not given.
    """
    check_path("secret_file", path)
    if path is not None and secret is not default:
        raise ValueError("secret and secret_file are both given: which one is meant?")
    if secret is None or (secret is default and path is None and not _in_environment()):
        return None
    from gtcp.transport.secret import (
        find_keys,
        read_keys,
    )  # here: slow to import, and most clients do not need it

    if secret is default:
        return next(iter(find_keys(path)), None)
    check_secret("secret", secret)
    return read_keys(secret)[0]


def _in_environment() -> bool:
    return not os.environ.keys().isdisjoint(SECRET_VARIABLES)
