"""The subcommands ``gtcp top`` and ``gtcp stacks``, with their options."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import msgspec

from gtcp.cli import options
from gtcp.cli.options import ADDRESS
from gtcp.cli.output import failures_as_lines, print_json

#: Moves a terminal's cursor to the top and clears what is below.
CLEAR = "\x1b[H\x1b[J"


@click.command()
@ADDRESS
@click.option("--once", is_flag=True, help="Print once and end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line each time.")
@options.interval("Time between two looks.")
@options.timeout(5.0, "Maximum duration of each look.")
@options.trust
def top(
    address: str, once: bool, as_json: bool, interval: float, timeout: float, trust: dict[str, Any]
) -> None:
    """Show what a server does: its methods, processes and running calls.

    Refreshed once a second until Ctrl-C. Rates and times, and the other worker processes, are known
    if the server has an admin port. The server's setting "operators" says who may ask; without it
    a server answers if only its own host can connect.

    \b
    Examples:
      gtcp top 127.0.0.1
      gtcp top 127.0.0.1 --once --json
    """
    from gtcp.cli.operate.table import lines
    from gtcp.client.client import Client
    from gtcp.server.ops.status import Status

    with failures_as_lines(), Client(address, timeout=timeout, **trust) as client:
        while True:
            if as_json:
                print_json(client.call(0, {"op": "status"}))
            else:
                status = client.call(0, {"op": "status"}, result=Status)
                text = "\n".join(lines(status))
                click.echo(CLEAR + text if sys.stdout.isatty() and not once else text)
            if once:
                return
            sys.stdout.flush()
            time.sleep(interval)


@click.command()
@ADDRESS
@click.option("--id", "only", metavar="ID", help="Only calls whose request has this id.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@options.timeout(5.0, "Maximum duration, with connecting.")
@options.trust
def stacks(
    address: str, only: str | None, as_json: bool, timeout: float, trust: dict[str, Any]
) -> None:
    """Print where the running calls of a server wait, the oldest ones first.

    A call is listed when its handler has waited once. If the server has several processes and an
    admin port, the oldest calls of the other processes are listed too. The same peers may ask as
    for "gtcp top".

    \b
    Examples:
      gtcp stacks 127.0.0.1
      gtcp stacks 127.0.0.1 --id 17
    """
    from gtcp.cli.operate.table import heading
    from gtcp.client.client import Client
    from gtcp.server.ops.logger import escape
    from gtcp.server.ops.status import RunningCall

    with failures_as_lines(), Client(address, timeout=timeout, **trust) as client:
        calls = client.call(0, {"op": "stacks"}, result=list[RunningCall])
    if only is not None:
        calls = [each for each in calls if str(each.id) == only]
    if as_json:
        print_json(msgspec.to_builtins(calls))
        return
    for each in calls:
        click.echo(heading(each))
        for line in each.stack.splitlines():
            click.echo(escape(line))
    if not calls:
        click.echo("no calls are running" if only is None else f"no running call has the id {only}")
