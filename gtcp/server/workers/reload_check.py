"""Before workers are replaced: would new ones start? Asked of a child that ends afterwards."""

from __future__ import annotations

import io
import os
import select
import signal
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from typing import NoReturn

import msgspec

from gtcp.server.settings import Settings

#: Bytes read at a time.
READ_BYTES = 65536


class Verdict(msgspec.Struct):
    """The result of the check: the server's settings, or the problem in one line."""

    settings: Settings | None = None
    error: str = ""


class ReloadCheck:
    """A child that loads the configuration and the application, in the background.

    Args:
        look: called in the child; returns the settings of the server.
        signals: those that the parent handles; the child leaves them to their defaults.
    """

    def __init__(self, look: Callable[[], Settings], signals: Iterable[int]) -> None:
        self._reading, writing = os.pipe()
        self._received = b""
        self.pid = os.fork()
        if self.pid == 0:
            _answer_and_exit(writing, look, signals)
        os.close(writing)
        os.set_blocking(self._reading, False)

    def verdict(self) -> Verdict | None:
        """Return the verdict; None if there is none yet."""
        ended = not _is_running(self.pid)
        while select.select([self._reading], [], [], 0)[0]:
            data = os.read(self._reading, READ_BYTES)
            self._received += data
            if not data or b"\n" in data:
                break
        if b"\n" in self._received:  # the rest may be held open by what the application started
            return msgspec.json.decode(self._received.partition(b"\n")[0], type=Verdict)
        return Verdict(error="loading the application ended the process") if ended else None

    def close(self) -> None:
        """End the child, if it has not ended."""
        os.close(self._reading)
        if _is_running(self.pid):
            os.kill(self.pid, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    """Return whether a child has not ended yet; its status is collected."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:  # gunicorn has collected it
        return False


def _answer_and_exit(pipe: int, look: Callable[[], Settings], signals: Iterable[int]) -> NoReturn:
    """In the child: whatever happens, it goes no further than this."""
    try:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        answer = memoryview(msgspec.json.encode(_verdict(look)) + b"\n")
        while answer:
            answer = answer[os.write(pipe, answer) :]
    finally:
        os._exit(0)


def _verdict(look: Callable[[], Settings]) -> Verdict:
    said = io.StringIO()  # gunicorn prints what is wrong with its configuration, and exits
    try:
        with redirect_stderr(said):
            return Verdict(look())
    except SystemExit as exc:
        lines = said.getvalue().split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"exit status {exc.code}")
        return Verdict(error=last.strip())
    except Exception as exc:
        return Verdict(error=one_line(exc))


def one_line(exc: BaseException) -> str:
    """Return what went wrong and, for an error of the application, in which file and line."""
    kind = type(exc).__name__
    lines = str(exc).strip().splitlines()
    if kind == "AppImportError" or hasattr(exc, "one_line"):
        return lines[0] if lines else kind
    message = f"{kind}: {lines[0]}" if lines else kind
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{exc.filename}, line {exc.lineno}: {kind}: {exc.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith("<")
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {message}" if frames else message
