"""The docstrings of public names explain arguments, results and exceptions."""

from __future__ import annotations

import ast
import contextlib
import inspect
import textwrap
from typing import Any

import pytest

import gtcp
import gtcp.testing
from gtcp.testing import plugin
from tests.public_names import members, named, sections

#: Called by gtcp's own parts only: see tests/documentation/test_reference.py.
INTERNAL = {
    "Client.dial", "Commands.table", "Server.announce_drain", "Server.check", "Server.cut_by",
    "Server.has_secret", "Server.leave", "Server.leave_to_parent", "Settings.check_together",
}  # fmt: skip

#: Raising, these end in a helper: `wrong_type(...)`, `check_seconds(...)`, ...
RAISING = ("wrong_", "check_")


def public() -> dict[str, Any]:
    found = {name: getattr(gtcp, name) for name in gtcp.__all__}
    found |= {name: getattr(gtcp.testing, name) for name in gtcp.testing.__all__}
    for name, value in list(found.items()):
        found |= {
            f"{name}.{member}": inspect.getattr_static(value, member) for member in members(value)
        }
    return {name: value for name, value in found.items() if name not in INTERNAL}


PUBLIC = public()


def is_property(value: Any) -> bool:
    return isinstance(value, property)


def function_of(value: Any) -> Any:
    return inspect.unwrap(value.__func__ if isinstance(value, classmethod) else value)


FUNCTIONS = {
    name: function_of(value)
    for name, value in PUBLIC.items()
    if name != "DEFAULT" and not isinstance(value, type | property)
}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}


def parameters(function: Any) -> set[str]:
    return {
        name
        for name in inspect.signature(function).parameters
        if name not in ("self", "cls") and not name.startswith("_")
    }


def raises(function: Any) -> bool:
    """Return whether its own code raises: by the statement, or by a helper that checks."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(
        (isinstance(node, ast.Raise) and node.exc is not None)
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id.startswith(RAISING)
        )
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_a_docstring(name: str) -> None:
    assert (PUBLIC[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_explained(name: str) -> None:
    function = FUNCTIONS[name]
    assert parameters(function) - named(sections(function.__doc__).get("Args", "")) == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_result_is_explained(name: str) -> None:
    function = FUNCTIONS[name]
    nothing = (None, "None", "Iterator[None]", inspect.Signature.empty)
    if inspect.signature(function).return_annotation not in nothing:
        assert {"Returns", "Yields"} & set(sections(function.__doc__))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exceptions_are_explained(name: str) -> None:
    if raises(FUNCTIONS[name]):
        assert "Raises" in sections(FUNCTIONS[name].__doc__)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_explains_its_arguments(name: str) -> None:
    cls = CLASSES[name]
    if getattr(cls, "_is_protocol", False):
        return  # nobody makes one
    with contextlib.suppress(ValueError):  # one without a signature: Exception's own
        wanted = parameters(cls)
        if name == "Settings":  # a table of the reference has them
            wanted = {"settings"}
        if "__init__" not in vars(cls) and issubclass(cls, BaseException):
            wanted = set()  # explained by its base
        if name == "CommandError":  # two overloads
            wanted = {"code", "message", "data"}
        found = sections(cls.__doc__)
        assert wanted - named(found.get("Args", "")) - named(found.get("Attributes", "")) == set()


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_explains_the_exceptions_of_its_constructor(name: str) -> None:
    cls = CLASSES[name]
    is_protocol = getattr(cls, "_is_protocol", False)
    if "__init__" in vars(cls) and not is_protocol and raises(vars(cls)["__init__"]):
        assert "Raises" in sections(cls.__doc__)


@pytest.mark.parametrize("fixture", ["gtcp_server", "gtcp_proxy"])
def test_a_fixture_has_a_docstring(fixture: str) -> None:
    assert "Returns" in sections(getattr(plugin, fixture).__doc__)
