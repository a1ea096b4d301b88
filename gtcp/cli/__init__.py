"""The ``gtcp`` command: ``command`` is what may be typed, the other modules what is done."""

from gtcp.cli.command import main

__all__ = ["main"]
