"""Tables as text for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.results import Cell, Part, Run, Table

#: Columns of figures that a page of the documentation shows without sideways scrolling.
MOST_COLUMNS = 6


def number(value: float) -> str:
    """Three digits or more: 123,456, 78.9, 1.23."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    median = number(cell.median)
    spread = f" ±{cell.spread:.0%}" if len(cell.rounds) > 1 and median.strip("0.") else ""
    ratio = "" if cell.ratio is None else f" ({cell.ratio:.2f})"
    return median + spread + ratio


def _heading(table: Table) -> str:
    means = f" (in parentheses: {table.ratio_means})" if table.ratio_means else ""
    return f"{table.title}: {table.unit}{means}"


def _grid(table: Table) -> list[list[str]]:
    return [
        ["", *table.columns],
        *(
            [name, *(_text(row.get(column)) for column in table.columns)]
            for name, row in table.rows.items()
        ),
    ]


def as_text(table: Table, width: int = 100) -> str:
    """The table in columns as wide as they have to be; below one another what would be too wide."""
    names, *columns = zip(*_grid(table), strict=True)
    lines = [_heading(table)]
    for group in _fitting(columns, width - 2 - max(map(len, names))):
        for cells in zip(_padded(names, str.ljust), *group, strict=True):
            lines.append("  " + "   ".join(cells).rstrip())
    if table.note:
        lines.append(f"  {table.note}")
    return "\n".join(lines)


def _fitting(columns: Iterable[Sequence[str]], width: int) -> Iterator[list[list[str]]]:
    """The columns, padded, in groups that are no wider, or of one column."""
    group: list[list[str]] = []
    for column in columns:
        padded = _padded(column, str.rjust)
        if group and sum(len(each[0]) + 3 for each in [*group, padded]) > width:
            yield group
            group = []
        group.append(padded)
    yield group


def _padded(column: Sequence[str], pad: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, column))
    return [pad(each, width) for each in column]


def part_as_text(part: Part, width: int = 100) -> str:
    """All tables of a part, and what it left out."""
    return "\n\n".join([*(as_text(each, width) for each in part.tables), *part.left_out])


def as_markdown(table: Table) -> str:
    """The table as Markdown, its title in bold above it.

    A table with more columns than a page is wide is transposed.
    """
    grid = _grid(table)
    if len(table.columns) > MOST_COLUMNS:
        grid = [list(column) for column in zip(*grid, strict=True)]
    head, *rows = grid
    lines = [f"**{_heading(table)}**", "", _row(head), _row(["---", *["--:"] * (len(head) - 1)])]
    lines += map(_row, rows)
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def conditions(run: Run) -> str:
    """The command, the machine and the versions: without them no figure means anything."""
    return "; ".join(
        [
            f"`{run.command}`, {run.when}",
            ", ".join(f"{name}: {value}" for name, value in run.machine.items()),
            ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        ]
    )


def run_as_markdown(run: Run) -> str:
    """Everything a run measured, part by part."""
    blocks = [conditions(run) + "."]
    for part in run.parts:
        blocks.append(f"### {part.name.capitalize()}")
        blocks += map(as_markdown, part.tables)
        blocks += part.left_out
    return "\n\n".join(blocks)
