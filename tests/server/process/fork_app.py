"""A server whose handlers fork. Run as a program it serves without gunicorn and unpatched."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

import gtcp
from gtcp.transport.sockets import original

FORK, PID, WAIT, GO, BEGUN, THREAD, SPAWNED, RUN, PROCESS, REAP = range(1, 11)
EXECUTOR, PIPE, PROGRAM, COMPUTE = range(11, 15)

# gevent's own, after its fork, now and then never learns of a child's end.
_system_waitpid = original("os", "waitpid")

server = gtcp.Server()

go = Event()
lock = BoundedSemaphore()
begun: list[str] = []

context = multiprocessing.get_context("fork")
pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def note(path: str, text: str) -> None:
    """Append a line, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def increment(port: int, name: str) -> None:
    """Count in redis."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(f"INCR {name}\r\n".encode())
        assert sock.recv(100).startswith(b":")


def in_child(params: dict[str, Any]) -> None:
    """The work of a child: it wakes up other handlers' waits, sleeps, and calls."""
    signal.alarm(30)
    Path(f"{params['path']}.begun").touch()
    go.set()
    for _ in range(3):
        if lock.locked():
            lock.release()
        gevent.sleep(params["seconds"] / 3)
    with gevent.Timeout(params["seconds"], False):
        gevent.sleep(30)
    pids = []
    if params.get("address"):
        with gtcp.Client(params["address"]) as client:
            pids = [client.call(PID, timeout=10), client.call(PID, timeout=10)]
    output = subprocess.run([sys.executable, "-c", "print('run')"], stdout=-1, check=True).stdout
    note(params["path"], f"child {os.getpid()} {pids} {output.decode().strip()}")


@server.handler(FORK)
def fork(request: gtcp.Request) -> Any:
    timeout = gevent.Timeout(25)
    timeout.start()
    try:
        child = os.fork()
        if child:
            return child
        in_child(request.params)
        how = request.params["how"]
        if how == "raises":
            raise ValueError("in the child")
        if how == "sys.exit":
            sys.exit(7)
        if how == "waits":
            timeout.close()
            Event().wait()
        if how == "exits":
            os._exit(9)
        return "from the child"
    finally:
        timeout.close()


@server.handler(PID)
def pid(request: gtcp.Request) -> int:
    return os.getpid()


@server.handler(WAIT, run_to_end=True)
def wait(request: gtcp.Request) -> int:
    """Wait in one of three ways, then count: once in each process that runs it."""
    params = request.params
    begun.append(params["name"])
    try:
        if params["name"] == "holder":
            with lock:
                go.wait()
        elif params["name"].startswith("timer"):
            gevent.sleep(params["seconds"])
        elif params["name"].startswith("event"):
            go.wait()
        else:
            with lock:
                gevent.sleep(0.01)
    finally:
        note(params["path"], f"{params['name']} {os.getpid()}")
        if params.get("redis"):
            increment(params["redis"], params["name"])
    return os.getpid()


@server.handler(GO)
def let_go(request: gtcp.Request) -> None:
    go.set()


@server.handler(BEGUN)
def count_begun(request: gtcp.Request) -> int:
    return len(begun)


@server.handler(THREAD)
def fork_in_thread(request: gtcp.Request) -> int:
    def work() -> int:
        child = original("os", "fork")()  # gevent's watches children in the main thread only
        if child == 0:
            signal.alarm(30)
            note(request.params["path"], f"child {os.getpid()} {server.started}")
            os._exit(9)
        return child

    return gevent.get_hub().threadpool.apply(work)


@server.handler(SPAWNED)
def fork_in_greenlet(request: gtcp.Request) -> int:
    """A greenlet of the application forks, and returns in the child."""

    def work() -> int:
        child = os.fork()
        if child == 0:
            in_child(request.params)
        return child

    return gevent.spawn(work).get()


@server.handler(RUN)
def run(request: gtcp.Request) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", "print('run')"],
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=(lambda: None) if request.params["preexec"] else None,
    )
    return [ended.stdout.decode().strip()]


@server.handler(PROCESS)
def process(request: gtcp.Request) -> Any:
    child = context.Process(target=in_child, args=(request.params,))
    child.start()
    child.join()
    return [child.pid, child.exitcode]


@server.handler(REAP)
def reap(request: gtcp.Request) -> int:
    """Wait for a child; returns its exit status, negative for a signal."""
    while True:
        try:
            found, status = _system_waitpid(request.params["pid"], os.WNOHANG)
        except ChildProcessError:  # gevent was first
            found, status = os.waitpid(request.params["pid"], os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        gevent.sleep(0.01)


def wait_for(path: str) -> int:
    """Wait for a file, in another process; returns which one."""
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


@server.handler(EXECUTOR)
def in_executor(request: gtcp.Request) -> int:
    return pool.submit(wait_for, request.params["path"]).result()


@server.handler(PIPE)
def in_process(request: gtcp.Request) -> int:
    reader, writer = context.Pipe(duplex=False)
    path = request.params["path"]
    child = context.Process(target=lambda: writer.send(wait_for(path)))
    child.start()
    writer.close()
    gevent.socket.wait_read(reader.fileno())
    found: int = reader.recv()
    child.join()
    return found


@server.handler(COMPUTE)
def compute_until(request: gtcp.Request) -> None:
    """Keep the event loop busy until there is a file."""
    path = Path(request.params["path"])
    path.with_suffix(".begun").touch()
    while not path.exists():
        pass


@server.handler(PROGRAM)
def in_program(request: gtcp.Request) -> int:
    source = f"import fork_app; print(fork_app.wait_for({request.params['path']!r}))"
    environment = {name: value for name, value in os.environ.items() if name != "FORK_TEST_FILE"}
    return int(subprocess.check_output([sys.executable, "-c", source], env=environment))


def tick(path: str) -> None:
    """A greenlet of the application, which goes on in the parent only."""
    pid = os.getpid()
    while True:
        gevent.sleep(0.01)
        if os.getpid() != pid:
            note(path, f"tick in {os.getpid()}")


if "FORK_TEST_FILE" in os.environ:  # set for the process that serves
    gevent.spawn(tick, os.environ["FORK_TEST_FILE"])

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    server.serve_forever()
