"""``gtcp commands``: the commands of a server as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from gtcp.cli.output import aligned
from gtcp.cli.shorthand import shorthand

#: Maximum number of characters of a type.
TYPE_WIDTH = 48


class Row(msgspec.Struct):
    """One command, as its server describes it."""

    cmdid: int
    name: str
    doc: str = ""
    params: Any = None
    result: Any = None


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Return the lines of the table, with a header."""
    head = ["CMDID", "NAME", "PARAMS", "RESULT", "ABOUT"]
    return aligned([head, *map(_cells, rows)], right=(0,))


def _cells(row: Row) -> list[str]:
    types = [_cut(shorthand(each)) for each in (row.params, row.result)]
    about = row.doc.partition("\n")[0]
    return [str(row.cmdid), row.name, *types, about]


def _cut(text: str) -> str:
    return text if len(text) <= TYPE_WIDTH else text[: TYPE_WIDTH - 3] + "..."
