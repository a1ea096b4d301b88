"""Limits of a whole server."""

from __future__ import annotations

import gevent
import pytest

import gtcp
from tests.client.fakes import Peer, fake_server
from tests.helpers import eventually, serving

PING = {"cmdid": 0}


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
def test_a_connection_too_many_is_told_so_and_closed(limit: str) -> None:
    with serving(gtcp.Commands(), **{limit: 2}) as server:
        with server.line() as first, server.line() as second:
            assert first.ask(PING)["code"] == second.ask(PING)["code"] == 0
            with server.line() as third:
                (refusal,) = third.rest()
                assert refusal["code"] == 429
                assert "too many connections" in refusal["message"]
            assert first.ask(PING)["code"] == 0
        eventually(lambda: not server.server.connections)
        with server.line() as again:
            assert again.ask(PING)["code"] == 0


def test_a_client_of_a_full_server_is_told_that_its_call_did_not_run() -> None:
    with serving(gtcp.Commands(), max_connections=1) as server, server.line() as first:
        first.ask(PING)
        with gtcp.Client(server.address) as client, pytest.raises(gtcp.RemoteError) as caught:
            client.call(0)
        assert caught.value.code == 429
        assert caught.value.executed == "no"


def test_a_nested_call_that_ends_by_the_common_deadline_is_a_timeout() -> None:
    inner, outer = gtcp.Commands(), gtcp.Commands()

    @inner.handler(1)
    def slow(request: gtcp.Request) -> None:
        gevent.sleep(60)

    with serving(inner) as last:

        @outer.handler(1)
        def nested(request: gtcp.Request) -> None:
            with gtcp.Client(last.address) as client:
                client.call(1)

        with serving(outer) as first, gtcp.Client(first.address) as client:
            for _ in range(10):
                with pytest.raises(gtcp.CallTimeout):
                    client.call(1, timeout=0.05)


@pytest.mark.parametrize(("timeout", "code"), [(None, 408), (5.0, 500)])
@pytest.mark.parametrize("how", ["call", "call by name", "map", "stream", "item"])
def test_a_nested_server_that_is_late_before_its_caller_answers_for_their_common_deadline(
    timeout: float | None, code: int, how: str
) -> None:
    """If it was busy, it does not know when the request arrived; a timeout of its own differs."""
    late = {"code": 408, "message": "the deadline passed"}

    def script(peer: Peer) -> None:
        if how == "call by name":
            peer.answer(peer.request(), result=[{"cmdid": 1, "name": "one"}])
        request = peer.request()
        if how == "item":
            peer.answer(request, result=1, more=True, item=0)
        peer.answer(request, **late)
        peer.silence()

    outer = gtcp.Commands()
    with fake_server(script) as fake:

        @outer.handler(1)
        def nested(request: gtcp.Request) -> None:
            with gtcp.Client(fake.address, timeout=timeout, retries=0) as client:
                if how == "map":
                    list(client.map(1, [None]))
                if how in ("stream", "item"):
                    list(client.stream(1))
                client.call(1 if how == "call" else "one")

        with serving(outer) as server, server.line() as line:
            assert line.ask({"cmdid": 1, "timeout": 60_000})["code"] == code
