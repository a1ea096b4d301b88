"""Writes the class of a typed client: one method for each command."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from gtcp.contract.annotations import RESERVED, Annotations, Names
from gtcp.contract.classes import is_unknown, usable
from gtcp.contract.model import MAPPINGS, Command, Contract, Error, Field, Type
from gtcp.contract.source import (
    WIDTH,
    Alternatives,
    Expression,
    Group,
    assignment,
    docstring,
    flat,
    identifier,
    layout,
    quoted,
)

#: Arguments and variables of every method; a field of this name has no argument of its own.
_ARGUMENTS = frozenset(
    {"self", "params", "timeout", "total", "idempotent", "meta", "hash_key", "result"}
)

_DOC = "Calls the commands of the server. Give it a ``gtcp.Client``."


class ClientWriter:
    """Writes the class with the methods.

    Args:
        contract: whose commands.
        names: the names of the module.
        errors: what the classes of the errors are called.
    """

    def __init__(self, contract: Contract, names: Names, errors: Mapping[Error, str]) -> None:
        self._contract = contract
        self._names = names
        self._errors = errors
        self._methods = _method_names(contract.commands)
        # In the class body a method hides what has its name; inside of methods it does not.
        self._outside = Annotations(names, set(self._methods))
        self._inside = Annotations(names)
        self._globals = {*names.classes.values(), *errors.values(), *RESERVED}

    def lines(self, class_name: str) -> list[str]:
        """Return the lines of the class."""
        lines = [f"class {class_name}({self._inside.use('gtcp')}.Stub):", *docstring(_DOC, 4)]
        for method, command in zip(self._methods, self._contract.commands, strict=True):
            lines += ["", *self._method(method, command)]
        return lines

    def _method(self, method: str, command: Command) -> list[str]:
        params = self._outside.of(command.params)
        field = self._single_field(command.params)
        if field is None:
            first = _argument("params", params)
            if self._may_be_left_out(command.params):
                first = _argument("params", self._outside.optional(command.params, "None"), "None")
            return [
                *self._signature(method, command, ["self", first, "*"]),
                *self._body(command),
            ]
        name = identifier(field.name)
        overload = f"    @{self._inside.use('overload')}"
        kind = self._outside.of(field.type)
        unset = f"{self._outside.use('msgspec')}.UnsetType"
        by_name = _argument(name, kind, None if field.required else "...")
        either = [
            _argument("params", self._outside.optional(command.params, "None"), "None"),
            "*",
            _argument(
                name,
                self._outside.optional(field.type, unset),
                f"{self._outside.use('msgspec')}.UNSET",
            ),
        ]
        first = _argument("params", params)
        return [
            overload,
            *self._signature(method, command, ["self", first, "*"], declared=True),
            "",
            overload,
            *self._signature(method, command, ["self", "*", by_name], declared=True),
            "",
            *self._signature(method, command, ["self", *either]),
            *self._body(command, self._from_field(command.params, name, field)),
        ]

    def _signature(
        self, method: str, command: Command, arguments: Iterable[str], *, declared: bool = False
    ) -> list[str]:
        """Return the lines of a signature, one argument a line.

        Args:
            declared: of an overload, which has no body and hides the defaults.
        """
        use = self._outside.use
        timeout = f"{use('float')} | {use('gtcp')}.Default | None"
        meta = f"{use('dict')}[{use('str')}, {use('str')}] | None"
        defaults = (
            ["..."] * 3 if declared else [f"{use('gtcp')}.DEFAULT", str(command.idempotent), "None"]
        )
        total = f"total: {use('float')} | None = {defaults[2]}"
        common = [
            f"timeout: {timeout} = {defaults[0]}",
            *([total] if command.streaming else []),
            f"idempotent: {use('bool')} = {defaults[1]}",
            f"meta: {meta} = {defaults[2]}",
            f"hash_key: {use('str')} | None = {defaults[2]}",
        ]
        end = ": ..." if declared else ":"
        made = self._outside.iterator_of if command.streaming else self._outside.of
        result = layout(made(command.result), 4, len(") -> "), len(end))
        lines = [f"        {each}," for each in [*arguments, *common]]
        return [f"    def {method}(", *lines, f"    ) -> {result}{end}"]

    def _body(self, command: Command, before: Iterable[str] = ()) -> list[str]:
        doc = command.doc
        if command.deprecated is not None:
            doc = f"{doc}\n\nDeprecated: {command.deprecated}"
        nullable = _takes_none(command.params)
        result = self._inside.of(command.result)
        arguments: list[Expression] = [
            str(command.cmdid),
            "self._or_null(params)" if nullable else "params",
            # As a value, a union of special forms is written as a subscript.
            Group(result.union, result.items, "]") if isinstance(result, Alternatives) else result,
            f"name={quoted(command.name)}",
            "timeout=timeout",
            *(["total=total"] if command.streaming else []),
            "idempotent=idempotent",
            "meta=meta",
            "hash_key=hash_key",
        ]
        classes = [self._errors[each] for each in command.errors]
        if len(classes) == 1:
            arguments.append(f"errors=({classes[0]},)")
        elif classes:
            arguments.append(Group("errors=(", classes, ")"))
        if command.deprecated is not None:
            arguments.append(f"deprecated={quoted(command.deprecated)}")
        called = _call(command, result, arguments)
        return [*docstring(doc, 8), *before, *called]

    def _from_field(self, params: Type, name: str, field: Field) -> list[str]:
        """Return the lines that make params of an argument for their only field."""
        cls = self._inside.of(params)
        unset = f"isinstance({name}, {self._inside.use('msgspec')}.UnsetType)"
        if field.required:
            made = [f"            params = {cls}({name}=self._given({quoted(name)}, {name}))"]
        elif is_unknown(field):
            made = [f"            params = {cls}({name}={name})"]
        else:
            made = [
                f"            if {unset}:",
                f"                params = {cls}()",
                "            else:",
                f"                params = {cls}({name}={name})",
            ]
        return [
            "        if params is None:",
            *made,
            f"        elif not {unset}:",
            f"            raise TypeError({quoted(f'params and {name} exclude each other')})",
        ]

    def _single_field(self, params: Type) -> Field | None:
        """Return the only field of the params, if it can be an argument of its own."""
        if params.kind != "ref":
            return None
        definition = usable(self._contract.types[params.name])
        if definition.kind not in ("struct", "dataclass") or len(definition.fields) != 1:
            return None
        name = identifier(definition.fields[0].name)
        if name in _ARGUMENTS or name in self._globals or name.startswith("_"):
            return None
        return definition.fields[0]

    def _may_be_left_out(self, params: Type) -> bool:
        """Return whether an empty object fits."""
        if params.kind == "ref":
            definition = self._contract.types[params.name]
            if definition.kind == "enum" or definition.is_array:
                return False
            return not any(each.required for each in definition.fields)
        return params.kind in MAPPINGS and not params.min_length


def _argument(name: str, kind: Expression, default: str | None = None) -> str:
    return assignment(name, kind, default, 8, after=1).lstrip()


def _call(command: Command, result: Expression, arguments: list[Expression]) -> list[str]:
    """Return the lines of the call, and of the return of its result."""
    kind = command.result.kind
    inner = [f"            {layout(each, 12, after=1)}," for each in arguments]
    lines = ["self._stream(" if command.streaming else "self._call(", *inner, "        )"]
    if kind == "none" and not command.streaming:
        return [f"        {lines[0]}", *lines[1:]]
    if kind == "any" or command.streaming:
        return [f"        return {lines[0]}", *lines[1:]]
    line = f"        result: {flat(result)} = {lines[0]}"
    if len(line) > WIDTH:  # the annotation by itself, where its layout is simple
        line = f"        result = {lines[0]}"
        annotation = layout(result, 8, len("result: "))
        return [f"        result: {annotation}", line, *lines[1:], "        return result"]
    return [line, *lines[1:], "        return result"]


def _takes_none(kind: Type) -> bool:
    if kind.kind == "union":
        return any(map(_takes_none, kind.types))
    return kind.kind in ("none", "any") or (kind.kind == "literal" and None in kind.values)


def _method_names(commands: Iterable[Command]) -> list[str]:
    """Return the names of the methods; with the cmdid where two commands have the same name."""
    plain = [
        identifier(re.sub(r"\W", "_", each.name, flags=re.ASCII).strip("_") or "command")
        for each in commands
    ]
    count = Counter(plain)
    taken: set[str] = set()
    for at, each in enumerate(commands):
        if count[plain[at]] > 1:
            plain[at] = identifier(f"{plain[at]}_{each.cmdid}", {*taken, *count})
        taken.add(plain[at])
    return plain
