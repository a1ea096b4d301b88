"""Runs the code blocks of a Markdown document, in order, in one temporary directory.

- A ```python block runs in the document's one interpreter and sees the names of the blocks
  before it. An expression followed by `# -> value` must show that value, as an interactive
  prompt would; `...` stands for anything.
- A block of any language whose first line is `# app.py` (a path with a suffix, nothing
  else) is written to that file; python ones run as well.
- In a ```console or ```sh block, lines that begin with `$ ` are commands for bash (one bash
  each); lines behind one that begin with `> `, or that follow a backslash, continue it.
  It must exit with 0. Output lines, where there are any, must be what it prints, stdout
  and stderr together; `...` stands for anything. Without a `$ ` line nothing is run.
- All other blocks are read by humans only.

The ports 8889, 8890, 8891 and 9889 of the document are replaced by free ones when it is run,
`/srv/shop` by the directory, and `/srv/shop/.venv/bin` by the directory of this Python.

HTML comments above a block mark it:

    <!-- skip: reason -->    leave it out altogether
    <!-- write -->           write the file, do not run it
    <!-- background -->      go on when the command has printed the output shown, or its first
                             line; at the end of the document it gets SIGTERM and has to end
    <!-- background: 8890 -->  the same, but go on when something listens on this port
    <!-- stop: gtcp -->      first end the background commands that begin with these words
    <!-- exit: 1 -->         the status with which the block's commands must exit
    <!-- needs: nc -->       leave it out where this program is not installed; a failure with
                             TEST_PROGRAMS=required (as in .ci/run for root)
    <!-- test-command -->    the line .ci/run takes from README.md; not run

``run_document`` starts this module in a process of its own. It imports little there, so that a
block may still monkey-patch. The gevent hub runs while a command runs, so that a server that a
block has started in a greenlet goes on serving.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

FENCE = re.compile(r"(\s*)(`{3,}|~{3,})\s*([^\s`]*)")
MARK = re.compile(r"\s*<!--\s*([\w-]+)\s*(?::\s*(.*?))?\s*-->\s*")
FILE = re.compile(r"# ([\w./-]+\.\w+)")
ARROW = re.compile(r"\s*#\s*->\s*(.*)")
MARKS = {"skip", "write", "background", "stop", "exit", "needs", "test-command"}
NEED_VALUE = {"skip", "stop", "exit", "needs"}
SHELLS = {"console", "sh"}
PORTS = ("8889", "8890", "8891", "9889")
SCRIPTS = Path(sys.executable).parent
PASSED = "every block did what the document says"
ENDED_WELL = (0, -signal.SIGTERM, 128 + signal.SIGTERM)


class DocFailure(AssertionError):
    """A document promises what does not happen."""


def run_document(path: Path, folder: Path, *, timeout: float = 60.0) -> None:
    """Run the document's blocks in ``folder / "run"``.

    Args:
        timeout: seconds a block or a command may take.

    Raises:
        DocFailure: with the document's name and line, at the first promise it breaks.
    """
    from tests.helpers import free_port

    directory, log = folder / "run", folder / "log"
    directory.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    env["PATH"] = os.pathsep.join([str(SCRIPTS), env["PATH"], "/usr/sbin", "/usr/local/sbin"])
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80"}
    args = [path, directory, timeout, *(free_port() for _ in PORTS)]
    with log.open("wb") as output:
        status = subprocess.call(
            [sys.executable, "-m", "tests.doc_blocks", *map(str, args)],
            cwd=Path(__file__).parents[1],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    said = read(log)
    if status or said.splitlines()[-1:] != [PASSED]:
        raise DocFailure(f"{said}{path.name}: its interpreter ended: {status}")


# --- reading ------------------------------------------------------------------------------


class Block(NamedTuple):
    line: int  # where its text begins, counted from 1
    language: str
    text: str
    marks: dict[str, str | None]


def parse(text: str) -> Iterator[Block]:
    """Yield the document's fenced blocks with the marks above them.

    Raises DocFailure for an unknown mark and an open fence.
    """
    marks: dict[str, str | None] = {}
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if fence := FENCE.match(line):
            body = []
            for _, inside in lines:
                if inside.strip().startswith(fence[2]) and not inside.strip(fence[2][0] + " "):
                    break
                body.append(inside)
            else:
                raise DocFailure(f"line {number}: this code block is never closed")
            check_marks(marks, number)
            yield Block(number + 1, fence[3].lower(), textwrap.dedent("\n".join(body)), marks)
            marks = {}
        elif mark := MARK.fullmatch(line):
            marks[mark[1]] = mark[2]
        elif line.strip():
            marks = {}


def file_of(document: Path, name: str) -> str:
    """Return the one block of a document that is a file of this name."""
    blocks = parse(document.read_text())
    (block,) = [each for each in blocks if each.text.startswith(f"# {name}\n")]
    return block.text


def check_marks(marks: dict[str, str | None], number: int) -> None:
    for name, value in marks.items():
        if name not in MARKS:
            raise DocFailure(f"line {number}: unknown mark <!-- {name} -->")
        if name in NEED_VALUE and not value:
            raise DocFailure(f"line {number}: <!-- {name}: ... --> has to say what")


def commands(block: Block) -> list[tuple[int, str, str]]:
    """The line and the text of each `$ ` command, and the output shown below it."""
    found: list[tuple[int, str, str]] = []
    for line, text in enumerate(block.text.splitlines(), block.line):
        if text.startswith("$ "):
            found.append((line, text[2:], ""))
        elif found:
            start, command, shown = found[-1]
            if not shown and (command.endswith("\\") or text.startswith("> ")):
                found[-1] = (start, f"{command}\n{text.removeprefix('> ')}", "")
            else:
                found[-1] = (start, command, f"{shown}{text}\n")
    return found


def same(want: str, got: str) -> bool:
    """Whether `got` is what `want` says, line ends aside; `...` stands for anything."""
    return doctest.OutputChecker().check_output(tidy(want), tidy(got), doctest.ELLIPSIS)


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def read(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")


# --- running ------------------------------------------------------------------------------------


class Command(NamedTuple):
    line: int
    text: str
    process: Any
    output: Path


class Document:
    """One document being run, in the process that is its interpreter."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self.started: list[Command] = []
        self.backgrounds: list[Command] = []
        # A real module: type hints are looked up in sys.modules.
        self.module = sys.modules["doc"] = ModuleType("doc")
        self.module.__dict__["__show__"] = self.show
        signal.signal(signal.SIGALRM, self.on_timeout)

    def run(self, text: str) -> None:
        """Run every block; raises DocFailure at the first that does not hold."""
        for block in parse(text):
            if {"skip", "test-command"} & set(block.marks) or self.is_missing(block):
                continue
            self.stop_backgrounds(block)
            self.write_file(block)
            if "write" in block.marks:
                continue
            if block.language == "python":
                self.run_python(block)
            for each in commands(block) if block.language in SHELLS else ():
                self.run_command(*each, block.marks)
        for each in reversed(self.backgrounds):
            self.stop(each)

    def is_missing(self, block: Block) -> bool:
        """Return whether a program that the block needs is not installed."""
        needs = block.marks.get("needs")
        if needs is None or shutil.which(needs):
            return False
        if os.environ.get("TEST_PROGRAMS") == "required":
            raise self.failure(block.line, f"{needs} is not installed")
        return True

    def write_file(self, block: Block) -> None:
        first = FILE.fullmatch(block.text.partition("\n")[0])
        if first and block.language not in SHELLS:
            Path(first[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(first[1]).write_text(block.text + "\n", encoding="utf-8")

    def run_python(self, block: Block) -> None:
        """Run a block as code whose tracebacks name the document and its lines."""
        self.watch(block.line, f"still running after {self.timeout} s")
        try:
            source = "\n" * (block.line - 1) + block.text
            tree = ast.parse(source, self.path)
            for index, node in enumerate(tree.body):
                tree.body[index] = with_arrow(node, source.split("\n"))
            code = compile(tree, str(self.path), "exec", dont_inherit=True)
            exec(code, self.module.__dict__)
        except DocFailure:
            raise
        except BaseException as exc:  # a block may also end in SystemExit or gevent.Timeout
            raise self.failure(block.line, traceback.format_exc()) from exc

    def show(self, line: int, want: str, evaluate: Any) -> None:
        """Compare with what an interactive prompt would show for the expression."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = evaluate()
        got = (printed.getvalue() + ("" if value is None else repr(value))).strip()
        if not same(want, got):
            raise self.failure(line, f"wanted: {want}\ngot:    {got}")

    def run_command(self, line: int, text: str, shown: str, marks: dict[str, str | None]) -> None:
        from gevent import sleep, subprocess

        output = Path(f"../output-{line}")
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", text],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a pipeline can be signalled as one
            )
        command = Command(line, text, process, output)
        self.started.append(command)
        wanted = f"wanted:\n{shown or '(a line)'}"
        if "background" in marks:
            self.backgrounds.append(command)
            port = marks["background"]
            is_up = partial(listens, int(port)) if port else partial(self.is_up, shown, output)
            self.watch(line, wanted, command)
            while process.poll() is None and not is_up():
                sleep(0.02)
            if not is_up():
                raise self.failure(line, wanted, command)
            return
        self.watch(line, f"still running after {self.timeout} s", command)
        expected = int(marks.get("exit") or 0)
        if process.wait() != expected:
            what = f"exit status {process.returncode}, not {expected}"
            raise self.failure(line, what, command)
        if shown and not same(shown, read(output)):
            raise self.failure(line, wanted, command)

    def is_up(self, shown: str, output: Path) -> bool:
        return same(shown, read(output)) if shown else "\n" in read(output)

    def stop_backgrounds(self, block: Block) -> None:
        """End the background commands that the block's mark names."""
        prefix = block.marks.get("stop")
        if prefix is None:
            return
        named = [each for each in self.backgrounds if each.text.startswith(prefix)]
        if not named:
            raise self.failure(block.line, f"no background command begins with {prefix!r}")
        for each in named:
            self.stop(each)
            self.backgrounds.remove(each)

    def stop(self, command: Command) -> None:
        """End it by SIGTERM, as a supervisor would."""
        self.watch(command.line, "did not end after SIGTERM", command)
        signal_group(command, signal.SIGTERM)
        if command.process.wait() not in ENDED_WELL:
            what = f"ended with {command.process.returncode} after SIGTERM"
            raise self.failure(command.line, what, command)

    def watch(self, *late: Any) -> None:
        """Give what begins now its time; ``late`` is the failure when it takes longer."""
        self.late = late
        signal.setitimer(signal.ITIMER_REAL, self.timeout)

    def on_timeout(self, _signal: int, _frame: FrameType | None) -> None:
        """End the process, whatever it is doing: an exception would reach any greenlet."""
        print(self.failure(*self.late))  # noqa: T201
        self.kill()
        os._exit(1)

    def kill(self) -> None:
        for each in self.started:
            signal_group(each, signal.SIGKILL)

    def failure(self, line: int, text: str, command: Command | None = None) -> DocFailure:
        if command is not None:
            text = f"$ {command.text}\n{text.rstrip()}\ngot:\n{read(command.output)}"
        logs = (f"\n--- {each.text}\n{read(each.output)}" for each in self.backgrounds)
        return DocFailure(f"{self.path.name}:{line}: {text}{''.join(logs)}")


def with_arrow(node: ast.stmt, lines: list[str]) -> ast.stmt:
    """`value  # -> 3` becomes `__show__(line, "3", lambda: value)`."""
    end = node.end_lineno or node.lineno
    arrow = ARROW.fullmatch(lines[end - 1].encode()[node.end_col_offset :].decode())
    if arrow is None or not isinstance(node, ast.Expr):
        return node
    show: Any = ast.parse(f"__show__({node.lineno}, {arrow[1].strip()!r}, lambda: 0)").body[0]
    show.value.args[2].body = node.value
    return ast.fix_missing_locations(ast.copy_location(show, node))


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def signal_group(command: Command, number: int) -> None:
    if command.process.poll() is None:
        os.killpg(command.process.pid, number)


def main(name: str, directory: str, timeout: str, *ports: str) -> None:
    path = Path(name).absolute()
    # The longer of two paths first.
    places = {"/srv/shop/.venv/bin": str(SCRIPTS), "/srv/shop": directory}
    places |= dict(zip(PORTS, ports, strict=True))
    text = re.sub(
        "|".join(places), lambda match: places[match[0]], path.read_text(encoding="utf-8")
    )
    os.chdir(directory)
    sys.path[0] = directory
    document = Document(path, float(timeout))
    try:
        document.run(text)
    except DocFailure as exc:
        sys.exit(str(exc))
    finally:
        document.kill()
    print(PASSED)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
