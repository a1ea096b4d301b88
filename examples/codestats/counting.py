"""Counting in Python sources, for the server and for the script."""

import ast
import io
import tokenize
import warnings
from collections import Counter

import msgspec

import gtcp

#: The command.
COUNT = 10000

#: The longest request line: the default of 1 MiB is less than some sources.
MAX_LINE_BYTES = 4 << 20

SYNTAX_ERROR = 1001
NULL_BYTES = 1002
TOO_DEEP = 1003
UNDECODABLE = 1004
TOO_LARGE = 1005
UNREADABLE = 1006

#: Why a file could not be counted. What is wrong with its text the server answers; what is
#: wrong with the file the script finds out by itself, and then it has nothing to send.
FAULTS = {
    SYNTAX_ERROR: "syntax error",
    NULL_BYTES: "null bytes",
    TOO_DEEP: "nested too deep",
    UNDECODABLE: "not decodable",
    TOO_LARGE: "too large to send",
    UNREADABLE: "not readable",
}


class Source(msgspec.Struct):
    """A Python source."""

    name: str
    text: str


class Stats(msgspec.Struct):
    """The counts of one source, or of many."""

    lines: int
    functions: int
    classes: int
    tokens: dict[str, int]  # by their kind


def count(source: Source) -> Stats:
    """The counts of one source.

    Raises:
        gtcp.CommandError: it does not parse; the code is a key of FAULTS.
    """
    if "\0" in source.text:
        # ast raises ValueError or SyntaxError, by the version of Python.
        raise gtcp.CommandError(NULL_BYTES, "the source has null bytes in it")
    # Old sources make the compiler warn of their escapes. What catch_warnings changes is the
    # whole process's, but nothing in here waits, so no other handler can run meanwhile.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _count(source)
        except (RecursionError, MemoryError):  # the parser's stack is of a fixed size
            raise gtcp.CommandError(TOO_DEEP, "the source nests too deep") from None
        except (SyntaxError, tokenize.TokenError, ValueError) as exc:
            raise gtcp.CommandError(SYNTAX_ERROR, f"{type(exc).__name__}: {exc}") from exc


def _count(source: Source) -> Stats:
    text = source.text
    nodes = Counter(type(node) for node in ast.walk(ast.parse(text, source.name)))
    tokens = Counter(token.type for token in tokenize.generate_tokens(io.StringIO(text).readline))
    return Stats(
        lines=text.count("\n") + (text != "" and not text.endswith("\n")),
        functions=nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef],
        classes=nodes[ast.ClassDef],
        tokens={tokenize.tok_name[kind]: number for kind, number in tokens.items()},
    )
