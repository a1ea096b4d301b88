"""Programs for the tests of threads and forks: ``python -m tests.client.children NAME ADDRESS``.

A fork or a monkey-patch concerns a whole process, so each runs in one of its own. A program
ends with status 0 when everything was as it should be. With ``--patched`` it is patched.
"""

from __future__ import annotations

import sys

if "--patched" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import ctypes
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent

import gtcp
from gtcp.transport.sockets import original

PATCHED = "--patched" in sys.argv

_system_waitpid: Callable[[int, int], tuple[int, int]] = original("os", "waitpid")


def say(word: str) -> None:
    """Tell the test how far we are."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def soon(condition: Callable[[], Any]) -> None:
    """Let greenlets and threads go on until it is true."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "not in time"
        gevent.sleep(0.002)


def in_threads(function: Callable[[int], None], numbers: range) -> None:
    """Run a function in as many threads at once; raises what one of them raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            function(number)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def in_child(function: Callable[[], None], fork: Callable[[], int] = os.fork) -> int:
    """Fork, run the function in the child; returns the child's pid."""
    pid = fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


def in_unseen_child(function: Callable[[], None]) -> int:
    """The same by the C library's fork, of which Python's hooks are not told, as uWSGI forks."""
    return in_child(function, lambda: int(ctypes.PyDLL(None).fork()))


def in_multiprocessing_child(function: Callable[[], None]) -> int:
    """The same as multiprocessing does it; has already ended when this returns."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    while process.is_alive():  # `join` would block the event loop
        gevent.sleep(0.002)
    assert process.exitcode == 0
    return 0


def succeeded(pid: int) -> None:
    """Wait for a child, without blocking the event loop."""
    if pid == 0:
        return
    while True:
        ended, status = _waited(pid)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, "the child has failed"
            return
        gevent.sleep(0.002)


def _waited(pid: int) -> tuple[int, int]:
    """Like ``os.waitpid``; gevent's sometimes misses the end of a child after its fork."""
    try:
        return _system_waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # gevent was first, so it knows
        return os.waitpid(pid, os.WNOHANG)


def ports(client: gtcp.Client) -> set[int]:
    """Our ends of this process's connections."""
    pools = list(client._pools._pools.values())
    return {each._sock.getsockname()[1] for pool in pools for each in pool.connections}


# Threads


def threads(address: str) -> None:
    """64 threads share a client made in another one; it is closed in yet another."""
    client = gtcp.Client(address)
    client.call(1)
    before = descriptors()

    def work(number: int) -> None:
        for count in range(30):
            params = {"thread": number, "count": count}
            assert client.call(1, params) == params
        params = [{"thread": number, "item": item} for item in range(30)]
        assert list(client.map(1, params, window=10)) == params

    in_threads(work, range(64))
    # Patched threads are greenlets of one hub, and share its connections.
    soon(lambda: PATCHED or descriptors() <= before)
    in_threads(lambda _number: client.close(), range(1))
    soon(lambda: client.stats()["connections"] == 0 and descriptors() < before)
    assert client.stats()["sent"] == 1 + 64 * 60


def threads_come_and_go(address: str) -> None:
    """Hundreds of threads leave nothing behind, also when names are looked up in them."""
    client = gtcp.Client("localhost:" + address.split(":")[1])

    def work(number: int) -> None:
        assert client.call(1, {"n": number}) == {"n": number}

    work(0)
    in_threads(work, range(10))
    soon(lambda: PATCHED or client.stats()["connections"] == 1)
    before = descriptors()
    for _ in range(30):
        in_threads(work, range(10))
    soon(lambda: descriptors() <= before)
    assert client.stats()["sent"] == 1 + 10 + 300


# Forks


def fork(address: str, child: Callable[..., int] = in_child) -> None:
    """Both sides use the client at the same time, on connections of their own."""
    client = gtcp.Client(address)
    client.call(1)
    mine = ports(client)
    in_flight = [gevent.spawn(client.call, 2, {"seconds": 0.5}) for _ in range(5)]
    soon(lambda: client.stats()["in_flight"] == 5)
    gevent.sleep(0.02)

    def use_and_close() -> None:
        for count in range(20):
            assert client.call(1, {"child": count}) == {"child": count}
        assert list(client.map(1, [{"n": n} for n in range(20)])) == [{"n": n} for n in range(20)]
        assert ports(client).isdisjoint(mine)
        assert client.stats()["opened"] == 1
        client.close()

    def use_and_leave() -> None:
        assert client.call(1, {"child": 1}) == {"child": 1}

    pids = [child(use_and_close), child(use_and_leave), child(lambda: None)]
    for count in range(20):
        assert client.call(1, {"parent": count}) == {"parent": count}
    for pid in pids:
        succeeded(pid)
    assert [each.get() for each in in_flight] == ["slept"] * 5
    assert client.call(1, {"parent": 1}) == {"parent": 1}
    assert ports(client) == mine
    assert client.stats()["opened"] == 1


