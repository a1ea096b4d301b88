"""What ``{"op": "commands"}`` answers, in each form."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

import gtcp
from gtcp.contract.model import read


class OutOfStock(gtcp.CommandError, code=1001):
    """Too few are left."""


class Reserve(msgspec.Struct):
    item: str


commands = gtcp.Commands()


@commands.handler(10, errors=[OutOfStock], idempotent=True, deprecated="use reserve2")
def reserve(request: gtcp.Request[Reserve]) -> bytes:
    """Take one out."""
    return b""


@commands.handler(9)
def plain(request: gtcp.Request) -> Any:
    return None


def ask(**params: Any) -> Any:
    line = json.dumps({"cmdid": 0, "params": {"op": "commands", **params}}).encode()
    return json.loads(commands.answer(line))


def test_the_list_has_json_schemas() -> None:
    first, second = ask()["result"]
    assert (first["name"], first["errors"], first["idempotent"]) == ("plain", [], False)
    assert (first["deprecated"], first["streaming"]) == (None, False)
    assert second["errors"] == [{"code": 1001, "name": "OutOfStock"}]
    assert (second["idempotent"], second["deprecated"]) == (True, "use reserve2")
    assert second["params"]["$defs"]["Reserve"]["required"] == ["item"]
    assert ask(form="schemas")["result"] == [first, second]


def test_the_contract_has_types() -> None:
    contract = read(json.dumps(ask(form="contract")["result"]).encode())
    plain, reserve = contract.commands
    assert (plain.cmdid, plain.params.kind, plain.result.kind) == (9, "dict", "any")
    assert (reserve.params.name, reserve.result.kind) == ("Reserve", "bytes")
    assert (reserve.doc, reserve.errors[0].doc) == ("Take one out.", "Too few are left.")
    assert [field.name for field in contract.types["Reserve"].fields] == ["item"]


def test_the_names_are_brief() -> None:
    first, second = ask(form="names")["result"]
    rest = {"streaming": False, "idempotent": False, "deprecated": None}
    assert first == {"cmdid": 9, "name": "plain", **rest}
    assert second["idempotent"]


@pytest.mark.parametrize(("form", "said"), [("x", "unknown form"), (5, "Expected `str`")])
def test_another_form_is_refused(form: Any, said: str) -> None:
    answer = ask(form=form)
    assert answer["code"] == 422
    assert said in answer["message"]
