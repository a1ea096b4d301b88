"""The ``gtcp`` command.

Mistakes in what was typed or configured end with status 2, failures with 1; both with one
line on stderr. What a subcommand needs, it imports itself: ``gtcp call`` is to start at once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from gtcp import __version__
from gtcp.address import parse as parse_address
from gtcp.errors import GtcpError, RemoteError

if TYPE_CHECKING:
    from gtcp.server.settings import Settings

FAILED, MISUSED = 1, 2


def main() -> NoReturn:
    """Run the command that was typed, and exit with its status."""
    # Python's own handler would raise KeyboardInterrupt inside gevent's hub, which prints it.
    # What has something to do at Ctrl-C sets a handler of its own.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        status = cli.main(prog_name="gtcp", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as exc:
        _complain(exc)
        status = exc.exit_code
    except BrokenPipeError:  # whoever read our output (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    sys.exit(status or 0)


def _complain(exc: click.ClickException) -> None:
    """The one line on stderr; parts of it may come from a peer."""
    from gtcp.server.logger import escape

    message = escape(" ".join(exc.format_message().split()))
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        message += f" Try '{exc.ctx.command_path} --help'."
    click.echo(f"error: {message}", err=True)


class Misuse(click.ClickException):
    """What was typed or configured can't be meant."""

    exit_code = MISUSED


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Checked, but as it was typed."""
    try:
        parse_address(value)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc
    return value


def _addresses(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(_address(ctx, param, each) for each in values)


def _number(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A whole number; of the cmdids, 0 is gtcp's own."""
    least = 0 if param.name == "cmdid" else 1
    if value is None:
        return None
    if value.isdecimal() and len(value) < 20 and least <= int(value) < 2**63:
        return int(value)
    raise click.BadParameter(f"expected a whole number >= {least}, got {value!r}.")


def _seconds(_ctx: click.Context, param: click.Parameter, value: float) -> float:
    if 0 < value < math.inf or (value == 0 and param.name == "interval"):
        return value
    raise click.BadParameter(f"expected seconds > 0, got {value}.")


ADDRESS = click.argument("address", callback=_address)
TIMEOUT = click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    callback=_seconds,
    help="How long the call may take in all.",
)


CLIENT_OPTIONS = (
    click.option("--ca", metavar="FILE", help="Authorities to trust, in place of the system's."),
    click.option("--cert", metavar="FILE", help="The client's certificate."),
    click.option("--key", metavar="FILE", help="Its private key, if it is in another file."),
    click.option("--server-name", metavar="NAME", help="Whom the server's certificate is for."),
    click.option("--secret-file", metavar="FILE", help="The secret that both sides prove."),
)


def trust(command: Any) -> Any:
    """Add the options that say whom to trust, as one argument ``trust``."""

    @functools.wraps(command)
    def with_trust(**given: Any) -> Any:
        names = ("ca", "cert", "key", "server_name", "secret_file")
        return command(trust={name: given.pop(name) for name in names}, **given)

    for option in reversed(CLIENT_OPTIONS):
        with_trust = option(with_trust)
    return with_trust


