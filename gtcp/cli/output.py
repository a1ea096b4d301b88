"""What the subcommands of ``gtcp`` say: a result on stdout, a failure on one line of stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from gtcp.cli.options import Misuse
from gtcp.errors import GtcpError, RemoteError


def complain(exc: click.ClickException) -> None:
    """The one line on stderr; parts of it may come from a peer."""
    from gtcp.server.ops.logger import escape

    message = escape(" ".join(exc.format_message().split()))
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        message += f" Try '{exc.ctx.command_path} --help'."
    click.echo(f"error: {message}", err=True)


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """What a call raises becomes a line that says whether it was executed."""
    try:
        yield
    except GtcpError as exc:
        data = ""
        if isinstance(exc, RemoteError) and exc.data is not None:
            data = f" {json.dumps(exc.data, ensure_ascii=False)}"
        raise click.ClickException(f"{exc}{data} (executed: {exc.executed})") from exc
    except ValueError as exc:  # params that can be read but not written: nothing was sent
        raise Misuse(str(exc)) from exc


def print_json(value: Any) -> None:
    """On several lines for a person, on one for a program; a peer's text can't drive a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if not text.isascii() or "\x7f" in text:
        from gtcp.server.ops.logger import escape_json  # takes its time to import, and few need it

        text = escape_json(text)
    click.echo(text.encode())
