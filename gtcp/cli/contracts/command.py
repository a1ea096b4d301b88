"""The subcommands ``gtcp schema``, ``gtcp stubs`` and ``gtcp diff``.

Exit status 1 means that a file is out of date, or that calls break. Status 2 is for every other
problem, such as a server that can't be reached.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gtcp.cli import options
from gtcp.cli.options import Misuse

if TYPE_CHECKING:
    from gtcp.contract.model import Contract

TIMEOUT = options.timeout(30.0, "How long a server may take to answer.")


@click.command()
@click.argument("source")
@TIMEOUT
@options.trust
def schema(source: str, timeout: float, trust: dict[str, Any]) -> None:
    """Print the contract of SOURCE as JSON.

    Its commands, with the types of their params and results. SOURCE is a TARGET as for gtcp serve,
    the address of a server with its port, or git:REVISION:TARGET.

    \b
    Examples:
      gtcp schema orders:server > orders.json
      gtcp schema 127.0.0.1:8889
    """
    from gtcp.contract.model import write
    from gtcp.server.ops.logger import escape_json

    text = escape_json(write(_found(source, timeout, trust)))
    click.echo(text.encode(), nl=False)


@click.command()
@click.argument("source")
@click.option("-o", "--output", metavar="FILE", help="Write it there; without it, to stdout.")
@click.option(
    "--class-name", metavar="NAME", help="Of the client; by default after the file, else Client."
)
@click.option("--check", is_flag=True, help="Write nothing: exit 1 if the file is out of date.")
@TIMEOUT
@options.trust
def stubs(
    source: str,
    output: str | None,
    class_name: str | None,
    check: bool,
    timeout: float,
    trust: dict[str, Any],
) -> None:
    """Write a typed client for the commands of SOURCE: one Python module.

    It has a method for each command, the classes of params and results, and an exception for each
    error that a command declares. SOURCE is as for gtcp schema, or a file that it wrote (.json).

    \b
    Examples:
      gtcp stubs orders:server -o orders_client.py
      gtcp stubs orders:server -o orders_client.py --check
    """
    if check and output is None:
        raise Misuse("--check needs the file: -o FILE")
    name = _class_name(output) if class_name is None else class_name
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise Misuse(f"--class-name: expected the name of a class, got {name!r}")
    contract = _found(source, timeout, trust)
    from gtcp.contract.model import ContractError
    from gtcp.contract.stubs import write_stubs

    try:
        text = write_stubs(contract, name)
    except ContractError as exc:
        raise Misuse(str(exc)) from exc
    if output is None:
        click.echo(text.encode(), nl=False)
    elif _read(output) != text.encode():
        if check:
            raise click.ClickException(f"{output} is out of date: write it again with gtcp stubs")
        _write(output, text.encode())


@click.command()
@click.argument("old")
@click.argument("new")
@click.option(
    "--direction",
    type=click.Choice(["old-client", "new-client", "both"]),
    default="both",
    show_default=True,
    help="Which breaks count: of old clients with a new server, or of new clients with an old one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the changes.")
@TIMEOUT
@options.trust
def diff(
    old: str, new: str, direction: str, as_json: bool, timeout: float, trust: dict[str, Any]
) -> None:
    """Show what changed between two contracts, and which calls that breaks.

    OLD and NEW are as for gtcp schema, or files that it wrote (.json). The exit status is 1 if
    calls break, and 0 if not.

    \b
    Examples:
      gtcp diff git:main:orders:server orders:server
      gtcp diff orders.json 10.0.0.5:8889 --direction old-client
    """
    before, after = _found(old, timeout, trust), _found(new, timeout, trust)
    from gtcp.contract.diff import diff as compare
    from gtcp.server.ops.logger import escape

    changes = compare(before, after)
    if as_json:
        import msgspec

        from gtcp.cli.output import print_json

        print_json(msgspec.to_builtins(changes))
    last = None
    for each in () if as_json else changes:
        if each.cmdid != last:
            click.echo(f"{each.cmdid} {escape(each.command)}")
            last = each.cmdid
        what = "note" if each.breaks is None else f"breaks {each.breaks}s".replace("-", " ")
        click.echo(f"  {what}: {escape(f'{each.path}: {each.text}' if each.path else each.text)}")
    broken = [each for each in changes if each.breaks and direction in ("both", each.breaks)]
    if broken:
        raise click.ClickException(f"{len(broken)} breaks" if len(broken) > 1 else "1 break")


def _class_name(output: str | None) -> str:
    """Return OrdersClient for orders_client.py."""
    words = re.findall(r"[^\W_]+", Path(output or "client").stem)
    return "".join(word[:1].upper() + word[1:] for word in words)


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Misuse(f"{path}: {exc.strerror or exc}") from exc


def _write(path: str, text: bytes) -> None:
    try:
        Path(path).write_bytes(text)
    except OSError as exc:
        raise Misuse(f"{path}: {exc.strerror or exc}") from exc


def _found(source: str, timeout: float, trust: dict[str, Any]) -> Contract:
    from gtcp.cli.contracts.source import SourceError, find

    try:
        return find(source, timeout, trust)
    except SourceError as exc:
        raise Misuse(str(exc)) from exc
