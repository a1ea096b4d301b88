"""Python source as ruff formats it, without ruff: expressions, strings and docstrings.

An expression that does not fit on its line is split at its outermost brackets, one item a line with
a trailing comma, which ruff keeps.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

#: ruff's default.
WIDTH = 88

INDENT = "    "


class Group(NamedTuple):
    """Items in brackets: ``dict[str, int]``, ``f(x, y=1)``.

    Attributes:
        opening, closing: what is before and behind the items.
        comma: whether a comma may follow the last item; not in ``list[int]``.
    """

    opening: str
    items: Sequence[Expression]
    closing: str
    comma: bool = True


class Alternatives(NamedTuple):
    """A union: ``int | str``, or, split, what ``union`` opens: ``Union[``."""

    items: Sequence[Expression]
    union: str


Expression = str | Group | Alternatives


def flat(expression: Expression) -> str:
    """Return an expression on one line."""
    if isinstance(expression, str):
        return expression
    if isinstance(expression, Alternatives):
        return " | ".join(map(flat, expression.items))
    return expression.opening + ", ".join(map(flat, expression.items)) + expression.closing


def layout(expression: Expression, indent: int, before: int = 0, after: int = 0) -> str:
    """Return an expression on one line if it fits there, else split.

    Args:
        indent: columns by which its first line is indented.
        before, after: columns that are taken on its line before and behind it, besides the indent.
    """
    line = flat(expression)
    if isinstance(expression, str) or indent + before + len(line) + after <= WIDTH:
        return line
    return split(expression, indent)


def split(expression: Group | Alternatives, indent: int) -> str:
    """Return an expression with one item a line."""
    if isinstance(expression, Alternatives):
        expression = Group(expression.union, expression.items, "]")
    if not expression.items:
        return flat(expression)
    comma = "," if expression.comma else ""
    inner = indent + len(INDENT)
    items = [layout(each, inner, after=len(comma)) for each in expression.items]
    lines = "".join(f"{' ' * inner}{item}{comma}\n" for item in items)
    return f"{expression.opening}\n{lines}{' ' * indent}{expression.closing}"


def assignment(
    name: str, kind: Expression, value: Expression | None, indent: int, after: int = 0
) -> str:
    """Return ``name: kind = value``, indented, without the line's end.

    Args:
        after: columns that are taken behind it.
    """
    start = f"{' ' * indent}{name}: "
    if value is None:
        return start + layout(kind, indent, len(name) + 2, after)
    whole = f"{start}{flat(kind)} = {flat(value)}"
    if len(whole) + after <= WIDTH:
        return whole
    if not isinstance(value, str) and value.items:
        opening = value.union if isinstance(value, Alternatives) else value.opening
        if len(f"{start}{flat(kind)} = {opening}") <= WIDTH:
            return f"{start}{flat(kind)} = {split(value, indent)}"
    atomic = isinstance(kind, str) or (isinstance(kind, Group) and not kind.comma)
    if atomic and len(f"{start}{flat(kind)} = (") <= WIDTH:
        inner = " " * (indent + len(INDENT))
        if len(inner + flat(value)) > WIDTH:
            return whole
        return f"{start}{flat(kind)} = (\n{inner}{flat(value)}\n{' ' * indent})"
    first = kind if isinstance(kind, str) else split(kind, indent)
    return f"{start}{first} = {layout(value, indent, len('] = '))}"


def literal(value: Any) -> Expression:
    """Return a value that JSON can hold as Python writes it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return Group("[", [literal(each) for each in value], "]")
    if isinstance(value, dict):
        items = [f"{quoted(key)}: {flat(literal(each))}" for key, each in value.items()]
        return Group("{", items, "}")
    return repr(value)


def quoted(text: str) -> str:
    """Return a string literal in the quotes that need fewer backslashes, double ones if equal."""
    body = repr(text + "'\"")[1:-1]  # with both quotes in it, repr uses single ones
    body = body.removesuffix("\\'\"").replace("\\'", "'")
    if text.count('"') > text.count("'"):
        return "'" + body.replace("'", "\\'") + "'"
    return '"' + body.replace('"', '\\"') + '"'


def docstring(text: str, indent: int) -> list[str]:
    """Return the lines of a docstring, indented; none for an empty text."""
    lines = [_printable(line) for line in re.split(r"\r\n|\r|\n", text.expandtabs().strip())]
    if lines == [""]:
        return []
    margin = " " * indent
    first = f" {lines[0]}" if lines[0].startswith('"') else lines[0]
    if len(lines) == 1:
        end = " " if lines[0].endswith('"') else ""
        return [f'{margin}"""{first}{end}"""']
    rest = [f"{margin}{line}" if line else "" for line in lines[1:]]
    return [f'{margin}"""{first}', *rest, f'{margin}"""']


def _printable(line: str) -> str:
    escaped = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in line.rstrip().replace("\\", "\\\\")
    )
    return escaped.replace('"""', "'''")


def identifier(name: str, taken: Collection[str] = ()) -> str:
    """Return a name as an identifier that is not taken, unchanged if it can be."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII) if not name.isidentifier() else name
    if not plain or plain[0].isdigit():
        plain = f"_{plain}"
    while keyword.iskeyword(plain) or plain in taken:
        plain += "_"
    return plain
