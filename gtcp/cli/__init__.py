"""The ``gtcp`` command.

Read ``entry`` (exit status), ``command`` and ``serve_command`` (subcommands and their help),
``options`` and ``output`` (what they share). Each subcommand has its own module: ``serving`` with
``target``; ``rawcall`` and ``names`` for ``call``; ``ping``; ``bench`` with ``load`` and
``histogram``; ``listing`` with ``shorthand``; ``demo``; ``health``; ``contracts``.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that was typed, and exit with its status."""
    if sys.argv[1:2] == ["health"]:  # as an orchestrator does every few seconds
        from gtcp.cli.health.probe import probe

        probe(sys.argv[2:])
    from gtcp.cli.entry import main as run

    run()


__all__ = ["main"]
