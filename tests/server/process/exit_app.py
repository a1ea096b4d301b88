"""A server whose process hangs at its end, in the ways that a request chooses."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
import time

import gevent

import gtcp
from gtcp.transport.sockets import original

PID, ATEXIT, THREAD, PROCESS, WAIT, OBJECT, FORK = range(1, 8)

server = gtcp.Server()
begun: list[int] = []


@server.handler(PID)
def pid(request: gtcp.Request) -> list[int]:
    return [os.getpid(), len(begun)]


@server.handler(ATEXIT)
def hang_at_exit(request: gtcp.Request) -> None:
    atexit.register(original("time", "sleep"), 600)


@server.handler(THREAD)
def leave_thread(request: gtcp.Request) -> None:
    """In a process that is not patched: a native thread, which the interpreter waits for."""
    threading.Thread(target=time.sleep, args=(600,), name="a-thread-that-hangs").start()


@server.handler(PROCESS)
def leave_process(request: gtcp.Request) -> None:
    context = multiprocessing.get_context("fork")
    context.Process(target=time.sleep, args=(600,), name="a-process-that-hangs").start()


class Hangs:
    """Hangs when it is destroyed."""

    sleep = staticmethod(original("time", "sleep"))

    def __del__(self) -> None:
        self.sleep(600)


@server.handler(OBJECT)
def leave_object(request: gtcp.Request) -> None:
    """It is destroyed with what is left in ``sys``, when only the main thread runs Python code."""
    sys.left = Hangs()  # type: ignore[attr-defined]


def fork_and_wait() -> None:
    """Fork; the child goes on to its own end."""
    if child := os.fork():
        os.waitpid(child, 0)


@server.handler(FORK)
def fork_at_exit(request: gtcp.Request) -> None:
    atexit.register(fork_and_wait)


@server.handler(WAIT, run_to_end=True)
def wait(request: gtcp.Request) -> None:
    begun.append(1)
    gevent.sleep(600)
