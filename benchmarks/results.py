"""Results of a run: tables of cells, with the machine and the versions; saved as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

#: A row's figure in each round, by column; None for a round without one.
Rounds = Mapping[str, Sequence[float | None]]


class Cell(msgspec.Struct, frozen=True):
    """One thing measured in several rounds.

    Attributes:
        spread: half of the way from the lowest to the highest round, as a share of the median.
        ratio: to the table's reference, the median of the rounds' own ratios.
    """

    rounds: list[float]
    median: float
    spread: float
    ratio: float | None = None


class Table(msgspec.Struct, frozen=True):
    """Contenders in rows; what they were measured at in columns.

    Attributes:
        reference: the row that the others are compared with; empty for none.
        over_row: ratios are the reference over the row, otherwise the row over the reference.
        note: what a reader has to know.
    """

    title: str
    unit: str
    columns: list[str]
    rows: dict[str, dict[str, Cell]]
    reference: str = ""
    over_row: bool = True
    note: str = ""

    @property
    def ratio_means(self) -> str:
        """Return the text in the parentheses."""
        if not self.reference:
            return ""
        return f"{self.reference} ÷ it" if self.over_row else f"it ÷ {self.reference}"


class Part(msgspec.Struct, frozen=True):
    """Results of `python -m benchmarks NAME`, and the parts that were left out."""

    name: str
    tables: list[Table]
    left_out: list[str] = []


class Run(msgspec.Struct, frozen=True):
    """A whole run."""

    command: str
    when: str
    seconds: float
    machine: dict[str, str]
    versions: dict[str, str]
    parts: list[Part]

    def tables(self) -> list[Table]:
        """The tables of all parts."""
        return [table for part in self.parts for table in part.tables]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        path.write_bytes(text + b"\n")


def load(path: Path) -> Run:
    """The run that was saved there."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def cell(
    rounds: Sequence[float | None], others: Sequence[float | None] = (), over_row: bool = True
) -> Cell | None:
    """Rounds summed up, None if there was none; `others` are the reference's, round by round."""
    kept = [each for each in rounds if each is not None]
    if not kept:
        return None
    middle = median(kept)
    spread = (max(kept) - min(kept)) / 2 / middle if middle else 0.0
    ratios = [
        (other / own if over_row else own / other)
        for own, other in zip(rounds, others, strict=False)
        if own and other
    ]
    return Cell(kept, middle, spread, median(ratios) if ratios else None)


def table(
    title: str,
    unit: str,
    rows: Mapping[str, Rounds],
    *,
    reference: str = "",
    over_row: bool = True,
    note: str = "",
) -> Table:
    """Return a table of the measurements; rows and cells without a figure are left out."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    standard = rows.get(reference, {})
    summed = {
        name: _summed(row, {} if name == reference else standard, over_row)
        for name, row in rows.items()
    }
    kept = {name: row for name, row in summed.items() if row}
    used = [column for column in columns if any(column in row for row in kept.values())]
    return Table(title, unit, used, kept, reference if reference in kept else "", over_row, note)


def _summed(row: Rounds, standard: Rounds, over_row: bool) -> dict[str, Cell]:
    cells = {
        column: cell(rounds, standard.get(column, ()), over_row) for column, rounds in row.items()
    }
    return {column: made for column, made in cells.items() if made is not None}
