"""The subcommand ``gtcp health``, with its options; ``probe`` is the fast path without them."""

from __future__ import annotations

from typing import Any

import click

from gtcp.cli import options
from gtcp.cli.health.probe import (
    NO_ANSWER,
    NOT_CONNECTED,
    TIMEOUT,
    WRONG_ARGUMENTS,
    ProbeError,
    end,
    status_of,
)
from gtcp.cli.options import ADDRESS
from gtcp.errors import ConnectError, GtcpError


class _WrongArguments(click.ClickException):
    exit_code = WRONG_ARGUMENTS


class _Probe(click.Command):
    """A command whose exit status for wrong arguments is that of grpc_health_probe."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except click.ClickException as exc:
            raise _WrongArguments(exc.format_message()) from exc


@click.command(cls=_Probe)
@ADDRESS
@click.option("--command", metavar="NAME", help="Ask about this command, not the whole server.")
@options.timeout(TIMEOUT, "Maximum duration, with connecting.")
@options.trust
def health(address: str, command: str | None, timeout: float, trust: dict[str, Any]) -> None:
    """Probe the health of a server.

    Prints SERVING, NOT_SERVING or DRAINING. The exit status is 0 for SERVING, 4 for the others, 2
    if there is no connection, 3 if there is no answer, and 1 for wrong arguments.
    """

    def ask() -> str:
        from gtcp.client.client import Client

        try:
            with Client(address, timeout=timeout, retries=0, **trust) as client:
                return status_of(client.call(0, {"op": "health"}), command)
        except ConnectError as exc:
            raise ProbeError(NOT_CONNECTED, str(exc)) from exc
        except GtcpError as exc:
            raise ProbeError(NO_ANSWER, str(exc)) from exc
        except (TypeError, ValueError) as exc:  # a wrong option
            raise ProbeError(WRONG_ARGUMENTS, str(exc)) from exc

    end(ask, address)
