"""Errors of an application with a class of their own: raised by a handler, raised by its caller."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

import gtcp
from tests.helpers import serving


class OutOfStock(gtcp.CommandError, code=1001):
    """There are too few."""


class Locked(gtcp.CommandError, code=1002):
    def __init__(self, by: str, hours: int) -> None:
        super().__init__(f"locked by {by} for {hours} hours", {"by": by})


class LockedForEver(Locked):
    """It has the code of the class it is derived from."""


def test_the_code_is_that_of_the_class() -> None:
    error = OutOfStock("only 3 left", {"left": 3})
    assert (error.code, error.message, error.data) == (1001, "only 3 left", {"left": 3})
    assert (str(error), error.executed) == ("1001 only 3 left", "yes")
    assert (OutOfStock.own_code, gtcp.CommandError.own_code) == (1001, None)
    assert LockedForEver("ann", 5).code == 1002


@pytest.mark.parametrize("code", [0, 404, 999, True, "1000"])
def test_a_code_of_gtcp_is_refused(code: object) -> None:
    with pytest.raises(ValueError, match="1000 or more"):
        type("Wrong", (gtcp.CommandError,), {}, code=code)  # type: ignore[call-overload]


@pytest.mark.parametrize("error", [OutOfStock("no", [1]), Locked("ann", 5), LockedForEver("b", 1)])
def test_it_can_be_pickled_and_copied(error: gtcp.CommandError) -> None:
    error.executed = "maybe"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert again.args == error.args
        assert (again.code, again.message, again.data) == (error.code, error.message, error.data)
        assert again.executed == "maybe"


def test_it_can_be_made_of_its_args() -> None:
    error = OutOfStock("no", [1])
    error.executed = "maybe"
    again = OutOfStock(*error.args)
    assert (again.code, again.message, again.executed) == (1001, "no", "maybe")


@pytest.mark.parametrize("wrong", [gtcp.CommandError, gtcp.RemoteError, "OutOfStock", 1001, None])
def test_a_class_without_a_code_is_refused(wrong: object) -> None:
    for errors in ([wrong], wrong):
        with pytest.raises(TypeError, match=r"errors: expected subclasses of gtcp.CommandError"):
            gtcp.Commands().handler(1, errors=errors)(lambda request: None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"errors: expected subclasses of gtcp.CommandError"):
            gtcp.Client("127.0.0.1", errors=errors)  # type: ignore[arg-type]


def test_two_classes_with_one_code_are_refused() -> None:
    with pytest.raises(ValueError, match="errors: Locked and LockedForEver both have code 1002"):
        gtcp.Client("127.0.0.1", errors=[Locked, LockedForEver])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"idempotent": 1}, "idempotent: expected True or False"),
        ({"deprecated": True}, "deprecated: expected a string"),
    ],
)
def test_wrong_options_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        gtcp.Commands().handler(1, **option)(lambda request: None)  # type: ignore[arg-type]


inner = gtcp.Commands()


@inner.handler(1, errors=[OutOfStock, Locked])
def refuse(request: gtcp.Request) -> None:
    if request.params.get("locked"):
        raise Locked("ann", 5)
    raise OutOfStock("only 3 left", {"left": 3})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(inner) as running:
        yield running.address


def test_the_caller_gets_the_same_class(address: str) -> None:
    with gtcp.Client(address, errors=[OutOfStock, Locked]) as client:
        for result in (object, None):
            with pytest.raises(OutOfStock) as raised:
                client.call(1, **({"result": str} if result else {}))
            assert type(raised.value) is OutOfStock
            assert (raised.value.message, raised.value.data) == ("only 3 left", {"left": 3})
            assert raised.value.executed == "yes"
        with pytest.raises(gtcp.RemoteError) as again:
            client.call(1, {"locked": True})
        assert type(again.value) is Locked
        assert again.value.message == "locked by ann for 5 hours"
        [one] = client.map(1, [{}], return_exceptions=True)
        assert type(one) is OutOfStock


def test_a_caller_that_does_not_know_the_class_gets_a_remote_error(address: str) -> None:
    with gtcp.Client(address, errors=[Locked]) as client:
        with pytest.raises(gtcp.RemoteError) as raised:
            client.call(1)
        assert type(raised.value) is gtcp.RemoteError
        assert raised.value.code == 1001


def test_the_error_of_another_server_is_passed_on_only_if_it_is_declared(address: str) -> None:
    outer = gtcp.Commands()
    clients: list[gtcp.Client] = []

    @outer.handler(1, errors=[OutOfStock])
    def declared(request: gtcp.Request) -> None:
        clients[0].call(1)

    @outer.handler(2)
    def undeclared(request: gtcp.Request) -> None:
        clients[0].call(1)

    @outer.handler(3)
    def raised_anew(request: gtcp.Request) -> None:
        try:
            clients[0].call(1)
        except OutOfStock as exc:
            raise OutOfStock(exc.message, exc.data) from exc

    with (
        serving(outer) as running,
        gtcp.Client(address, errors=[OutOfStock]) as to_inner,
        gtcp.Client(running.address) as client,
    ):
        clients.append(to_inner)
        codes = []
        for cmdid in (1, 2, 3):
            with pytest.raises(gtcp.RemoteError) as raised:
                client.call(cmdid)
            codes.append(raised.value.code)
    assert codes == [1001, 500, 1001]
