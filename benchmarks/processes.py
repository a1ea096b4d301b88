"""The processes of a benchmark: each in a session of its own, all gone when it ends.

Ctrl-C reaches only the benchmark itself, which then ends them. Should it be killed, the kernel
does, where it can (Linux).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.echo import HOST
from benchmarks.machine import ROOT

#: Seconds that a process gets to start, and beyond its planned duration.
PATIENCE = 20.0

#: The signals that end a benchmark.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Failed(Exception):
    """A process did not do what it should have; one line says why."""


class Child:
    """A process that reads questions, one line of JSON each, and answers likewise."""

    def __init__(self, args: Sequence[str], core: int | None, env: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed in `end`
        self._rest = b""
        self.process = subprocess.Popen(
            args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            start_new_session=True,
            preexec_fn=_in_child(core),
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def ask(self, question: Mapping[str, Any], seconds: float = 0.0) -> Any:
        """The answer to a question that takes about `seconds`.

        Raises:
            Failed: it ended, or did not answer in time.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self.why("ended")) from None
        return json.loads(self.line(seconds + PATIENCE))

    def line(self, seconds: float = PATIENCE) -> bytes:
        """The next line it prints.

        Raises:
            Failed: it ended, or did not print one in time.
        """
        assert self.process.stdout is not None
        out = self.process.stdout.fileno()
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([out], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise Failed(self.why(f"said nothing for {seconds:.0f} s"))
            data = os.read(out, 65536)
            if not data:
                raise Failed(self.why("ended"))
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def wait_until_it_listens(self, port: int) -> None:
        """Return when a connection to the port succeeds.

        Raises:
            Failed: it ended, or does not listen.
        """
        until = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                raise Failed(self.why("ended"))
            try:
                socket.create_connection((HOST, port), timeout=1).close()
            except OSError:
                if time.monotonic() > until:
                    raise Failed(self.why("does not listen")) from None
                time.sleep(0.02)
            else:
                return

    def why(self, what: str) -> str:
        """A process failed; the message has its last output."""
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"{what}: {said[-1]}" if said else what

    def end(self) -> None:
        """Kill it, and what it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended; macOS says the latter
            pass
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._stderr):
            try:
                pipe.close()  # type: ignore[union-attr]
            except BrokenPipeError:  # a question was not taken any more
                pass


class Processes:
    """The children of a part; a context manager that ends them all."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._children:
            self._children.pop().end()

    def start(
        self, args: Sequence[str], *, core: int | None = None, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start a process, on one core if one is given.

        A signal waits meanwhile: Python drops what its handler raises in a fork's hooks.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            child = Child(args, core, env or {})
            self._children.append(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child

    def python(self, *args: str, core: int | None = None, **env: str) -> Child:
        """Start `python -m benchmarks.child` with arguments."""
        return self.start([sys.executable, "-m", "benchmarks.child", *args], core=core, env=env)

    def end(self, child: Child) -> None:
        """End one of them now."""
        self._children.remove(child)
        child.end()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def open_files() -> int:
    """How many descriptors a child may have open."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def _in_child(core: int | None) -> Callable[[], None]:
    """Prepare a child before it runs its program; safe, because there are no threads."""
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    limits = (open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        if core is not None:
            os.sched_setaffinity(0, {core})
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (OSError, ValueError):  # macOS has a lower limit of its own
            pass
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return prepare
