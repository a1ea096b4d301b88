"""A command's number from its name, as the server lists it."""

from __future__ import annotations

import difflib

import msgspec

from gtcp.cli.options import Misuse
from gtcp.client.client import Client
from gtcp.protocol.messages import OWN_CMDID

#: Names that an error lists at most, where none is similar.
LISTED = 5


class _Named(msgspec.Struct):
    """A command in the server's list."""

    cmdid: int
    name: str


def cmdid_of(client: Client, command: str) -> int:
    """Return the number of the command of this name in the server's list: one call.

    Raises:
        Misuse: no command, or more than one, has this name.
        GtcpError: the call failed.
    """
    commands = client.call(OWN_CMDID, {"op": "commands"}, result=list[_Named])
    found = sorted(each.cmdid for each in commands if each.name == command)
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(map(str, found))
        raise Misuse(f"{client.address}: {len(found)} commands are named {command!r}: {numbers}")
    raise Misuse(
        f"{client.address}: no command is named {command!r}; {_suggestion(command, commands)}"
    )


def _suggestion(name: str, commands: list[_Named]) -> str:
    similar = difflib.get_close_matches(name, [each.name for each in commands], LISTED)
    shown = [each for each in commands if each.name in similar]
    if shown:
        return f"did you mean {_listed(shown)}?"
    if not commands:
        return "it has no commands"
    more = ", ..." if len(commands) > LISTED else ""
    return f"it has {_listed(commands[:LISTED])}{more}"


def _listed(commands: list[_Named]) -> str:
    return ", ".join(f"{each.name} ({each.cmdid})" for each in commands)
