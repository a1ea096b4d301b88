"""Detects that this process is a forked child, also of forks that Python does not see.

uWSGI forks its workers in C, so ``os.register_at_fork`` is never told. Comparing process ids costs
a system call for each check; a page of memory that the kernel zeroes in forked children
(MADV_WIPEONFORK, Linux 4.14) costs one read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

#: From linux/mman-common.h; the mmap module does not name it.
MADV_WIPEONFORK = 18


class _Pid:
    """Stands in for the page where the system has none: true in this process only."""

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, _index: int) -> bool:
        return self._pid == os.getpid()

    def __setitem__(self, _index: int, _value: int) -> None:
        self._pid = os.getpid()


def _new_page() -> Any:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        return _Pid()
    return page


# Mutable, at module level: they belong to the process.
#: Its first byte is 0 in a forked child until ``handle_fork`` has run there.
same_process = _new_page()
same_process[0] = 1
_handlers: list[Callable[[], object]] = []


def on_fork(handler: Callable[[], object]) -> None:
    """Have a function run in forked children, before anything of the client does."""
    _handlers.append(handler)


def handle_fork() -> None:
    """Run the handlers if this is a forked child in which they have not run."""
    if same_process[0]:
        return
    same_process[0] = 1
    for handler in _handlers:
        handler()


os.register_at_fork(after_in_child=handle_fork)
