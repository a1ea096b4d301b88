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

The ports 8889 and 8890 of the document are free ones when it is run, so that nothing is in its
way.

HTML comments above a block mark it:

    <!-- skip: reason -->    leave it out altogether
    <!-- write -->           write the file, do not run it
    <!-- background -->      go on when the command has printed the output shown, or its first
                             line; at the end of the document it gets SIGTERM and has to end
    <!-- exit: 1 -->         the status with which the block's commands must exit
    <!-- needs: nc -->       leave it out where this program is not installed
    <!-- test-command -->    the line .ci/run takes from README.md; not run
"""

import doctest
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import free_port

FENCE = re.compile(r"(\s*)(`{3,}|~{3,})\s*([^\s`]*)")
MARK = re.compile(r"\s*<!--\s*([\w-]+)\s*(?::\s*(.*?))?\s*-->\s*")
FILE = re.compile(r"# ([\w./-]+\.\w+)")
MARKS = {"skip", "write", "background", "exit", "needs", "test-command"}
NEED_VALUE = {"skip", "exit", "needs"}
SHELLS = {"console", "sh"}
CHILD = Path(__file__).with_name("doc_child.py")


class DocFailure(AssertionError):
    """A document promises what does not happen."""


@dataclass(frozen=True)
class Block:
    line: int  # where its text begins, counted from 1
    language: str
    text: str
    marks: dict[str, str | None] = field(default_factory=dict)


@dataclass
class Command:
    line: int
    text: str
    shown: list[str] = field(default_factory=list)


@dataclass
class Background:
    command: Command
    process: subprocess.Popen[bytes]
    output: Path


# --- reading ------------------------------------------------------------------------------


def parse(text: str) -> list[Block]:
    """The document's fenced blocks with the marks above them.

    Raises DocFailure for an unknown mark and an open fence.
    """
    blocks: list[Block] = []
    marks: dict[str, str | None] = {}
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if fence := FENCE.match(line):
            body = read_body(fence, number, lines)
            check_marks(marks, number)
            blocks.append(Block(number + 1, fence[3].lower(), body, marks))
            marks = {}
        elif mark := MARK.fullmatch(line):
            marks[mark[1]] = mark[2]
        elif line.strip():
            marks = {}
    return blocks


def read_body(fence, opened, lines):
    body = []
    for _, line in lines:
        if line.strip().startswith(fence[2]) and not line.strip().strip(fence[2][0]):
            return textwrap.dedent("\n".join(body))
        body.append(line)
    raise DocFailure(f"line {opened}: this code block is never closed")


def check_marks(marks, number):
    for name, value in marks.items():
        if name not in MARKS:
            raise DocFailure(f"line {number}: unknown mark <!-- {name} -->")
        if name in NEED_VALUE and not value:
            raise DocFailure(f"line {number}: <!-- {name}: ... --> has to say what")


def commands(block: Block) -> list[Command]:
    """The `$ ` lines of a console block, each with the output shown below it."""
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append(Command(number, line[2:]))
        elif found and not found[-1].shown and found[-1].text.endswith("\\"):
            found[-1].text += "\n" + line.removeprefix("> ")
        elif found and not found[-1].shown and line.startswith("> "):
            found[-1].text += "\n" + line[2:]
        elif found:
            found[-1].shown.append(line)
    return found


# --- comparing --------------------------------------------------------------------------------


def same(want: str, got: str) -> bool:
    """Whether `got` is what `want` says, line ends aside; `...` stands for anything."""
    return doctest.OutputChecker().check_output(tidy(want), tidy(got), doctest.ELLIPSIS)


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


# --- running ------------------------------------------------------------------------------------


class Document:
    """One document being run: its interpreter, its background commands. A context manager."""

    def __init__(self, path: Path, directory: Path, *, timeout: float = 60.0) -> None:
        self.path = path
        self.directory = directory / "run"
        self.outputs = directory / "outputs"
        self.timeout = timeout
        self.backgrounds: list[Background] = []
        self.child: subprocess.Popen[bytes] | None = None
        self.directory.mkdir()
        self.outputs.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        problems = [self.stop(background) for background in reversed(self.backgrounds)]
        self.stop_child()
        if kind is None and any(problems):
            raise DocFailure("\n".join(filter(None, problems)))

    def run(self) -> None:
        """Run every block; raises DocFailure at the first that does not hold."""
        ports = {"8889": str(free_port()), "8890": str(free_port())}
        text = self.path.read_text(encoding="utf-8")
        text = re.sub("|".join(ports), lambda match: ports[match[0]], text)
        for block in parse(text):
            if not self.left_out(block):
                self.run_block(block)

    def left_out(self, block):
        needs = block.marks.get("needs")
        return (
            "skip" in block.marks
            or "test-command" in block.marks
            or (needs is not None and not shutil.which(needs))
        )

    def run_block(self, block):
        self.write_file(block)
        if "write" in block.marks:
            return
        if block.language == "python":
            self.run_python(block)
        elif block.language in SHELLS:
            for command in commands(block):
                self.run_command(command, block.marks)

    def write_file(self, block):
        first = FILE.fullmatch(block.text.partition("\n")[0])
        if first and block.language not in SHELLS:
            target = self.directory / first[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text + "\n", encoding="utf-8")

    # python

    def run_python(self, block):
        if self.child is None:
            self.child = self.start([sys.executable, "-u", str(CHILD)], subprocess.PIPE)
        request = {"path": str(self.path), "line": block.line, "source": block.text}
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.stdin.flush()
        answer = self.answer(block)
        for line, want, got in answer["shown"]:
            if not same(want, got):
                raise self.failure(line, f"wanted: {want}\ngot:    {got}")
        if answer["error"]:
            raise self.failure(block.line, answer["error"])

    def answer(self, block):
        ready, _, _ = select.select([self.child.stdout], [], [], self.timeout)
        if not ready:
            signal_group(self.child, signal.SIGKILL)
            raise self.failure(block.line, f"still running after {self.timeout} s")
        line = self.child.stdout.readline()
        if not line:
            raise self.failure(block.line, f"its interpreter ended: {self.child.wait()}")
        return json.loads(line)

    def stop_child(self):
        if self.child is not None:
            self.child.stdin.close()  # its sign to end
            self.finish(self.child, 10.0)
            self.child.stdout.close()

    # console

    def run_command(self, command, marks):
        output = self.outputs / str(command.line)
        with output.open("wb") as file:
            process = self.start(["bash", "-c", command.text], file)
        if "background" in marks:
            self.backgrounds.append(Background(command, process, output))
            self.wait_until_up(command, process, output)
            return
        if not self.finish(process, self.timeout):
            self.fail(command, f"still running after {self.timeout} s", output)
        expected = int(marks.get("exit", 0))
        if process.returncode != expected:
            self.fail(command, f"exit status {process.returncode}, not {expected}", output)
        if command.shown and not same("\n".join(command.shown), read(output)):
            self.fail(command, "wanted:\n" + "\n".join(command.shown), output)

    def wait_until_up(self, command, process, output):
        def is_up():
            if command.shown:
                return same("\n".join(command.shown), read(output))
            return "\n" in read(output)

        if not poll(lambda: is_up() or process.poll() is not None, self.timeout) or not is_up():
            self.fail(command, "wanted:\n" + "\n".join(command.shown or ["(a line)"]), output)

    def stop(self, background):
        """End it by SIGTERM, as a supervisor would. Returns what is wrong with how it ended."""
        signal_group(background.process, signal.SIGTERM)
        ended = self.finish(background.process, 30.0)
        status = background.process.returncode
        if ended and status in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            return None
        what = f"ended with {status}" if ended else "did not end"
        return (
            f"{self.path.name}:{background.command.line}: {background.command.text}\n"
            f"{what} after SIGTERM, having printed:\n{read(background.output)}"
        )

    # processes

    def start(self, argv, stdout):
        return subprocess.Popen(
            argv,
            cwd=self.directory,
            env=environment(),
            stdin=subprocess.PIPE if stdout == subprocess.PIPE else subprocess.DEVNULL,
            stdout=stdout,
            stderr=None if stdout == subprocess.PIPE else subprocess.STDOUT,
            start_new_session=True,  # so that a pipeline can be signalled as one
        )

    def finish(self, process, timeout):
        """Whether it ended by itself in time; it is gone either way."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            signal_group(process, signal.SIGKILL)
            process.wait()
            return False
        return True

    # failures

    def fail(self, command, text, output):
        raise self.failure(command.line, f"$ {command.text}\n{text}\ngot:\n{read(output)}")

    def failure(self, line, text):
        logs = "".join(
            f"\n--- {background.command.text}\n{read(background.output)}"
            for background in self.backgrounds
        )
        return DocFailure(f"{self.path.name}:{line}: {text}{logs}")


def run_document(path: Path, directory: Path, *, timeout: float = 60.0) -> None:
    """Run the document's blocks in `directory`.

    Args:
        timeout: seconds a block or a command may take.

    Raises DocFailure, with the document's name and line, at the first promise it breaks.
    """
    with Document(path, directory, timeout=timeout) as document:
        document.run()


def environment() -> dict[str, str]:
    env = dict(os.environ)
    env.pop("PYTEST_ADDOPTS", None)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["PYTHONUNBUFFERED"] = env["PYTHONDONTWRITEBYTECODE"] = "1"
    env["COLUMNS"] = "80"
    return env


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


def read(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")


def poll(done: Callable[[], bool], timeout: float) -> bool:
    end = time.monotonic() + timeout
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
