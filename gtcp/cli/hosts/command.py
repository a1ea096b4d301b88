"""``gtcp resolve``: the hosts that a client would use."""

from __future__ import annotations

import click
import msgspec

from gtcp.cli.options import Misuse
from gtcp.cli.output import aligned, print_json


@click.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def resolve(address: str, as_json: bool) -> None:
    """Print the hosts that a client of ADDRESS would use.

    ADDRESS is a list with commas, dns://NAME:PORT, srv://NAME or zk://HOST:PORT/PATH. The exit
    status is 1 if they can't be found.

    \b
    Examples:
      gtcp resolve dns://orders.internal:8889
      gtcp resolve zk://127.0.0.1:2181/services/orders
    """
    from gtcp.client.hosts.known import checked
    from gtcp.client.hosts.urls import known_hosts

    try:
        known = known_hosts(address)
    except ValueError as exc:
        raise Misuse(str(exc)) from exc
    try:
        hosts = known.hosts or checked(known.ask())
    except Exception as exc:  # of a resolver: a library's
        raise click.ClickException(f"{address}: {str(exc) or type(exc).__name__}") from exc
    finally:
        known.end()
    if as_json:
        print_json(msgspec.to_builtins(hosts))
        return
    rows = [("HOST", "WEIGHT", "PRIORITY")]
    rows += [(each.address, f"{each.weight:g}", str(each.priority)) for each in hosts]
    click.echo("\n".join(aligned(rows)))
