"""The command: `python -m benchmarks`, or a part of it."""

from __future__ import annotations

import math
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from benchmarks import machine, parts, peers
from benchmarks.bench import Options
from benchmarks.chart import svg
from benchmarks.publish import publish as publish_run
from benchmarks.results import Part, Run
from benchmarks.running import run_part
from benchmarks.show import part_as_text

INTERRUPTED = 130


def main() -> NoReturn:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        status = cli.main(prog_name="python -m benchmarks", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        status = exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; its processes are ended", err=True)
        status = INTERRUPTED
    sys.exit(status or 0)


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _finite(_context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):  # which is within any range
        raise click.BadParameter(f"expected a number, got {value}", param=option)
    return value


@click.command()
@click.argument("part", type=click.Choice([*parts.ALL, "all", "publish"]), default="all")
@click.option("--rounds", default=Options.rounds, show_default=True, type=click.IntRange(1))
@click.option(
    "--seconds",
    default=Options.seconds,
    show_default=True,
    type=click.FloatRange(0.02),
    callback=_finite,
    help="How long a measurement takes.",
)
@click.option(
    "--peer",
    multiple=True,
    metavar="NAME",
    type=click.Choice(peers.ALL),
    help="Measure only this one; may be given several times. Names: " + ", ".join(peers.ALL),
)
@click.option("--quick", is_flag=True, help="All small and short: to see that it works.")
@click.option(
    "--output",
    default="build/benchmarks",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the JSON and the chart go.",
)
def cli(
    part: str, rounds: int, seconds: float, peer: tuple[str, ...], quick: bool, output: Path
) -> None:
    """Compare gtcp with its peers, its floors and itself, on this machine.

    PART is server, client, memory, latency, scale, overload or streams; all of them unless said.
    "publish" puts the last whole run into docs/.
    """
    if part == "publish":
        publish(output / "all.json")
        return
    try:  # before everything is measured
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise click.ClickException(f"--output {output}: {exc.strerror}") from exc
    options = Options(rounds, seconds, quick, peer)
    if quick:
        options = Options(1, 0.05, True, peer)
    run = measure(parts.ALL if part == "all" else (part,), options)
    save(run, output / f"{part}.json")


def publish(path: Path) -> None:
    """Put a run into docs/, and print what was written."""
    if not path.exists():
        raise click.ClickException(f"{path}: no run of all parts yet: python -m benchmarks")
    try:
        written = publish_run(path)
    except msgspec.MsgspecError as exc:
        raise click.ClickException(f"{path}: not a run that was saved: {exc}") from exc
    except (OSError, ValueError) as exc:
        raise click.ClickException(f"{path}: {exc}") from exc
    for each in written:
        click.echo(each)


def measure(names: tuple[str, ...], options: Options) -> Run:
    """Run parts, and print what each found when it is through."""
    start = time.monotonic()
    done: list[Part] = []
    for number, name in enumerate(names, 1):
        found = run_part(name, options, f"{name} ({number}/{len(names)})")
        click.echo(part_as_text(found, shutil.get_terminal_size((100, 24)).columns) + "\n")
        done.append(found)
    return Run(
        command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        when=time.strftime("%Y-%m-%d"),
        seconds=round(time.monotonic() - start, 1),
        machine=machine.describe(machine.pick_cores()),
        versions=machine.versions(peers.PACKAGES),
        parts=done,
    )


def save(run: Run, path: Path) -> None:
    """Write the JSON, and the chart where there is something to draw."""
    run.save(path)
    written = [path]
    if chart := svg(run):
        written.append(path.with_suffix(".svg"))
        written[-1].write_text(chart, encoding="utf-8")
    click.echo(f"{run.seconds:.0f} s; " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
