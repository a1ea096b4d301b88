"""Health: whether a server, and each of its commands, should receive calls."""

from __future__ import annotations

from typing import Literal

Status = Literal["SERVING", "NOT_SERVING", "DRAINING"]


class Health:
    """The health of one server, which the application may change. Belongs to its hub.

    ``gtcp health``, ``{"op": "health"}`` of cmdid 0 and ``/readyz`` of the admin port report it. It
    is information for others: the server goes on to serve what it receives.

    Attributes:
        draining: whether the server stops, or is about to.
    """

    def __init__(self) -> None:
        self.draining = False
        self._serving = True
        self._commands: dict[str, bool] = {}

    def set(self, serving: bool, command: str | None = None) -> None:
        """Say whether the server should receive calls, or one of its commands.

        Args:
            command: a command's name; None for the whole server. Commands of which nothing was said
                are as healthy as the server.

        Raises:
            TypeError: ``serving`` is not a bool, or ``command`` is not a string.
        """
        if not isinstance(serving, bool):
            raise TypeError(f"serving: expected a bool, got {type(serving).__name__}")
        if command is None:
            self._serving = serving
        elif isinstance(command, str):
            self._commands[command] = serving
        else:
            raise TypeError(f"command: expected a string or None, got {type(command).__name__}")

    @property
    def status(self) -> Status:
        """The status of the whole server."""
        if self.draining:
            return "DRAINING"
        return "SERVING" if self._serving else "NOT_SERVING"

    def describe(self) -> dict[str, object]:
        """Return the answer to ``{"op": "health"}``."""
        commands = {
            name: "SERVING" if serving else "NOT_SERVING"
            for name, serving in self._commands.items()
        }
        return {"status": self.status, "commands": commands}
