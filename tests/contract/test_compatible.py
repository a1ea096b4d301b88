"""What a comparison of types accepts is accepted by msgspec."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtcp.contract.compatible import Comparison, Side
from gtcp.contract.model import Class, Contract
from tests.contract.families import contracts, fields, kinds, load, values, written


@st.composite
def changed(draw: Any, contract: Contract) -> Contract:
    """A contract with the same commands, some of whose types are different."""
    classes: dict[str, Class] = {}
    for name, each in contract.types.items():
        classes[name] = draw(changed_class(each, classes))
    commands = []
    for command in contract.commands:
        kind = draw(st.sampled_from([command.params] * 3 + [draw(kinds(classes))]))
        commands.append(msgspec.structs.replace(command, params=kind, result=kind))
    return Contract(contract.gtcp_contract, tuple(commands), classes)


@st.composite
def changed_class(draw: Any, each: Class, classes: dict[str, Class]) -> Class:
    how = draw(st.sampled_from(["same", "field", "less", "types", "members", "closed"]))
    made = list(each.fields)
    if each.kind == "enum":
        members = dict(list(each.members.items())[: 1 if how == "members" else 2])
        return msgspec.structs.replace(each, members=members)
    if how == "less" and made:
        del made[draw(st.integers(0, len(made) - 1))]
    elif how == "types" and made:
        number = draw(st.integers(0, len(made) - 1))
        other = draw(kinds(classes))
        made[number] = msgspec.structs.replace(
            made[number], type=other, required=True, default=msgspec.UNSET, factory=""
        )
        made.sort(key=lambda field: not field.required)
    elif how == "field":
        known = {field.name for field in made}
        new = draw(fields(classes, "struct"))
        made += [field for field in new if field.name not in known and each.kind == "struct"]
        made.sort(key=lambda field: not field.required)
    options = dict(each.options)
    if how == "closed" and each.kind == "struct":
        options["forbid_unknown_fields"] = not options.get("forbid_unknown_fields", False)
    if not made:
        options.pop("kw_only", None)
    options = {name: on for name, on in sorted(options.items()) if on}
    return msgspec.structs.replace(each, fields=tuple(made), options=options)


def annotation(module: Any) -> Any:
    """The Python type of the params of the first command."""
    method = next(
        each
        for name, each in vars(module.EchoClient).items()
        if callable(each) and not name.startswith("__")
    )
    kind = method.__annotations__["return"]
    return eval(kind, {**vars(module), "module": module}) if kind != "None" else None


@pytest.mark.untraced
@settings(max_examples=200)
@given(st.data())
def test_what_is_accepted_can_be_decoded(data: Any) -> None:
    sent = data.draw(contracts())
    sent.commands = (msgspec.structs.replace(sent.commands[0], streaming=False),)
    wanted = data.draw(changed(sent))
    sender, receiver = load(written(sent)), load(written(wanted))
    kinds_ = sent.commands[0].params, wanted.commands[0].params
    sides = Side("a sender", sent.types), Side("a receiver", wanted.types)
    problems = list(Comparison(*sides).problems(*kinds_, "params"))
    if problems:
        assert (kinds_[0], sent.types) != (kinds_[1], wanted.types)
        return
    value = data.draw(values(kinds_[0], sent, sender))
    msgspec.json.decode(msgspec.json.encode(value), type=annotation(receiver))