@click.group("gtcp", invoke_without_command=True)
@click.version_option(__version__, message="gtcp %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Synchronous RPC over TCP: serve commands, and call them.

    ADDRESS is "host", "host:port", "[v6]:port" or "unix:/path"; the port is 8889 unless said.
    To speak TLS, put "tls://" before it. A secret stands in a file, or in the variable
    GTCP_SECRET.

    To see it all at work: gtcp demo
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(MISUSED)


# serve


@cli.command()
@click.argument("target")
@click.option(
    "--bind",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    help="Listen here; may be given several times. Port 0 takes a free one.",
)
@click.option("--workers", metavar="N", help="Processes; more than one are supervised by gunicorn.")
@click.option("--config", metavar="FILE.toml", help="Settings, at top level or under [gtcp].")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.")
@click.option("--access-log/--no-access-log", default=None, help="Log a line for every request.")
@click.option("--graceful-timeout", metavar="SECONDS", help="How long a drain may take.")
@click.option("--tls-cert", metavar="FILE", help="Speak TLS, with this certificate.")
@click.option("--tls-key", metavar="FILE", help="Its private key, if it is in another file.")
@click.option("--tls-ca", metavar="FILE", help="Take client certificates of these authorities.")
@click.option(
    "--require-client-cert", is_flag=True, default=None, help="Refuse clients without one."
)
@click.option("--secret-file", metavar="FILE", help="Secrets that clients must prove to know.")
@click.option(
    "--insecure", is_flag=True, default=None, help="Serve other hosts without TLS or a secret."
)
@click.option("--reload", is_flag=True, help="Start anew when a file of the application changes.")
@click.option("--no-patch", is_flag=True, help="Do not monkey-patch the standard library.")
def serve(
    target: str,
    bind: tuple[str, ...],
    workers: str | None,
    config: str | None,
    log_level: str | None,
    access_log: bool | None,
    graceful_timeout: str | None,
    reload: bool,
    no_patch: bool,
    **edge: str | bool | None,
) -> None:
    """Serve the commands of TARGET.

    At SIGINT or SIGTERM it drains: calls in flight are finished, then it ends with status 0.

    TARGET is module:attribute or path/to/file.py:attribute, where a gtcp.Server or a
    gtcp.Commands table is found; the attribute is "server" unless said.

    Flags go before GTCP_* environment variables, these before --config, and that before the
    settings of the server itself. The standard library is monkey-patched for gevent before
    TARGET is imported, so that handlers may block in it.

    \b
    Examples:
      gtcp serve app                      server in app.py, here
      gtcp serve app:server --workers 4
      gtcp serve src/app.py --bind [::]:8889 --bind unix:/run/app.sock
    """
    flags = {
        "bind": bind or None,
        "workers": workers,
        "log_level": log_level,
        "access_log": access_log,
        "graceful_timeout": graceful_timeout,
        **edge,
    }
    from gtcp import serving
    from gtcp.server.settings import Settings, SettingsError
    from gtcp.target import TargetError, parse

    def layers(base: Settings | None) -> Settings:
        return Settings.load(config, flags=flags, base=base)

    try:
        serving.serve(_or_misuse(parse, target), layers, reload=reload, patch=not no_patch)
    except SettingsError as exc:
        raise Misuse(str(exc)) from exc
    except (TargetError, serving.GunicornMissing) as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(exc.strerror or str(exc)) from exc


# call


@cli.command()
@ADDRESS
@click.argument("cmdid", callback=_number)
@click.argument("params", metavar="[PARAMS]", default="null")
@TIMEOUT
@click.option("--raw", is_flag=True, help="Print the reply line as it came.")
@trust
def call(
    address: str, cmdid: int, params: str, timeout: float, raw: bool, trust: dict[str, Any]
) -> None:
    """Call a command and print its result as JSON.

    PARAMS is a JSON object, or - to read it from stdin. The exit status is 1 when the server
    answers with an error or the call is lost; stderr then says whether it was executed.

    \b
    Examples:
      gtcp call 127.0.0.1 10000 '{"content": "Hello world!"}'
      gtcp call unix:/run/app.sock 10000 - < params.json
    """
    value = _params(params)
    with _failures_told():
        if raw:
            _print_raw_reply(address, cmdid, value, timeout, trust)
        else:
            from gtcp.client.client import Client

            with Client(address, timeout=timeout, **trust) as client:
                _print_json(client.call(cmdid, value))


def _params(text: str) -> Any:
    data = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Misuse(f"PARAMS: {exc}") from exc


def _print_raw_reply(
    address: str, cmdid: int, params: Any, timeout: float, trust: dict[str, Any]
) -> None:
    from gtcp.client.connection import error_of
    from gtcp.protocol import UNREADABLE, decode_reply
    from gtcp.rawcall import call_raw

    line = call_raw(address, cmdid, params, timeout, trust)
    click.echo(line, nl=False)
    try:
        reply = decode_reply(line)
    except UNREADABLE as exc:
        raise click.ClickException(f"not a reply: {exc} (executed: maybe)") from exc
    if reply.code != 0:
        raise error_of(reply)


# ping


@cli.command()
@ADDRESS
@click.option(
    "-c", "--count", metavar="N", callback=_number, help="How often; without it, until Ctrl-C."
)
@click.option(
    "-i",
    "--interval",
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    callback=_seconds,
    help="From one ping to the next.",
)
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    callback=_seconds,
    help="How long each may take.",
)
@trust
def ping(
    address: str, count: int | None, interval: float, timeout: float, trust: dict[str, Any]
) -> None:
    """Ask a server for a sign of life.

    Once a second, until Ctrl-C; at the end comes a summary, as with ping(8). The exit status
    is 1 when nothing was received.
    """
    from gtcp import ping as pinging

    with _failures_told():
        received = pinging.ping(
            address, count=count, interval=interval, timeout=timeout, trust=trust
        )
    if not received:
        raise SystemExit(FAILED)


# commands


@cli.command()
@ADDRESS
@click.option("--json", "as_json", is_flag=True, help="Everything, with the JSON Schemas.")
@TIMEOUT
@trust
def commands(address: str, as_json: bool, timeout: float, trust: dict[str, Any]) -> None:
    """List the commands of a server.

    What they take, what they return, what they are for.
    """
    from gtcp.client.client import Client
    from gtcp.listing import Row, table

    with _failures_told(), Client(address, timeout=timeout, **trust) as client:
        if as_json:
            _print_json(client.call(0, {"op": "commands"}))
        else:
            rows = client.call(0, {"op": "commands"}, result=list[Row])
            click.echo("\n".join(table(rows)))


# demo


@cli.command()
@click.option("--once", is_flag=True, help="Stop after the tour.")
def demo(once: bool) -> None:
    """See it at work, the wire in view.

    Starts a server with sample commands and calls them. The server then stays until Ctrl-C,
    to be tried from another terminal.
    """
    from gtcp.demo.tour import DemoFailed, show

    try:
        show(once=once)
    except DemoFailed as exc:
        raise click.ClickException(str(exc)) from exc


# What they share


def _or_misuse(check: Any, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc


@contextlib.contextmanager
def _failures_told() -> Iterator[None]:
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


def _print_json(value: Any) -> None:
    """On several lines for a person, on one for a program."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    click.echo(text.encode())
