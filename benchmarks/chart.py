"""A bar chart of a run, as SVG: calls per second of each library, and the conditions."""

from __future__ import annotations

import textwrap
from html import escape
from typing import NamedTuple

from benchmarks.parts import CALLS, CONCURRENT, REPLIES, SEQUENTIAL
from benchmarks.results import Run, Table
from benchmarks.show import conditions, number

WIDTH, LEFT, RIGHT = 860, 220, 150
BAR, GAP, HEADING, FOOT_LINE = 15, 6, 34, 15

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; font-size: 14px; }
  .foot { font-size: 11px; fill: #57606a; }
  .bar { fill: #9aa7b4; }
  .own { fill: #0969da; }
"""


class Panel(NamedTuple):
    """One group of bars: names and values, the highest first."""

    title: str
    bars: list[tuple[str, float]]


def panels(run: Run) -> list[Panel]:
    """Return the measurements that the chart shows."""
    tables = {table.title: table for table in run.tables()}
    wanted = [
        (CALLS, CONCURRENT, "64 concurrent callers: calls a second"),
        (CALLS, SEQUENTIAL, "One caller: calls a second"),
        (REPLIES, "64 x 1", "One server process, 64 connections: replies a second"),
        (REPLIES, "64 x 16", "The same, 16 requests outstanding on each: replies a second"),
    ]
    found = [
        Panel(title, _bars(tables[name], column))
        for name, column, title in wanted
        if name in tables
    ]
    return [panel for panel in found if panel.bars]


def _bars(table: Table, column: str) -> list[tuple[str, float]]:
    values = [(name, row[column].median) for name, row in table.rows.items() if column in row]
    return sorted(values, key=lambda bar: -bar[1])


def svg(run: Run) -> str:
    """The chart; empty when there is nothing to show."""
    body: list[str] = []
    top = 10
    for panel in panels(run):
        body.append(_text(10, top + 16, panel.title, "title"))
        top += HEADING - 6
        longest = max(value for _, value in panel.bars) or 1.0
        for name, value in panel.bars:
            body += _bar(top, name, value, value / longest)
            top += BAR + GAP
        top += 12
    if not body:
        return ""
    for line in textwrap.wrap(conditions(run).replace("`", ""), 135):
        top += FOOT_LINE
        body.append(_text(10, top, line, "foot"))
    return "\n".join([_opening(top + 12), *body, "</svg>", ""])


def _opening(height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>gtcp and its peers: calls a second</title>\n<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    )


def _bar(top: int, name: str, value: float, share: float) -> list[str]:
    width = max(1.0, share * (WIDTH - LEFT - RIGHT))
    kind = "bar own" if name.startswith("gtcp") else "bar"
    return [
        f'<text x="{LEFT - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR}"/>',
        f'<text x="{LEFT + width + 6:.1f}" y="{top + 12}">{number(value)}</text>',
    ]


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'
