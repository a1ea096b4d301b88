"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest

import gtcp
from tests.client.fakes import FakeServer, Script, fake_server, open_sockets, soon


@pytest.fixture(autouse=True)
def _nothing_goes_wrong_in_the_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An error in a callback of the event loop is printed and forgotten, unless someone looks."""
    hub = gevent.get_hub()
    errors: list[str] = []

    def handle_error(context: Any, kind: Any, value: Any, _traceback: Any) -> None:
        if not issubclass(kind, hub.NOT_ERROR):
            errors.append(f"{context!r}: {kind.__name__}: {value}")

    monkeypatch.setattr(hub, "handle_error", handle_error)
    yield
    gevent.sleep(0)
    assert errors == []


@pytest.fixture
def connect() -> Iterator[Callable[..., gtcp.Client]]:
    """Makes clients that are closed after the test; checks that no socket is left open."""
    before = open_sockets()
    with ExitStack() as stack:
        yield lambda address, **options: stack.enter_context(gtcp.Client(address, **options))
    soon(lambda: open_sockets() <= before)


@pytest.fixture
def scripted(
    connect: Callable[..., gtcp.Client],
) -> Iterator[Callable[..., tuple[FakeServer, gtcp.Client]]]:
    """Starts a server that follows scripts, and a client of it with these options."""
    with ExitStack() as stack:

        def start(*scripts: Script, **options: Any) -> tuple[FakeServer, gtcp.Client]:
            server = stack.enter_context(fake_server(*scripts))
            return server, connect(server.address, **options)

        yield start
