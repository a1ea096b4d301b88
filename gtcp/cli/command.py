"""What may be typed: the subcommands, their arguments and their help.

What a subcommand needs, it imports itself: ``gtcp call`` is to start at once.
"""

from __future__ import annotations

import atexit
import gc
from typing import TYPE_CHECKING, Any

import click

from gtcp import __version__
from gtcp.cli import options
from gtcp.cli.options import ADDRESS, CMDID, FAILED, MISUSED, PARAMS, Misuse, read_params
from gtcp.cli.output import failures_told, print_json

if TYPE_CHECKING:
    from gtcp.server.settings import Settings


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
    callback=options.addresses,
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
@options.no_secret
@click.option(
    "--insecure", is_flag=True, default=None, help="Serve other hosts without TLS or a secret."
)
@click.option(
    "--chdir",
    metavar="DIRECTORY",
    callback=options.change_directory,
    is_eager=True,
    expose_value=False,
    help="Change to this directory, an absolute path. SIGHUP follows symbolic links in it again.",
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
    from gtcp.cli import serving
    from gtcp.cli.target import TargetError, parse
    from gtcp.errors import SettingsError
    from gtcp.server.commands.hooks import StartError
    from gtcp.server.settings import Settings

    def layers(base: Settings | None) -> Settings:
        return Settings.load(config, flags=flags, base=base)

    try:
        serving.serve(_or_misuse(parse, target), layers, reload=reload, patch=not no_patch)
    except SettingsError as exc:
        raise Misuse(str(exc)) from exc
    except (TargetError, StartError, serving.GunicornMissing) as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(exc.strerror or str(exc)) from exc


# call


@cli.command()
@ADDRESS
@CMDID
@PARAMS
@options.timeout(30.0, "How long the call may take in all.")
@click.option("--raw", is_flag=True, help="Print the reply line as it came.")
@options.trust
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
    value = read_params(params)
    # At its end Python would search all that was imported for cycles: 18 ms of about 50.
    atexit.register(gc.freeze)
    with failures_told():
        if raw:
            from gtcp.cli.rawcall import print_reply_line

            print_reply_line(address, cmdid, value, timeout, trust)
        else:
            from gtcp.client.client import Client

            with Client(address, timeout=timeout, **trust) as client:
                print_json(client.call(cmdid, value))


# ping


@cli.command()
@ADDRESS
@click.option(
    "-c",
    "--count",
    metavar="N",
    callback=options.whole(1),
    help="How often; without it, until Ctrl-C.",
)
@click.option(
    "-i",
    "--interval",
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    callback=options.seconds,
    help="From one ping to the next.",
)
@options.timeout(5.0, "How long each may take.")
@options.trust
def ping(
    address: str, count: int | None, interval: float, timeout: float, trust: dict[str, Any]
) -> None:
    """Ask a server for a sign of life.

    Once a second, until Ctrl-C; at the end comes a summary, as with ping(8). The exit status
    is 1 when nothing was received.
    """
    from gtcp.cli import ping as pinging

    with failures_told():
        received = pinging.ping(
            address, count=count, interval=interval, timeout=timeout, trust=trust
        )
    if not received:
        raise SystemExit(FAILED)


# bench


@cli.command()
@ADDRESS
@CMDID
@PARAMS
@click.option(
    "-c",
    "--concurrency",
    metavar="N",
    callback=options.whole(1, 100_000),
    help="Calls at the same time: 10 unless said; with --rate at most 1000 unless said.",
)
@click.option(
    "-d",
    "--duration",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    callback=options.seconds,
    help="For how long calls are begun.",
)
@click.option(
    "-r",
    "--rate",
    type=float,
    metavar="N",
    callback=options.per_second,
    help="Begin so many calls a second, answered or not.",
)
@click.option(
    "--connections",
    metavar="N",
    callback=options.whole(1, 10_000),
    help="Open so many; without it as few as will do.",
)
@options.timeout(30.0, "How long each call may take.")
@click.option("--json", "as_json", is_flag=True, help="Sum up as JSON.")
@options.trust
def bench(
    address: str,
    cmdid: int,
    params: str,
    concurrency: int | None,
    duration: float,
    rate: float | None,
    connections: int | None,
    timeout: float,
    as_json: bool,
    trust: dict[str, Any],
) -> None:
    """Call a command again and again, and tell how long it takes.

    PARAMS is a JSON object, or - to read it from stdin; every call has the same.

    Without --rate the next call is made when one is answered, which finds out how many calls a
    second there can be. With --rate calls are made at fixed times, as by many callers who do not
    know of each other, and latencies count from these times: which finds out how long callers
    wait under that load, also while the server stalls.

    Ctrl-C ends it early. The exit status is 1 when a call failed, or none was answered.

    \b
    Examples:
      gtcp bench 127.0.0.1 10000 '{"content": "hi"}' --concurrency 64
      gtcp bench 127.0.0.1 10000 '{"content": "hi"}' --rate 2000 --duration 60
    """
    value = read_params(params)
    from gtcp.cli import bench as benching
    from gtcp.cli.load import Plan

    plan = Plan(
        cmdid=cmdid,
        params=value,
        concurrency=concurrency or (10 if rate is None else 1000),
        seconds=duration,
        rate=rate,
    )
    with failures_told():
        well = benching.bench(
            address, plan, connections=connections, timeout=timeout, as_json=as_json, trust=trust
        )
    if not well:
        raise SystemExit(FAILED)


# commands


@cli.command()
@ADDRESS
@click.option("--json", "as_json", is_flag=True, help="Everything, with the JSON Schemas.")
@options.timeout(30.0, "How long the call may take in all.")
@options.trust
def commands(address: str, as_json: bool, timeout: float, trust: dict[str, Any]) -> None:
    """List the commands of a server.

    What they take, what they return, what they are for.
    """
    from gtcp.cli.listing import Row, table
    from gtcp.client.client import Client

    with failures_told(), Client(address, timeout=timeout, **trust) as client:
        if as_json:
            print_json(client.call(0, {"op": "commands"}))
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
    from gtcp.cli.demo.tour import DemoFailed, show

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
