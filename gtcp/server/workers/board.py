"""Memory that gunicorn's master shares with its workers: a row of integers for each worker.

The master writes what it asks of a worker, the worker how it does. Each cell has one writer, and
a write of four aligned bytes is atomic: no lock is needed. It works from the fork on, before the
worker handles signals, and needs no descriptors.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from itertools import count
from typing import Any

#: Rows of a board: new workers start while the old ones (at most 1024) drain.
ROWS = 4096

#: Cells of a row, and bytes of a cell.
CELLS, CELL_BYTES = 8, 4


def _cell(index: int, meaning: str) -> Any:
    def read(row: Row) -> int:
        return row.cells[index]

    def write(row: Row, value: int) -> None:
        row.cells[index] = value

    return property(read, write, doc=meaning)


class Row:
    """The cells that a master shares with one of its workers."""

    def __init__(self, number: int, cells: memoryview) -> None:
        self.number = number
        self.cells = cells

    # Written by the worker:
    serving = _cell(0, "1 while it accepts connections.")
    connections = _cell(1, "Connections it has open, or is just opening.")
    has_sockets = _cell(5, "1 from the fork until it has closed its listening sockets.")
    wants_replacement = _cell(2, "1 when another worker should take its place.")

    # Written by the master:
    stop_requests = _cell(3, "How many times the master has sent SIGTERM.")
    last = _cell(4, "1 when no other process will accept connections after it.")


class Board:
    """The rows of all workers of one master, which makes it before it forks."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, ROWS * CELLS * CELL_BYTES)).cast("i")
        self._rows = [
            Row(number, self._memory[number * CELLS : (number + 1) * CELLS])
            for number in range(ROWS)
        ]
        self._taken: set[int] = set()
        # How many rows have ever been taken: a worker may look at those of later workers.
        self._used = self._rows.pop().cells

    def take(self) -> Row:
        """Return a row that no worker has, all zero; called in the master."""
        number = next(each for each in count() if each not in self._taken)
        row = self._rows[number]
        row.cells[:] = memoryview(bytes(CELLS * CELL_BYTES)).cast("i")
        row.has_sockets = 1
        self._taken.add(number)
        self._used[0] = max(self._used[0], number + 1)
        return row

    def keep(self, rows: Collection[Row]) -> None:
        """Clear all other rows: their workers have ended. Called in the master."""
        kept = {row.number for row in rows}
        for number in self._taken - kept:
            self._rows[number].serving = self._rows[number].has_sockets = 0
        self._taken = kept

    def lead(self, row: Row) -> int:
        """Return how many connections more this worker has than the one that has fewest."""
        serving = [each for each in self._in_use() if each.serving]
        return int(row.connections) - min(
            (int(each.connections) for each in serving), default=int(row.connections)
        )

    def is_last(self, row: Row) -> bool:
        """Note that this worker closes its listening sockets; return whether no other has them.

        Two workers that ask at the same time may both be the last, but not neither.
        """
        row.has_sockets = 0
        return not any(each.has_sockets for each in self._in_use())

    def _in_use(self) -> list[Row]:
        return self._rows[: self._used[0]]
