"""Contenders take turns: round by round, each is measured at the same thing.

What slows the machine down for a moment slows all of them down. Every other round goes
backwards, so that nobody is always the one behind the same neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.processes import Failed
from benchmarks.results import Table, table

#: Figures by name; a figure that could not be had in this round is None, or is not there.
Figures = dict[str, float | None]

#: row, column, seconds -> what was measured.
Measure = Callable[[str, str, float], Figures]


class Figure(NamedTuple):
    """A figure of a measurement, and the table that is made of it."""

    name: str
    title: str
    unit: str


@dataclass(frozen=True)
class Contest:
    """The plan of a contest: participants, load and method.

    Attributes:
        rounds, seconds: how often and how long; None for what the command line says.
        note: stands below the last table.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    measure: Measure
    figures: Sequence[Figure]
    reference: str = ""
    over_row: bool = True
    rounds: int | None = None
    seconds: float | None = None
    note: str = ""

    def steps(self, rounds: int) -> int:
        """How many measurements it takes."""
        return len(self.rows) * len(self.columns) * (self.rounds or rounds)


class Outcome(NamedTuple):
    """The tables of a contest, and a line for each contender that failed."""

    tables: list[Table]
    failures: list[str]


def hold(
    contest: Contest, rounds: int, seconds: float, step: Callable[[str], None] = lambda _label: None
) -> Outcome:
    """Run a contest; `step` is called after every measurement, with the next one."""
    found = _Found({figure.name: {} for figure in contest.figures})
    failed: dict[str, str] = {}
    for turn in range(contest.rounds or rounds):
        for column in contest.columns:
            for row in contest.rows if turn % 2 == 0 else reversed(contest.rows):
                step(f"{row}, {column}")
                if row in failed:
                    continue
                try:
                    figures = contest.measure(row, column, contest.seconds or seconds)
                except (Failed, OSError) as exc:
                    failed[row] = f"{row}, {column}: {exc}"
                    continue
                found.add(row, column, turn, figures)
    last = contest.figures[-1]
    tables = [_table(contest, each, found, each is last) for each in contest.figures]
    return Outcome(tables, list(failed.values()))


class _Found(NamedTuple):
    """By figure, row and column: what each round found, None where it found nothing."""

    by_figure: dict[str, dict[str, dict[str, list[float | None]]]]

    def add(self, row: str, column: str, turn: int, figures: Figures) -> None:
        for name, rows in self.by_figure.items():
            rounds = rows.setdefault(row, {}).setdefault(column, [])
            rounds += [None] * (turn - len(rounds))
            rounds.append(figures.get(name))


def _table(contest: Contest, figure: Figure, found: _Found, with_note: bool) -> Table:
    return table(
        figure.title,
        figure.unit,
        found.by_figure[figure.name],
        reference=contest.reference,
        over_row=contest.over_row,
        note=contest.note if with_note else "",
    )
