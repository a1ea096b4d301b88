"""Generated families of types: a stub has the same types, and what it sends arrives equal."""

from __future__ import annotations

import warnings
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

import gtcp
from gtcp.contract.describe import describe
from gtcp.contract.model import Contract, Type, parts, read, write
from tests.contract.families import contracts, load, values, written
from tests.helpers import serving


def reachable(contract: Contract) -> dict[str, Any]:
    """The classes that commands use, in the order in which they are described."""
    found: dict[str, Any] = {}

    def visit(kind: Type) -> None:
        if kind.kind == "ref" and kind.name not in found:
            found[kind.name] = definition = contract.types[kind.name]
            for field in definition.fields:
                visit(field.type)
        for part in parts(kind):
            visit(part)

    for command in contract.commands:
        visit(command.params)
        visit(command.result)
    return found


def served(contract: Contract, module: Any) -> tuple[gtcp.Commands, list[Any]]:
    """Handlers of the module's types, which answer with their params; and what they saw."""
    commands, seen = gtcp.Commands(), []
    for command, method in zip(contract.commands, methods(module), strict=True):

        def call(request: Any) -> Any:
            seen.append(request.params)
            return request.params

        def stream(request: Any) -> Any:
            seen.append(request.params)
            yield request.params

        kind = method.__annotations__["return"]
        returned = eval(kind, {**vars(module), "module": module}) if kind != "None" else None
        echo, wanted = call, returned
        if command.streaming:
            echo, wanted = stream, get_args(returned)[0]
        echo.__name__, echo.__doc__ = command.name, command.doc
        echo.__annotations__ = {"request": gtcp.Request[wanted], "return": returned}
        commands.handler(
            command.cmdid,
            idempotent=command.idempotent,
            deprecated=command.deprecated,
            errors=[getattr(module, each.name) for each in command.errors],
        )(echo)
    return commands, seen


def methods(module: Any) -> list[Any]:
    found = vars(module.EchoClient).items()
    return [each for name, each in found if callable(each) and not name.startswith("__")]


@settings(max_examples=60)
@given(st.data())
def test_a_stub_has_the_types_of_its_server_and_what_it_sends_arrives_equal(data: Any) -> None:
    contract = data.draw(contracts())
    text = written(contract)
    module = load(text)
    commands, seen = served(contract, module)

    described = describe(commands)
    assert list(described.commands) == list(contract.commands)
    assert described.types == reachable(contract)
    again = read(write(described).encode())
    assert again == described
    assert written(again) == written(described)

    with serving(commands) as running, gtcp.Client(running.address) as client:
        stub = module.EchoClient(client)
        for command, method in zip(contract.commands, methods(module), strict=True):
            value = data.draw(values(command.params, contract, module))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                result = method(stub, value)
            if command.streaming:
                (result,) = result
            assert seen.pop() == value
            assert result == value
