"""Signals that end a process, also process 1, the first of a container.

The kernel takes no default action for signals to process 1: without a handler they are lost.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

#: The signals with which supervisors, shells and terminals end a process.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

#: What is added to the number of the signal that has ended a process, in its exit status.
STATUS = 128


def end_at(*numbers: int) -> None:
    """Have these signals end the process, as by default. Called in the main thread."""
    for each in numbers:
        signal.signal(each, _end if os.getpid() == 1 else signal.SIG_DFL)


def end_by(number: int) -> NoReturn:
    """End the process as the signal does by default; process 1 with the exit status 128 + N."""
    if os.getpid() != 1:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(STATUS + number)


def _end(number: int, _frame: FrameType | None) -> None:
    end_by(number)
