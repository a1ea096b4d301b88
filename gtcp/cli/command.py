"""The command ``gtcp``: its subcommands, their arguments and their help.

A subcommand imports the modules that it needs when it runs, so that ``gtcp call`` starts quickly.
``gtcp serve`` is in ``serve_command``.
"""

from __future__ import annotations

import atexit
import gc
from time import monotonic
from typing import Any

import click

from gtcp import __version__
from gtcp.cli import options
from gtcp.cli.contracts.command import diff, schema, stubs
from gtcp.cli.health.command import health
from gtcp.cli.hosts.command import resolve
from gtcp.cli.operate.command import stacks, top
from gtcp.cli.options import ADDRESS, COMMAND, FAILED, MISUSED, PARAMS, read_params
from gtcp.cli.output import failures_as_lines, print_json
from gtcp.cli.serve_command import serve


@click.group("gtcp", invoke_without_command=True)
@click.version_option(__version__, message="gtcp %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Synchronous RPC over TCP: serve commands, and call them.

    ADDRESS is "host", "host:port", "[v6]:port" or "unix:/path"; the default port is 8889. With
    "tls://" before it, TLS is used. Several with commas, "dns://name:port", "srv://name" and
    "zk://host:port/path" stand for several hosts (see gtcp resolve). A secret is read from a
    file, or from the variable GTCP_SECRET.

    For an example, run: gtcp demo
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(MISUSED)


cli.add_command(serve)
cli.add_command(health)


# call


@cli.command()
@ADDRESS
@COMMAND
@PARAMS
@options.timeout(30.0, "Maximum duration of the call, with connecting and retries.")
@click.option(
    "--meta",
    metavar="KEY=VALUE",
    multiple=True,
    callback=options.meta,
    help="Pass this string along with the request, as request.meta. Repeatable.",
)
@click.option("--raw", is_flag=True, help="Print the line of the reply, unchanged.")
@options.trust
def call(
    address: str,
    command: int | str,
    params: str,
    timeout: float,
    meta: dict[str, str] | None,
    raw: bool,
    trust: dict[str, Any],
) -> None:
    """Call a command and print its result as JSON.

    The command is a number, or a name in the server's list ("gtcp commands"). PARAMS is a JSON
    object, or - to read it from stdin. The exit status is 1 if the server replies with an error or
    the call fails; stderr then says whether the command was executed.

    \b
    Examples:
      gtcp call 127.0.0.1 10000 '{"content": "Hello world!"}'
      gtcp call 127.0.0.1 hello '{"content": "hi"}' --meta tenant=shop
      gtcp call unix:app.sock 10000 - < params.json
    """
    value = read_params(params)
    # At exit Python would search all imported modules for reference cycles: 18 ms of about 50.
    atexit.register(gc.freeze)
    with failures_as_lines():
        if raw:
            from gtcp.cli.rawcall import print_reply_line

            number, left = _number(address, command, timeout, trust)
            print_reply_line(address, number, value, max(left, 0.001), trust, meta=meta)
            return
        from gtcp.client.client import Client

        with Client(address, timeout=timeout, **trust) as client:
            number, left = _number_of(client, command, timeout)
            print_json(client.call(number, value, timeout=left, meta=meta))


# ping


@cli.command()
@ADDRESS
@click.option(
    "-c",
    "--count",
    metavar="N",
    callback=options.whole(1),
    help="Number of pings; the default is until Ctrl-C.",
)
@options.interval("Time between the starts of two pings.")
@options.timeout(5.0, "Maximum duration of each ping.")
@options.trust
def ping(
    address: str, count: int | None, interval: float, timeout: float, trust: dict[str, Any]
) -> None:
    """Check whether a server answers, and how quickly.

    Pings once a second until Ctrl-C, then prints a summary, as ping(8) does. The exit status is 1
    if no reply was received.

    \b
    Examples:
      gtcp ping 127.0.0.1 --count 3
    """
    from gtcp.cli import ping as pinging

    with failures_as_lines():
        received = pinging.ping(
            address, count=count, interval=interval, timeout=timeout, trust=trust
        )
    if not received:
        raise SystemExit(FAILED)


# bench


@cli.command()
@ADDRESS
@COMMAND
@PARAMS
@click.option(
    "-c",
    "--concurrency",
    metavar="N",
    callback=options.whole(1, 100_000),
    help="Number of concurrent calls: 10 by default; with --rate the maximum, 1000 by default.",
)
@click.option(
    "-d",
    "--duration",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    callback=options.seconds,
    help="For how long calls are started; those in flight are then waited for.",
)
@click.option(
    "-r",
    "--rate",
    type=float,
    metavar="N",
    callback=options.per_second,
    help="Start this many calls per second, whether or not earlier ones have ended.",
)
@click.option(
    "--connections",
    metavar="N",
    callback=options.whole(1, 10_000),
    help="Number of connections; by default as few as the concurrent calls need.",
)
@options.timeout(30.0, "Maximum duration of each call.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@options.trust
def bench(
    address: str,
    command: int | str,
    params: str,
    concurrency: int | None,
    duration: float,
    rate: float | None,
    connections: int | None,
    timeout: float,
    as_json: bool,
    trust: dict[str, Any],
) -> None:
    """Call a command repeatedly and print rate and latencies.

    The command is a number or a name. PARAMS is a JSON object, or - to read it from stdin; all
    calls have the same.

    Without --rate a call is started when a previous one has ended (a closed loop), which measures
    the maximum rate. With --rate calls are started at fixed times, as by many independent clients
    (an open loop), and latency counts from these times. This measures how long clients wait under
    that load, also while the server stalls.

    Ctrl-C ends the run early. The exit status is 1 if a call failed, or none was answered.

    \b
    Examples:
      gtcp bench 127.0.0.1 10000 '{"content": "hi"}' --concurrency 64
      gtcp bench 127.0.0.1 10000 '{"content": "hi"}' --rate 2000 --duration 60
    """
    value = read_params(params)
    from gtcp.cli import bench as benching
    from gtcp.cli.load import Plan

    with failures_as_lines():
        number, _ = _number(address, command, timeout, trust)
    plan = Plan(
        cmdid=number,
        params=value,
        concurrency=concurrency or (10 if rate is None else 1000),
        seconds=duration,
        rate=rate,
    )
    with failures_as_lines():
        well = benching.bench(
            address, plan, connections=connections, timeout=timeout, as_json=as_json, trust=trust
        )
    if not well:
        raise SystemExit(FAILED)


# commands


@cli.command()
@ADDRESS
@click.option(
    "--json", "as_json", is_flag=True, help="Print all fields as JSON, with the JSON Schemas."
)
@options.timeout(30.0, "Maximum duration of the call, with connecting and retries.")
@options.trust
def commands(address: str, as_json: bool, timeout: float, trust: dict[str, Any]) -> None:
    """List the commands of a server.

    Prints the number, name, types of params and result, and first docstring line of each.
    """
    from gtcp.cli.listing import Row, table
    from gtcp.client.client import Client

    with failures_as_lines(), Client(address, timeout=timeout, **trust) as client:
        if as_json:
            print_json(client.call(0, {"op": "commands"}))
        else:
            rows = client.call(0, {"op": "commands"}, result=list[Row])
            click.echo("\n".join(table(rows)))


# schema, stubs, diff, resolve, top, stacks

cli.add_command(schema)
cli.add_command(stubs)
cli.add_command(diff)
cli.add_command(resolve)
cli.add_command(top)
cli.add_command(stacks)


# demo


@cli.command()
@click.option("--stay", is_flag=True, help="Keep the server after the tour, until Ctrl-C.")
@click.option("--once", is_flag=True, hidden=True, help="The default since 0.3.")
def demo(stay: bool, once: bool) -> None:
    """Show calls, their bytes on the wire and their outcomes.

    Starts a server with sample commands on a free port, calls them, and stops the server. With
    --stay the server can then be called from another terminal.
    """
    from gtcp.cli.demo.tour import DemoFailed, show

    try:
        show(stay=stay and not once)
    except DemoFailed as exc:
        raise click.ClickException(str(exc)) from exc


# Names of commands


def _number(
    address: str, command: int | str, timeout: float, trust: dict[str, Any]
) -> tuple[int, float]:
    """Return the number of a command, and the rest of the timeout.

    A name is looked up through a connection that is closed afterwards.
    """
    if isinstance(command, int):
        return command, timeout
    from gtcp.client.client import Client

    with Client(address, timeout=timeout, **trust) as client:
        return _number_of(client, command, timeout)


def _number_of(client: Any, command: int | str, timeout: float) -> tuple[int, float]:
    if isinstance(command, int):
        return command, timeout
    from gtcp.cli.names import cmdid_of  # few calls need it

    started = monotonic()
    number = cmdid_of(client, command)
    return number, max(0.0, timeout - (monotonic() - started))
