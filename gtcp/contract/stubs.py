"""Writes a typed client as one Python module: classes, errors, and a method for each command."""

from __future__ import annotations

from gtcp.contract.annotations import RESERVED, Names
from gtcp.contract.classes import ClassWriter, in_order
from gtcp.contract.methods import ClientWriter
from gtcp.contract.model import Class, Contract, Error
from gtcp.contract.source import INDENT, docstring, identifier

HEADER = '''"""Typed client of a gtcp server, written by ``gtcp stubs``.

Changes are lost when it is written again.
"""

from __future__ import annotations
'''


def write_stubs(contract: Contract, class_name: str) -> str:
    """Return the source of a module with a typed client.

    The same contract gives the same text.

    Args:
        class_name: what the client's class is called.
    """
    taken = {*RESERVED, class_name}
    names = Names(_called(contract.types, taken))
    errors = _errors(contract, {*taken, *names.classes.values()})
    client = ClientWriter(contract, names, errors).lines(class_name)
    writer = ClassWriter(contract.types, names)
    order = list(in_order(contract.types))
    classes = [writer.lines(name) for name in order]
    # Last: which classes need another name is known when all is written.
    blocks = [
        [*lines, *names.alias(names.classes[name])]
        for name, lines in zip(order, classes, strict=True)
    ]
    blocks += [_error(error, called, names) for error, called in errors.items()]
    text = "".join("\n\n" + "\n".join(lines) + "\n" for lines in [*blocks, client])
    body = text.lstrip("\n")
    blank = "\n\n" if body.startswith(("class ", "@", "def ")) else "\n"
    return "\n".join([HEADER, *names.imports(text), blank + body])


def _called(classes: dict[str, Class], taken: set[str]) -> dict[str, str]:
    """Return what the classes of a contract are called in the module."""
    called: dict[str, str] = {}
    for name in classes:
        plain = identifier(name.lstrip("_") or "Type", {*taken, *called.values()})
        called[name] = plain.lstrip("_") if plain.lstrip("_").isidentifier() else f"Type{plain}"
    return called


def _errors(contract: Contract, taken: set[str]) -> dict[Error, str]:
    """Return the errors that commands declare, and what their classes are called."""
    found = {error: error for command in contract.commands for error in command.errors}
    called: dict[Error, str] = {}
    for error in sorted(found, key=lambda each: (each.code, each.name, each.doc)):
        name = error.name.lstrip("_") or "Error"
        called[error] = identifier(name, {*taken, *called.values()})
    return called


def _error(error: Error, called: str, names: Names) -> list[str]:
    header = f"class {called}({names.use('gtcp')}.CommandError, code={error.code}):"
    return [header, *(docstring(error.doc, 4) or [f"{INDENT}pass"])]
