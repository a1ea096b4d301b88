"""A check of the addresses of the settings, without listening on them."""

from __future__ import annotations

from gtcp.server.listener import EXPOSED, Exposed, cannot_listen, resolve
from gtcp.server.process.socket_file import SocketFile
from gtcp.server.settings import Settings
from gtcp.transport.address import is_exposed, parse_bind


def check_addresses(settings: Settings, *, loopback_only: bool) -> None:
    """Check that a server could listen on the addresses, unless they are in use.

    Args:
        loopback_only: refuse an address that other hosts can reach.

    Raises:
        Exposed, OSError, SettingsError: as for ``listen_all``.
    """
    file = SocketFile(int(settings.unix_mode, 8), settings.unix_owner, settings.unix_group)
    for where in map(parse_bind, settings.addresses):
        if where.path and not where.is_abstract:
            file.check_owner()
        if where.host:
            try:
                name = resolve(where)[4]
            except (OSError, UnicodeError) as exc:
                raise cannot_listen(where, exc) from exc
            if loopback_only and is_exposed(name):
                raise Exposed(EXPOSED.format(where))
