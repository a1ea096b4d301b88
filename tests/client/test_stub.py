"""The base class of generated clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import gtcp
from tests.helpers import serving

commands = gtcp.Commands()


class Gone(gtcp.CommandError, code=1001):
    """It is gone."""


@commands.handler(1)
def echo(request: gtcp.Request) -> Any:
    return request.params


@commands.handler(2, errors=[Gone])
def gone(request: gtcp.Request) -> None:
    raise Gone("gone", {"left": 0})


@commands.handler(3)
def count(request: gtcp.Request) -> Iterator[int]:
    yield from range(request.params["n"])


@commands.handler(4, errors=[Gone])
def count_and_fail(request: gtcp.Request) -> Iterator[int]:
    yield from range(request.params["n"])
    raise Gone("gone", {"left": 0})


@pytest.fixture(scope="module")
def client() -> Iterator[gtcp.Client]:
    with serving(commands) as running, gtcp.Client(running.address) as made:
        yield made


def ask(client: gtcp.Client, cmdid: int, **extra: Any) -> Any:
    options = {"name": "item", "timeout": gtcp.DEFAULT, "idempotent": False, "meta": None, **extra}
    return gtcp.Stub(client)._call(cmdid, {"n": 1}, dict[str, int], **options)


def test_a_call(client: gtcp.Client) -> None:
    assert ask(client, 1) == {"n": 1}


def test_a_hash_key_is_passed_on(client: gtcp.Client) -> None:
    assert ask(client, 1, hash_key="shelf 7") == {"n": 1}
    with pytest.raises(TypeError, match="hash_key: expected a string"):
        ask(client, 1, hash_key=7)


def test_a_missing_command_says_what_to_do(client: gtcp.Client) -> None:
    with pytest.raises(gtcp.RemoteError) as caught:
        ask(client, 99)
    assert caught.value.code == 404
    assert "item" in str(caught.value)
    assert "gtcp stubs" in str(caught.value)


def test_a_declared_error_is_raised_as_its_class(client: gtcp.Client) -> None:
    with pytest.raises(Gone) as caught:
        ask(client, 2, errors=(Gone,))
    assert caught.value.data == {"left": 0}


def test_an_error_that_is_not_declared(client: gtcp.Client) -> None:
    with pytest.raises(gtcp.RemoteError) as caught:
        ask(client, 2)
    assert caught.value.code == 1001


def test_a_deprecated_command_warns(client: gtcp.Client) -> None:
    with pytest.warns(DeprecationWarning, match="use another"):
        assert ask(client, 1, deprecated="use another") == {"n": 1}


class TestStreams:
    @staticmethod
    def ask(client: gtcp.Client, cmdid: int, **extra: Any) -> Iterator[int]:
        options = {"timeout": gtcp.DEFAULT, "total": None, "idempotent": False, "meta": None}
        return gtcp.Stub(client)._stream(cmdid, {"n": 3}, int, name="count", **options, **extra)

    def test_items_have_their_type(self, client: gtcp.Client) -> None:
        assert list(self.ask(client, 3)) == [0, 1, 2]

    def test_a_declared_error_comes_after_the_items(self, client: gtcp.Client) -> None:
        items = self.ask(client, 4, errors=(Gone,))
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(Gone):
            next(items)

    def test_a_missing_command_says_what_to_do(self, client: gtcp.Client) -> None:
        with pytest.raises(gtcp.RemoteError, match="gtcp stubs"):
            list(self.ask(client, 99))


def test_it_needs_a_client() -> None:
    with pytest.raises(TypeError, match=r"client: expected a gtcp\.Client"):
        gtcp.Stub("127.0.0.1")  # type: ignore[arg-type]


def test_an_argument_in_place_of_params() -> None:
    assert gtcp.Stub._given("item", 5) == 5
    with pytest.raises(TypeError, match="missing argument: params or item"):
        gtcp.Stub._given("item", msgspec.UNSET)
    assert bytes(gtcp.Stub._or_null(None)) == b"null"
    assert gtcp.Stub._or_null({}) == {}
