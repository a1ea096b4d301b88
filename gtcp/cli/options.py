"""Arguments and options that several subcommands of ``gtcp`` share, and their checks."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from gtcp.arguments import shown
from gtcp.transport.address import is_one_host, parse, parse_bind

#: Exit statuses: of a failure, and of an error in what was typed or configured.
FAILED, MISUSED = 1, 2

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Checked = TypeVar("Checked")


class Misuse(click.ClickException):
    """An error in what was typed or configured; the message is one line."""

    exit_code = MISUSED


def address(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Return the address of a server, or of several, as it was typed; refuse any other text."""
    try:
        if is_one_host(value):
            parse(value)
        else:
            from gtcp.client.hosts.urls import known_hosts  # here: rarely needed

            known_hosts(value)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc
    return value


def addresses(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Return addresses to listen on as they were typed; refuse any other text."""
    try:
        for each in values:
            parse_bind(each)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc
    return values


def command(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    """Return the number of a command, or its name."""
    if value.isidentifier():
        return value
    number = whole(0)(_ctx, _param, value)
    assert number is not None
    return number


def meta(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    """Return the strings of ``KEY=VALUE`` options; None if there are none."""
    found: dict[str, str] = {}
    for each in values:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"expected KEY=VALUE, got {each!r}.")
        if key in found:
            raise click.BadParameter(f"{key!r} is given twice.")
        found[key] = value
    return found or None


def or_misuse(check: Callable[..., Checked], value: Any, **options: Any) -> Checked:
    """Return what a check returns; its ValueError becomes a Misuse."""
    try:
        return check(value, **options)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc


def change_directory(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Change to this directory, and keep its name in PWD as a shell does.

    The name must be absolute: the process may execute itself again, in that directory.
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
    """Return a check of a whole number; None, for an option that was not given, remains None."""

    def check(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        if value.isdecimal() and len(value) < 20 and least <= int(value) <= (most or 2**63 - 1):
            return int(value)
        span = f">= {least}" if most is None else f"from {least} to {most}"
        raise click.BadParameter(f"expected a whole number {span}, got {value!r}.")

    return check


def seconds(_ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Return a duration; 0 is allowed for the interval between two pings."""
    if 0 < value < math.inf or (value == 0 and param.name == "interval"):
        return value
    raise click.BadParameter(f"expected seconds > 0, got {value}.")


def per_second(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Return a rate; None, for an option that was not given, remains None."""
    if value is None or 0 < value <= 1_000_000:
        return value
    raise click.BadParameter(f"expected more than 0 and at most a million, got {value}.")


def read_params(text: str) -> Any:
    """Return params: the JSON object that was typed, or read from stdin for ``-``.

    Raises:
        Misuse: it is not a JSON object, nor null.
    """
    data = _stdin() if text == "-" else os.fsencode(text)
    try:
        params = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        hint = "" if text == "-" else '; the shell needs it quoted: \'{"key": "value"}\''
        raise Misuse(f"PARAMS: not JSON: {exc}{hint}") from exc
    if params is not None and not isinstance(params, dict):
        raise Misuse(f"PARAMS: expected a JSON object, got {shown(params)}")
    return params


def _stdin() -> bytes:
    if sys.stdin is None:  # closed by the parent process
        raise Misuse("PARAMS: there is no stdin to read them from")
    try:
        return sys.stdin.buffer.read()
    except OSError as exc:
        raise Misuse(f"PARAMS: can't read stdin: {exc.strerror or exc}") from exc


ADDRESS = click.argument("address", callback=address)
COMMAND = click.argument("command", metavar="CMDID|NAME", callback=command)
PARAMS = click.argument("params", metavar="[PARAMS]", default="null")


def timeout(default: float, text: str) -> Callable[[Decorated], Decorated]:
    """Return the option ``--timeout`` with this default, in seconds, and this help."""
    return click.option(
        "--timeout",
        default=default,
        show_default=True,
        metavar="SECONDS",
        callback=seconds,
        help=text,
    )


def interval(text: str) -> Callable[[Decorated], Decorated]:
    """Return the option ``--interval``, one second by default, with this help."""
    return click.option(
        "-i",
        "--interval",
        default=1.0,
        show_default=True,
        metavar="SECONDS",
        callback=seconds,
        help=text,
    )


_TRUST = {
    "ca": click.option(
        "--ca", metavar="FILE", help="Trust the authorities in this file, not the system's."
    ),
    "cert": click.option(
        "--cert", metavar="FILE", help="Present the client certificate in this file."
    ),
    "key": click.option("--key", metavar="FILE", help="Its private key, if it is in another file."),
    "server_name": click.option(
        "--server-name",
        metavar="NAME",
        help="Expect this name in the server's certificate, not the host.",
    ),
    "secret_file": click.option(
        "--secret-file", metavar="FILE", help="Prove the secret in the first line of this file."
    ),
}


def _refuse_secret(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        why = "every user of this host could read it there"
        raise Misuse(f"--secret: {why}; use --secret-file or GTCP_SECRET")


def no_secret(command: Decorated) -> Decorated:
    """Add a hidden option ``--secret``, whose error says why it does not exist."""
    option = click.option(
        "--secret", hidden=True, expose_value=False, is_eager=True, callback=_refuse_secret
    )
    return option(command)


def trust(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the client's options for TLS and the secret, as one argument ``trust`` for a Client."""

    @functools.wraps(command)
    def with_trust(**given: Any) -> Any:
        return command(trust={name: given.pop(name) for name in _TRUST}, **given)

    decorated: Callable[..., Any] = no_secret(with_trust)
    for option in reversed(_TRUST.values()):
        decorated = option(decorated)
    return decorated
