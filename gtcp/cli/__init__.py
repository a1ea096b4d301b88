"""The ``gtcp`` command."""

from gtcp.cli.entry import main

__all__ = ["main"]
