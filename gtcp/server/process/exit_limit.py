"""A time limit for the end of a process that has drained.

Interpreter shutdown waits for threads, for processes of ``multiprocessing`` and for ``atexit``
functions, and then destroys objects. If one of them hangs, the process would stay for ever, or
until its supervisor kills it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any

from gtcp.server.process.stop_signals import SIGNALS, write_to_stderr
from gtcp.signals import STATUS, end_at
from gtcp.transport.sockets import original

#: Seconds for interpreter shutdown after a drain, and after one that a second signal cut short.
EXIT_SECONDS, CUT_EXIT_SECONDS = 10.0, 1.0

#: Seconds after these, when no thread but the main one runs Python code any more.
MORE_SECONDS = 1.0


def limit_exit(cut_by: int | None = None) -> None:
    """End the process if it has not ended by itself in time; one line on stderr says what hangs.

    While objects are destroyed, the stack of the main thread says it. From now on SIGINT and
    SIGTERM end it immediately. Called in the main thread.

    Args:
        cut_by: the signal that cut the drain short, None if none did. Its number plus 128 is the
            exit status then, else 1; while objects are destroyed, it is always 1.
    """
    end_at(*SIGNALS)
    seconds, status = (EXIT_SECONDS, 1) if cut_by is None else (CUT_EXIT_SECONDS, STATUS + cut_by)
    main = original("_thread", "get_ident")()
    original("_thread", "start_new_thread")(_end_after, (seconds, status, main, os.getpid()))

    def start() -> None:
        faulthandler.dump_traceback_later(seconds + MORE_SECONDS, exit=True, file=2)

    start()
    # At its end, a forked child would wait for the thread of faulthandler, which it has not got.
    os.register_at_fork(before=faulthandler.cancel_dump_traceback_later, after_in_parent=start)


def _end_after(seconds: float, status: int, main: int, pid: int) -> None:
    """Wait, then end the process. Runs in a native thread, which takes no locks."""
    original("time", "sleep")(seconds)
    try:
        children = _children(pid)
        what = [*_threads(main), *map(_described, children), _place(main)]
        write_to_stderr(
            f"gtcp: not ended {seconds:g} s after the drain, ending now; "
            f"it waits for {', '.join(what)}\n"
        )
        for each in children:
            if each.daemon:  # as multiprocessing does at exit
                each.terminate()
    finally:
        os._exit(status)


def _threads(main: int) -> list[str]:
    """Describe the threads that the interpreter waits for."""
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return []
    waited_for = [
        each
        for ident, each in list(threading._active.items())
        if not (each.daemon or ident == main or isinstance(each, threading._MainThread))
    ]
    return [f"thread {each.name}" for each in waited_for]


def _children(pid: int) -> list[Any]:
    """Return the processes that ``multiprocessing`` waits for."""
    process: Any = sys.modules.get("multiprocessing.process")
    children = [] if process is None else list(process._children)
    return [each for each in children if each._parent_pid == pid and each._popen is not None]


def _described(child: Any) -> str:
    return f"process {child.name} (pid {child._popen.pid})"


def _place(main: int) -> str:
    """Describe where the main thread is."""
    frame = sys._current_frames().get(main)
    if frame is None:
        return "code that is not Python"
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}, line {frame.f_lineno})"
