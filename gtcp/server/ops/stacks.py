"""Stacks of threads and greenlets, as text, without the server's own frames."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

#: Frames that are shown: the innermost ones.
FRAMES = 12

_GTCP = str(Path(__file__).parents[2]) + os.sep


def stack_of_thread(thread: int) -> str:
    """Return where a thread is, its innermost frame last."""
    return stack_from(sys._current_frames().get(thread))


def stack_from(frame: Any) -> str:
    """Return the innermost frames from this one outwards; empty for None."""
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    outer = [number for number, each in enumerate(frames) if each.filename.startswith(_GTCP)]
    inner = frames[outer[-1] + 1 :] if outer and outer[-1] + 1 < len(frames) else frames
    return "".join(traceback.format_list(inner[-FRAMES:])).rstrip()
