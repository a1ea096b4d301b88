"""Publish a run: its JSON, its chart, and its tables in docs/reference/benchmarks.md."""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmarks.chart import svg
from benchmarks.machine import ROOT
from benchmarks.results import Run, load
from benchmarks.show import run_as_markdown

DOCS = ROOT / "docs"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def publish(source: Path, docs: Path = DOCS) -> list[Path]:
    """Write the run that was saved as `source` into a documentation's folder.

    Returns:
        list: what was written.

    Raises:
        ValueError: it is not a whole run, or the page has no marks; nothing was written.
        msgspec.MsgspecError: it is no run.
    """
    run = load(source)
    if {"--quick", "--peer"} & {word.partition("=")[0] for word in shlex.split(run.command)}:
        raise ValueError("only a whole run is published: python -m benchmarks")
    page = docs / "reference" / "benchmarks.md"
    saved, chart = docs / "benchmarks.json", docs / "benchmarks.svg"
    page.write_text(with_figures(page.read_text(encoding="utf-8"), run), encoding="utf-8")
    run.save(saved)
    chart.write_text(svg(run), encoding="utf-8")
    return [page, saved, chart]


def with_figures(text: str, run: Run) -> str:
    """A page with the run's tables between its two marks.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{run_as_markdown(run)}\n\n{END}{after}"
