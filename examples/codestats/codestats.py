"""Counts a directory of Python sources with a codestats server; see README.md."""

import os
import sys
import sysconfig
import tokenize
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import click
import msgspec
from counting import (
    COUNT,
    FAULTS,
    MAX_LINE_BYTES,
    TOO_LARGE,
    UNDECODABLE,
    UNREADABLE,
    Source,
    Stats,
    count,
)

import gtcp

#: What a request line holds besides its params, generously.
ENVELOPE_BYTES = 1024

#: A process counts one file after another, and a call's time runs from when it is sent. So
#: a call has to outlast all those in front of it: up to a whole window. The largest files of
#: the standard library take about a second each, on a busy or slow machine several.
SECONDS_PER_FILE = 10

#: While a process counts, it reads nothing. To the kernel a peer that takes no data for as
#: long as this is dead; the client's default of 10 s is meant for handlers that wait.
KEEPALIVE_SECONDS = 60

#: Found below the standard library's directory, but no part of it.
NOT_OURS = {"__pycache__", "dist-packages", "site-packages"}

#: Differences that --verify shows.
SHOWN = 10


class Fault(NamedTuple):
    """Why a file has no counts."""

    code: int
    message: str


Outcome = Stats | Fault
Outcomes = dict[Path, Outcome]


@click.command()
@click.argument("address", default="127.0.0.1:8889")
@click.argument(
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=sysconfig.get_path("stdlib"),
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Files under way at the same time.",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Connections; several for each worker keep all of them busy.",
)
@click.option("--verify", is_flag=True, help="Count here too; exit with 1 on any difference.")
def main(address: str, directory: Path, window: int, connections: int, verify: bool) -> None:
    """Count every Python file below DIRECTORY (by default the standard library) with the
    codestats server at ADDRESS (by default 127.0.0.1:8889)."""
    paths = sorted(find(directory))
    started = perf_counter()
    try:
        with connect(address, connections) as client:
            outcomes = count_remotely(client, paths, window)
    except gtcp.GtcpError as exc:
        raise click.ClickException(str(exc)) from exc
    print_table(outcomes, perf_counter() - started)
    failed = print_failed(outcomes)
    differences = find_differences(outcomes) if verify else 0
    sys.exit(1 if failed or differences else 0)


def connect(address: str, connections: int) -> gtcp.Client:
    """A client with this many connections; they are opened when it is used."""
    try:
        return gtcp.Client(
            address,
            min_connections=connections,
            max_connections=connections,
            keepalive=KEEPALIVE_SECONDS,
        )
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def find(directory: Path) -> Iterator[Path]:
    """The Python files below a directory, installed packages left out."""
    for path in directory.rglob("*.py"):
        if NOT_OURS.isdisjoint(path.relative_to(directory).parts) and path.is_file():
            yield path


def read(path: Path) -> Source:
    """The file's text, decoded as Python would.

    Raises:
        gtcp.CommandError: it can't be read, decoded or sent; the code is a key of FAULTS.
    """
    # A name that is not UTF-8 can't be sent as it is.
    source = Source(os.fsencode(path).decode(errors="backslashreplace"), "")
    try:
        with tokenize.open(path) as file:
            source.text = file.read()
        size = len(msgspec.json.encode(source))
    except OSError as exc:
        raise gtcp.CommandError(UNREADABLE, str(exc)) from exc
    # SyntaxError and LookupError: the coding cookie names no encoding, or none of text.
    # UnicodeError: some byte does not belong there, or what it decodes to is a surrogate.
    except (SyntaxError, LookupError, UnicodeError) as exc:
        raise gtcp.CommandError(UNDECODABLE, str(exc)) from exc
    if size > MAX_LINE_BYTES - ENVELOPE_BYTES:
        # The server would refuse the line and close the connection.
        raise gtcp.CommandError(TOO_LARGE, f"a request of {size} bytes")
    return source


def count_remotely(client: gtcp.Client, paths: list[Path], window: int) -> Outcomes:
    """Return the server's answer for every file.

    Raises:
        gtcp.GtcpError: the server can't be reached, or did not answer.
    """
    outcomes: Outcomes = {}
    sent: deque[Path] = deque()

    def sources() -> Iterator[Source]:
        for path in paths:
            try:
                source = read(path)
            except gtcp.CommandError as exc:
                outcomes[path] = Fault(exc.code, exc.message)
                bar.update(1)
            else:
                sent.append(path)
                yield source

    with click.progressbar(length=len(paths), label="counting", file=sys.stderr) as bar:
        for answer in client.map(
            COUNT,
            sources(),
            window=window,
            timeout=SECONDS_PER_FILE * window,
            idempotent=True,  # counting twice does no harm
            result=Stats,
            return_exceptions=True,
        ):
            outcomes[sent.popleft()] = outcome_of(answer)
            bar.update(1)
    return outcomes


def outcome_of(answer: Stats | Exception) -> Outcome:
    """Return the answer; a call without an answer raises."""
    if isinstance(answer, gtcp.RemoteError):
        return Fault(answer.code, answer.message)
    if isinstance(answer, Exception):
        raise answer
    return answer


def count_locally(path: Path) -> Outcome:
    """The same without a server."""
    try:
        return count(read(path))
    except gtcp.CommandError as exc:
        return Fault(exc.code, exc.message)


def print_failed(outcomes: Outcomes) -> int:
    """The files whose error says nothing about the file; returns how many they are."""
    failed = [
        f"{path}: {outcome.code} {outcome.message}"
        for path, outcome in outcomes.items()
        if isinstance(outcome, Fault) and outcome.code not in FAULTS
    ]
    print_some(failed)
    return len(failed)


def print_some(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        # A file's name need not be text that can be printed.
        click.echo(line.encode(errors="backslashreplace"), err=True)
    if len(lines) > SHOWN:
        click.echo(f"... and {len(lines) - SHOWN} more", err=True)


def find_differences(outcomes: Outcomes) -> int:
    """Count everything here, print what differs; returns how many files do."""
    started = perf_counter()
    differences = []
    with click.progressbar(outcomes, label="verifying", file=sys.stderr) as bar:
        for path in bar:
            here = count_locally(path)
            if here != outcomes[path]:
                differences.append(f"{path}: {outcomes[path]} there, {here} here")
    rate = len(outcomes) / (perf_counter() - started)
    print_some(differences)
    print(f"{len(differences)} differences from counting here ({rate:.0f} files/s)")
    return len(differences)


def print_table(outcomes: Outcomes, seconds: float) -> None:
    """The totals of all files, how many had which fault, and how fast it went."""
    stats = [each for each in outcomes.values() if isinstance(each, Stats)]
    faults = Counter(each.code for each in outcomes.values() if isinstance(each, Fault))
    tokens: Counter[str] = Counter()
    for each in stats:
        tokens.update(each.tokens)
    row("files", len(outcomes))
    row("  counted", len(stats))
    for code, number in sorted(faults.items()):
        row(f"  {code} {FAULTS.get(code, 'failed')}", number)
    for name in ("lines", "functions", "classes"):
        row(name, sum(getattr(each, name) for each in stats))
    row("tokens", tokens.total())
    for kind, number in tokens.most_common():
        row(f"  {kind}", number)
    print(f"{seconds:.1f} s, {len(outcomes) / seconds:.0f} files/s")


def row(name: str, number: int) -> None:
    print(f"{name:<24}{number:>14,}")


if __name__ == "__main__":
    main()
