"""The handshake in force: read from files and secrets at start, and again at a reload."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from gtcp.arguments import checked_secrets
from gtcp.errors import SettingsError
from gtcp.server.connections.scheduler import UnsupportedLoop
from gtcp.server.handshake.steps import Handshake, make_handshake
from gtcp.server.ops.logger import SERVER
from gtcp.server.settings import Settings
from gtcp.transport.secret import Key, read_keys

log = logging.getLogger(SERVER)

RELOADED = "certificates and secrets are read again"
NOTHING_TO_RELOAD = "nothing to reload: there are neither certificates nor secrets"


class Default:
    """A marker for "as the settings say"."""


DEFAULT: Final = Default()

#: Secrets as a program gives them.
Secrets = str | bytes | Iterable[str] | Default | None

V = TypeVar("V")


def as_settings_error(function: Callable[[], V]) -> V:
    """Return what the function returns; raise SettingsError for values that can't be used."""
    try:
        return function()
    except (ValueError, UnsupportedLoop) as exc:
        raise SettingsError(str(exc)) from exc


class CurrentHandshake:
    """The handshake in force and its secrets. Belongs to the server.

    Args:
        secret: what peers must prove to know; ``DEFAULT`` for those of the settings.

    Raises:
        TypeError, ValueError: they are no secrets; the message does not hold them.
    """

    def __init__(self, secret: Secrets) -> None:
        self._secret: list[Key] | None = None  # None for those of the settings
        if not isinstance(secret, Default):
            given = [] if secret is None else checked_secrets("secret", secret)
            self._secret = read_keys(given)
        self._handshake: Handshake | None = None

    @property
    def has_secret(self) -> bool:
        """Whether the program itself has given secrets that peers must prove."""
        return bool(self._secret)

    def load(self, settings: Settings) -> None:
        """Read certificates and secrets.

        Raises:
            SettingsError: they can't be used.
        """
        self._handshake = as_settings_error(lambda: make_handshake(settings, self._secret))

    def reload(self, settings: Settings) -> None:
        """Read them again, for later connections; if they can't be used, keep the current ones."""
        try:
            self._handshake = make_handshake(settings, self._secret)
        except ValueError as exc:
            log.error("the old certificates and secrets are kept: %s", exc)
        else:
            log.info("%s", RELOADED if self._handshake.knows_peers else NOTHING_TO_RELOAD)

    def get(self) -> Handshake:
        """Return the handshake; ``load`` was called."""
        assert self._handshake is not None
        return self._handshake