def fork_by_multiprocessing(address: str) -> None:
    """The same with ``multiprocessing``."""
    fork(address, in_multiprocessing_child)


def fork_unseen(address: str) -> None:
    """The same by a fork that Python does not see."""
    fork(address, in_unseen_child)


def unseen_fork_and_the_event_loop(address: str) -> None:
    """The child's event loop leaves the parent's replies alone, even if it never calls."""
    client = gtcp.Client(address)
    client.call(1)
    call = gevent.spawn(client.call, 2, {"seconds": 0.2})
    soon(lambda: client.stats()["in_flight"])
    pids = [in_unseen_child(lambda: gevent.sleep(0.5)) for _ in range(3)]
    assert call.get(timeout=20) == "slept"
    assert client.call(1, {"n": 1}) == {"n": 1}
    for pid in pids:
        succeeded(pid)


def fork_before_use(address: str) -> None:
    """A client that was only made before the fork."""
    client = gtcp.Client(address)
    succeeded(in_child(lambda: client.call(1)))
    client.call(1)


def fork_in_the_child_again(address: str) -> None:
    """A grandchild has connections of its own too."""
    client = gtcp.Client(address)
    client.call(1)

    def child() -> None:
        client.call(1)
        mine = ports(client)

        def grandchild() -> None:
            client.call(1)
            assert ports(client).isdisjoint(mine)

        succeeded(in_child(grandchild))
        client.call(1)
        assert ports(client) == mine

    succeeded(in_child(child))
    client.call(1)


def fork_with_threads(address: str) -> None:
    """Other threads, which use the client too, do not exist in the child: nor do their hubs."""
    client = gtcp.Client("localhost:" + address.split(":")[1])
    client.call(1)
    started, end = [], threading.Event()

    def work() -> None:
        client.call(1)
        started.append(True)
        end.wait()

    workers = [threading.Thread(target=work) for _ in range(5)]
    for worker in workers:
        worker.start()
    soon(lambda: len(started) == 5)

    def child() -> None:
        ticks: list[int] = []
        gevent.spawn(lambda: [(ticks.append(n), gevent.sleep(0.001)) for n in range(5)])
        for count in range(5):
            assert client.call(1, {"n": count}) == {"n": count}
        soon(lambda: len(ticks) == 5)
        in_threads(lambda number: client.call(1, {"n": number}), range(5))
        client.close()

    for _ in range(3):
        succeeded(in_child(child))
    end.set()
    for worker in workers:
        worker.join()
    client.call(1)


def fork_in_a_thread(address: str) -> None:
    """The thread that forks lives on in the child, with its hub."""
    client = gtcp.Client(address)
    client.call(1)

    def work(_number: int) -> None:
        client.call(1)
        succeeded(in_child(lambda: client.call(1)))
        client.call(1)

    in_threads(work, range(1))
    client.call(1)


def forking_while(begun: Callable[[], None], address: str) -> None:
    """Fork while a greenlet is in a call; in the children its copy must do nothing more."""
    begun()

    def child() -> None:
        gevent.sleep(0.5)

    pids = [in_child(child) for _ in range(3)]
    say("forked")
    for pid in pids:
        succeeded(pid)


def fork_with_a_line_queued(address: str) -> None:
    """A line that waits for the end of the loop's turn is sent by the parent alone."""
    client = gtcp.Client(address)
    client.call(1)
    call = gevent.spawn(client.call, 3, {"id": "queued"})
    call.start()
    forked = gevent.spawn(forking_while, lambda: None, address)  # runs right after it
    forked.get()
    assert call.get() == {"id": "queued"}


def fork_while_connecting(address: str) -> None:
    """The connection that comes about is the parent's."""
    client = gtcp.Client(address)
    call = gevent.spawn(client.call, 3, {"id": "connecting"})
    forking_while(lambda: gevent.sleep(0.05), address)
    assert call.get() == {"id": "connecting"}


def fork_while_backing_off(address: str) -> None:
    """A call that is to be tried again is tried again by the parent."""
    client = gtcp.Client(address, retries=100)
    call = gevent.spawn(client.call, 3, {"id": "backing off"})
    forking_while(lambda: soon(lambda: client.stats()["retries"] > 2), address)
    assert call.get() == {"id": "backing off"}


def fork_in_a_stream(address: str) -> None:
    """The child of a process that is in the middle of a map may not wait for ever."""
    client = gtcp.Client(address)
    client.call(1)
    results = client.map(2, ({"seconds": 0.01} for _ in itertools.count()), window=4)
    next(results)

    def child() -> None:
        error = None
        try:
            list(results)
        except gtcp.GtcpError as exc:
            error = exc
        assert isinstance(error, gtcp.ConnectionLost)
        assert error.executed == "maybe"
        client.call(1)

    pid = in_child(child)
    for _ in range(20):
        assert next(results) == "slept"
    succeeded(pid)
    results.close()
    client.call(1)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
    say("done")
