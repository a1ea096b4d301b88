"""What the subcommands of ``gtcp`` take in common, and how it is checked."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from gtcp.transport.address import parse

#: What the command exits with.
FAILED, MISUSED = 1, 2

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Misuse(click.ClickException):
    """What was typed or configured can't be meant."""

    exit_code = MISUSED


def address(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Checked, but as it was typed."""
    try:
        parse(value)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc
    return value


def addresses(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Several of them."""
    return tuple(address(ctx, param, each) for each in values)


def change_directory(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Change to this directory, and keep its name in PWD as a shell does.

    The name must be absolute: the process may start itself again, from there.
    """
    if value is None:
        return
    if not os.path.isabs(value):
        raise Misuse(f"--chdir: expected an absolute path, got {value!r}")
    try:
        os.chdir(value)
    except OSError as exc:
        raise Misuse(f"--chdir: {value}: {exc.strerror}") from exc
    os.environ["PWD"] = value


def whole(least: int, most: int | None = None) -> Callable[..., int | None]:
    """The check of a whole number; what was not given stays None."""

    def check(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        if value.isdecimal() and len(value) < 20 and least <= int(value) <= (most or 2**63 - 1):
            return int(value)
        span = f">= {least}" if most is None else f"from {least} to {most}"
        raise click.BadParameter(f"expected a whole number {span}, got {value!r}.")

    return check


def seconds(_ctx: click.Context, param: click.Parameter, value: float) -> float:
    """How long; between two pings may be nothing."""
    if 0 < value < math.inf or (value == 0 and param.name == "interval"):
        return value
    raise click.BadParameter(f"expected seconds > 0, got {value}.")


def per_second(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """How often; what was not given stays None."""
    if value is None or 0 < value <= 1_000_000:
        return value
    raise click.BadParameter(f"expected more than 0 and at most a million, got {value}.")


def read_params(text: str) -> Any:
    """The JSON that was typed, or what stdin has for ``-``.

    Raises:
        Misuse: it is not JSON.
    """
    data = _stdin() if text == "-" else os.fsencode(text)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        hint = "" if text == "-" else '; the shell needs it quoted: \'{"key": "value"}\''
        raise Misuse(f"PARAMS: not JSON: {exc}{hint}") from exc


def _stdin() -> bytes:
    if sys.stdin is None:  # closed by whoever started us
        raise Misuse("PARAMS: there is no stdin to read them from")
    try:
        return sys.stdin.buffer.read()
    except OSError as exc:
        raise Misuse(f"PARAMS: can't read stdin: {exc.strerror or exc}") from exc


ADDRESS = click.argument("address", callback=address)
CMDID = click.argument("cmdid", callback=whole(0))
PARAMS = click.argument("params", metavar="[PARAMS]", default="null")


def timeout(default: float, text: str) -> Callable[[Decorated], Decorated]:
    """The option ``--timeout``."""
    return click.option(
        "--timeout",
        default=default,
        show_default=True,
        metavar="SECONDS",
        callback=seconds,
        help=text,
    )


_TRUST = {
    "ca": click.option(
        "--ca", metavar="FILE", help="Authorities to trust, in place of the system's."
    ),
    "cert": click.option("--cert", metavar="FILE", help="The client's certificate."),
    "key": click.option("--key", metavar="FILE", help="Its private key, if in another file."),
    "server_name": click.option(
        "--server-name", metavar="NAME", help="Whom the server's certificate is for."
    ),
    "secret_file": click.option(
        "--secret-file", metavar="FILE", help="The secret that both sides prove."
    ),
}


def _refuse_secret(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        why = "every user of this host could read it there"
        raise Misuse(f"--secret: {why}; use --secret-file or GTCP_SECRET")


def no_secret(command: Decorated) -> Decorated:
    """An option ``--secret`` that says why there is none."""
    option = click.option(
        "--secret", hidden=True, expose_value=False, is_eager=True, callback=_refuse_secret
    )
    return option(command)


def trust(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say whom a client trusts, as one argument ``trust`` for a Client."""

    @functools.wraps(command)
    def with_trust(**given: Any) -> Any:
        return command(trust={name: given.pop(name) for name in _TRUST}, **given)

    decorated: Callable[..., Any] = no_secret(with_trust)
    for option in reversed(_TRUST.values()):
        decorated = option(decorated)
    return decorated
