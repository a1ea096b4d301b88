"""Runs one part: starts what it needs, holds its contests under a progress bar, ends it all."""

from __future__ import annotations

import importlib
import sys

import click

from benchmarks.bench import Bench, Options
from benchmarks.contest import hold
from benchmarks.load import NoCompiler
from benchmarks.processes import Failed
from benchmarks.results import Part


def run_part(name: str, options: Options, label: str) -> Part:
    """Results of a part, and a line for everything that was left out."""
    module = importlib.import_module(f"benchmarks.parts.{name}")
    tables = []
    with Bench(options) as bench:
        try:
            if module.NEEDS_LINELOAD:
                bench.lineload  # noqa: B018  compiled now, or never
            _status(f"{label}: starting the servers")
            contests = module.contests(bench)
        except (NoCompiler, Failed, OSError) as exc:
            return Part(name, [], [*bench.left_out, f"{name}: left out, {exc}"])
        steps = sum(contest.steps(options.rounds) for contest in contests)
        with click.progressbar(
            length=steps, label=label, item_show_func=lambda item: item, file=sys.stderr
        ) as bar:
            for contest in contests:
                outcome = hold(
                    contest, options.rounds, options.seconds, lambda text: bar.update(1, text)
                )
                tables += [table for table in outcome.tables if table.rows]
                bench.left_out += outcome.failures
    return Part(name, tables, bench.left_out)


def _status(text: str) -> None:
    """Said on a terminal, and written over by the progress bar."""
    if sys.stderr.isatty():
        click.echo(f"{text}\r", err=True, nl=False)
