"""The entry point of the command ``gtcp``.

The exit status is 2 for an error in what was typed or configured, and 1 for a failure; both print
one line on stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from gtcp.cli.command import cli
from gtcp.cli.options import FAILED
from gtcp.cli.output import complain
from gtcp.signals import ENDING, end_at


def main() -> NoReturn:
    """Run the command line, and exit with its status."""
    # Python's own handler would raise KeyboardInterrupt inside gevent's hub, which prints it.
    # Subcommands that act on a signal set their own handler.
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    end_at(*(each for each in ENDING if signal.getsignal(each) in defaults))
    if sys.stdout is None:  # closed by the parent process
        with open(os.devnull, "w") as sys.stdout:
            main()
    try:
        status = cli.main(prog_name="gtcp", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as exc:
        complain(exc)
        status = exc.exit_code
    except BrokenPipeError:  # the reader of the output (head, a pager) has closed the pipe
        status = _drop_output()
    except OSError as exc:
        complain(click.ClickException(f"can't write the output: {exc.strerror or exc}"))
        status = _drop_output()
    sys.exit(status or 0)


def _drop_output() -> int:
    """Discard the output buffer, which Python would try to write again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
