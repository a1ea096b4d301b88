"""Where the ``gtcp`` command begins and ends.

Mistakes in what was typed or configured end with status 2, failures with 1; both with one line
on stderr.
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


def main() -> NoReturn:
    """Run the command that was typed, and exit with its status."""
    # Python's own handler would raise KeyboardInterrupt inside gevent's hub, which prints it.
    # What has something to do at Ctrl-C sets a handler of its own.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stdout is None:  # closed by whoever started us
        with open(os.devnull, "w") as sys.stdout:
            main()
    try:
        status = cli.main(prog_name="gtcp", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as exc:
        complain(exc)
        status = exc.exit_code
    except BrokenPipeError:  # whoever read our output (head, a pager) has seen enough
        status = _drop_output()
    except OSError as exc:
        complain(click.ClickException(f"can't write the output: {exc.strerror or exc}"))
        status = _drop_output()
    sys.exit(status or 0)


def _drop_output() -> int:
    """What is left in the buffer has nowhere to go, and Python would try once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
