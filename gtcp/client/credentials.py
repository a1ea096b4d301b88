"""TLS and the secret, from a client's options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gtcp.arguments import check_path, check_secret, check_text
from gtcp.client.dialing.dial import Trust
from gtcp.transport.address import Address

if TYPE_CHECKING:
    from gtcp.transport.secret import Key
    from gtcp.transport.tls import ClientTls

#: The options ca, cert and key, with their values.
Files = dict[str, "str | None"]

#: Environment variables that may hold the secret.
SECRET_VARIABLES = ("GTCP_SECRET", "GTCP_SECRET_FILE")


def tls_of(address: Address, files: Files, server_name: str | None) -> ClientTls | None:
    """Return what to speak TLS with; None where the address does not ask for it."""
    _check_types(files, server_name)
    if address.tls:
        return _new_tls(files)
    for name, value in {**files, "server_name": server_name}.items():
        if value is not None:
            raise ValueError(f"{name}: expected an address that begins with tls://, got {address}")
    return None


class Trusts:
    """The trust in each of several hosts, and the authentication there. Thread-safe.

    Args:
        name: the address that the user wrote, for error messages.
        tls: whether the hosts use TLS; None if each address says so.
        files: the options ca, cert and key.
        server_name: the name in the certificates; None for the host of each address.
        secret: the secret to prove; None for none.

    Raises:
        ValueError: a file can't be used, or is given although no host uses TLS.
    """

    def __init__(
        self,
        name: str,
        tls: bool | None,
        files: Files,
        server_name: str | None,
        secret: Key | None,
    ) -> None:
        _check_types(files, server_name)
        given = [option for option, path in files.items() if path is not None]
        if tls is False and given:
            raise ValueError(f"{given[0]}: expected addresses that begin with tls://, got {name}")
        self._files, self._server_name, self._secret = files, server_name, secret
        self._tls = _new_tls(files) if tls or given else None

    def of(self, address: Address) -> Trust | None:
        """Return what to trust this host with; None for no TLS and no secret."""
        if address.tls and self._tls is None:
            self._tls = _new_tls(self._files)
        if not address.tls and self._secret is None:
            return None
        tls = self._tls if address.tls else None
        return Trust(tls, self._server_name or address.host, self._secret)


def _check_types(files: Files, server_name: str | None) -> None:
    for name, path in files.items():
        check_path(name, path)
    if server_name is not None:
        check_text("server_name", server_name)


def _new_tls(files: Files) -> ClientTls:
    from gtcp.transport.tls import ClientTls  # here: slow to import, and rarely needed

    return ClientTls(files["ca"], files["cert"], files["key"])


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
