"""The interpreter that runs one document's python blocks; see doc_blocks.py.

It reads one JSON object a line from stdin and answers each with one on stdout. What the
blocks print goes to stderr. Between blocks the gevent hub runs, so a server that a block
has started in a greenlet goes on serving. It imports little, so that a block may still
monkey-patch.
"""

import ast
import contextlib
import io
import json
import linecache
import os
import re
import sys
import traceback
from types import ModuleType

from gevent.socket import wait_read

ARROW = re.compile(r"\s*#\s*->\s*(.*)")


def wanted(node, lines):
    """What the comment behind an expression promises (`x + 1  # -> 3`), or None."""
    rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
    match = ARROW.fullmatch(rest)
    return match and match[1].strip()


def call_show(node, want):
    """`value` becomes `__show__(line, want, lambda: value)`."""
    template = ast.parse(f"__show__({node.lineno}, {want!r}, lambda: None)").body[0]
    template.value.args[2].body = node.value
    return ast.fix_missing_locations(ast.copy_location(template, node))


def compiled(path, line, source):
    """The block as code whose tracebacks name the document and its lines."""
    text = "\n" * (line - 1) + source
    tree = ast.parse(text, path)
    lines = text.split("\n")
    for index, node in enumerate(tree.body):
        want = wanted(node, lines) if isinstance(node, ast.Expr) else None
        if want is not None:
            tree.body[index] = call_show(node, want)
    return compile(tree, path, "exec", dont_inherit=True)


class Interpreter:
    def __init__(self):
        # A real module: type hints are looked up in sys.modules.
        self.module = sys.modules["doc"] = ModuleType("doc")
        self.module.__show__ = self.show
        self.shown = []

    def show(self, line, want, evaluate):
        """Note what an interactive prompt would show for the expression."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = evaluate()
        got = printed.getvalue() + ("" if value is None else repr(value))
        self.shown.append((line, want, got.strip()))

    def run(self, path, line, source):
        """The answer: the traceback, or None, and [line, want, got] for every `# ->`."""
        self.shown = []
        linecache.checkcache(path)
        try:
            exec(compiled(path, line, source), self.module.__dict__)
        except BaseException as exc:  # a block may also end in SystemExit or gevent.Timeout
            trace = exc.__traceback__.tb_next
            error = "".join(traceback.format_exception(type(exc), exc, trace))
            return {"error": error, "shown": self.shown}
        return {"error": None, "shown": self.shown}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[0] = os.getcwd()
    interpreter = Interpreter()
    while True:
        wait_read(0)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        answers.write(json.dumps(interpreter.run(**json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
