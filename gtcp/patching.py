"""Have the standard library cooperate with gevent."""

from __future__ import annotations

from importlib import metadata

from gevent import monkey


def patch_all() -> None:
    """Call ``gevent.monkey.patch_all``, but read the entry points of all distributions only once.

    gevent looks for plugins before and after it patches each module, and each time reads the
    metadata of every distribution that is installed. With a hundred of them, ``gtcp serve`` takes a
    fifth less time to start.
    """
    asked = metadata.entry_points
    found = asked()
    metadata.entry_points = found.select
    try:
        monkey.patch_all()
    finally:
        metadata.entry_points = asked
