"""Output of the subcommands of ``gtcp``: results on stdout, one line on stderr for an error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import click

from gtcp.cli.options import Misuse
from gtcp.errors import GtcpError, RemoteError


def complain(exc: click.ClickException) -> None:
    """Print an error as one line on stderr. Text from a peer is escaped."""
    from gtcp.server.ops.logger import escape

    message = escape(" ".join(exc.format_message().split()))
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        message += f" Try '{exc.ctx.command_path} --help'."
    click.echo(f"error: {message}", err=True)


@contextlib.contextmanager
def failures_as_lines() -> Iterator[None]:
    """Turn the exception of a call into an error line that says whether it was executed."""
    try:
        yield
    except GtcpError as exc:
        data = ""
        if isinstance(exc, RemoteError) and exc.data is not None:
            data = f" {json.dumps(exc.data, ensure_ascii=False)}"
        raise click.ClickException(f"{exc}{data} (executed: {exc.executed})") from exc
    except ValueError as exc:  # params that can't be encoded: nothing was sent
        raise Misuse(str(exc)) from exc


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Yield the lines of a table. Control characters are escaped.

    Args:
        rows: the cells, of the header too.
        right: numbers of the columns that are aligned to the right.
    """
    from gtcp.server.ops.logger import escape

    cells = [[escape(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [
            text.rjust(width) if at in right else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()


def print_json(value: Any) -> None:
    """Print JSON: indented on a terminal, else on one line. Control characters are escaped."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if not text.isascii() or "\x7f" in text:
        from gtcp.server.ops.logger import escape_json  # slow to import, and rarely needed

        text = escape_json(text)
    click.echo(text.encode())
