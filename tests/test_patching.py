"""``gtcp.patching``: gevent's patches, at less cost."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from importlib import metadata

asked = metadata.entry_points
calls = []

def counted(**params):
    calls.append(params)
    return asked(**params)

metadata.entry_points = counted

from gtcp.patching import patch_all

patch_all()

from gevent.monkey import is_module_patched

print(len(calls), metadata.entry_points is counted, is_module_patched("ssl"))
"""


def test_entry_points_are_read_once() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.split() == ["1", "True", "True"]
