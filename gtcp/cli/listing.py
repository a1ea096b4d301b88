"""``gtcp commands``: what a server says of its commands, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from gtcp.cli.shorthand import shorthand
from gtcp.server.ops.logger import escape

#: Characters that a type may take.
TYPE_WIDTH = 48


class Row(msgspec.Struct):
    """One command, as its server describes it."""

    cmdid: int
    name: str
    doc: str = ""
    params: Any = None
    result: Any = None


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table, with a head; what a peer sent can't drive the terminal."""
    cells = [["CMDID", "NAME", "PARAMS", "RESULT", "ABOUT"], *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, *texts in cells:
        padded = map(str.ljust, texts, widths[1:])
        yield "  ".join([number.rjust(widths[0]), *padded]).rstrip()


def _cells(row: Row) -> list[str]:
    types = [_cut(shorthand(each)) for each in (row.params, row.result)]
    about = row.doc.partition("\n")[0]
    return [escape(text) for text in (str(row.cmdid), row.name, *types, about)]


def _cut(text: str) -> str:
    return text if len(text) <= TYPE_WIDTH else text[: TYPE_WIDTH - 3] + "..."
