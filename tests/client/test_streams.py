"""``Client.stream``: many results of one call."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import msgspec
import pytest

import gtcp
from tests.client.fakes import GOODBYE, FakeServer, Peer, begin, outcome, soon
from tests.helpers import PATIENCE, eventually, free_port, serving

Connect = Callable[..., gtcp.Client]
Scripted = Callable[..., tuple[FakeServer, gtcp.Client]]

ROWS, PLAIN, SLOW, FAILS, NESTED = 1, 2, 3, 4, 5


class Row(msgspec.Struct):
    n: int


class Service:
    """A server's commands, and what its handlers have noted."""

    def __init__(self) -> None:
        self.commands = gtcp.Commands()
        self.yielded = 0
        self.closed: list[str] = []
        self.requests: list[gtcp.Request[Any]] = []

        @self.commands.handler(ROWS)
        def rows(request: gtcp.Request) -> Iterator[Row]:
            self.requests.append(request)
            how = "ended"
            try:
                for n in range(request.params.get("n", 3)):
                    self.yielded += 1
                    yield Row(n)
            except BaseException as exc:
                how = type(exc).__name__
                raise
            finally:
                self.closed.append(how)

        @self.commands.handler(PLAIN)
        def plain(request: gtcp.Request) -> dict[str, Any]:
            return request.params

        @self.commands.handler(SLOW)
        def slow(request: gtcp.Request) -> Iterator[int]:
            for n, seconds in enumerate(request.params["seconds"]):
                gevent.sleep(seconds)
                yield n

        @self.commands.handler(FAILS)
        def fails(request: gtcp.Request) -> Iterator[int]:
            yield from range(request.params["n"])
            raise gtcp.CommandError(1000, "no more", {"why": 1})


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def client(service: Service, connect: Connect) -> Iterator[gtcp.Client]:
    with serving(service.commands) as running:
        yield connect(running.address)


def item(request: Any, result: Any) -> dict[str, Any]:
    return {"id": request["id"], "code": 0, "more": True, "result": result}


def end(request: Any) -> dict[str, Any]:
    return {"id": request["id"], "code": 0}


def works(peer: Peer) -> None:
    """Answer one stream, with one item."""
    request = peer.request()
    peer.send(item(request, 1), end(request))
    peer.silence()


def elsewhere(function: Callable[[], Any]) -> Any:
    """Return what it returns in another thread, or the exception that it raises there."""
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(outcome(function)), daemon=True)
    thread.start()
    soon(lambda: outcomes)
    thread.join(PATIENCE)
    return outcomes[0]


class TestItems:
    def test_are_taken_in_order(self, client: gtcp.Client) -> None:
        assert list(client.stream(ROWS)) == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert client.stats()["in_flight"] == 0

    def test_are_decoded_into_the_type_that_is_asked_for(self, client: gtcp.Client) -> None:
        assert list(client.stream(ROWS, result=Row)) == [Row(0), Row(1), Row(2)]
        assert list(client.stream(ROWS, result=dict[str, int]))[2] == {"n": 2}
        assert client.call(PLAIN, {"n": 1}, result=Row) == Row(1)

    @pytest.mark.parametrize("window", [1, 2, 3, 100, 10_000])
    def test_of_any_number_arrive_with_any_window(self, client: gtcp.Client, window: int) -> None:
        for number in (0, 1, window - 1, window, window + 1, 3000):
            rows = client.stream(ROWS, {"n": number}, window=window, result=Row)
            assert [row.n for row in rows] == list(range(number))
            assert rows.received == number

    def test_that_are_larger_than_the_servers_window_arrive(self, connect: Connect) -> None:
        commands = gtcp.Commands()

        @commands.handler(1)
        def rows(request: gtcp.Request) -> Iterator[str]:
            for _ in range(20):
                yield "x" * 30_000

        with serving(commands, stream_window=1000) as running:
            items = list(connect(running.address).stream(1))
        assert [len(each) for each in items] == [30_000] * 20

    def test_are_not_asked_for_before_the_first_is_taken(self, scripted: Scripted) -> None:
        server, client = scripted(Peer.silence)
        rows = client.stream(ROWS)
        rows.close()
        assert list(rows) == []
        assert not server.peers

    def test_meta_and_params_travel(self, service: Service, client: gtcp.Client) -> None:
        list(client.stream(ROWS, {"n": 1}, meta={"a": "b"}))
        (request,) = service.requests
        assert (request.params, request.meta) == ({"n": 1}, {"a": "b"})

    def test_of_many_streams_and_calls_go_over_one_connection(self, client: gtcp.Client) -> None:
        tasks = [begin(lambda: list(client.stream(ROWS, {"n": 500}, window=7))) for _ in range(20)]
        calls = [begin(client.call, PLAIN, {"n": n}) for n in range(20)]
        assert [each.get()["n"] for each in calls] == list(range(20))
        assert all(len(each.get()) == 500 for each in tasks)
        assert client.stats()["opened"] == 1

    def test_are_taken_in_other_threads_too(self, client: gtcp.Client) -> None:
        assert elsewhere(lambda: len(list(client.stream(ROWS, {"n": 1000})))) == 1000


class TestRequest:
    def test_says_what_the_stream_is_asked_with(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            peer.send(item(request, 1), end(request))
            peer.silence()

        server, client = scripted(script)
        assert list(client.stream(7, {"a": 1}, timeout=2, total=5, window=9)) == [1]
        (request,) = server.lines
        total = request.pop("total")
        assert 4000 < total <= 5000
        expected = {"cmdid": 7, "id": 1, "timeout": 2000, "stream": True, "credit": 9}
        assert request == {**expected, "params": {"a": 1}}

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"cmdid": 1.5}, "cmdid"),
            ({"params": [1]}, "params"),
            ({"meta": {"a": 1}}, "meta"),
            ({"timeout": "1"}, "timeout"),
            ({"total": -1}, "total"),
            ({"total": True}, "total"),
            ({"window": 0}, "window"),
            ({"window": 1.5}, "window"),
            ({"idempotent": 1}, "idempotent"),
            ({"result": "int"}, "result"),
        ],
    )
    def test_of_wrong_arguments_raises_at_once(
        self, client: gtcp.Client, arguments: dict[str, Any], named: str
    ) -> None:
        with pytest.raises((TypeError, ValueError), match=f"^{named}"):
            client.stream(**{"cmdid": ROWS, **arguments})

    def test_of_params_that_are_not_json_is_not_sent(self, client: gtcp.Client) -> None:
        with pytest.raises(TypeError):
            list(client.stream(ROWS, {"a": object()}))
        assert client.call(PLAIN, {"n": 1}) == {"n": 1}

    def test_to_another_command_is_refused(self, client: gtcp.Client) -> None:
        with pytest.raises(gtcp.RemoteError, match="405 this command does not stream") as caught:
            list(client.stream(PLAIN))
        assert caught.value.executed == "no"
        with pytest.raises(gtcp.RemoteError, match="405 this command streams") as caught:
            client.call(ROWS)
        assert caught.value.executed == "no"

    def test_to_a_server_without_streams_says_so(self, scripted: Scripted) -> None:
        _, client = scripted(Peer.echo)
        with pytest.raises(gtcp.ProtocolError, match="does not stream") as caught:
            list(client.stream(1, {"a": 1}))
        assert caught.value.executed == "yes"


class TestNames:
    def test_a_stream_is_called_by_name(self, client: gtcp.Client) -> None:
        assert list(client.stream("rows", {"n": 2}, result=Row)) == [Row(0), Row(1)]
        assert list(client.stream("rows", {"n": 1})) == [{"n": 0}]
        with pytest.raises(gtcp.RemoteError, match="404 there is no command named 'no'"):
            list(client.stream("no"))
        with pytest.raises(gtcp.RemoteError, match="405 this command does not stream"):
            list(client.stream("plain"))

    def test_idempotence_and_deprecation_are_learned(self, connect: Connect) -> None:
        commands, ran = gtcp.Commands(), []

        @commands.handler(1, idempotent=True, deprecated="use rows2")
        def rows(request: gtcp.Request) -> Iterator[int]:
            ran.append(request)
            if len(ran) == 1:
                for each in list(running.server.connections):
                    each.cut()
            gevent.sleep(0)
            yield 1

        with serving(commands) as running:
            client = connect(running.address)
            with pytest.warns(DeprecationWarning, match="rows is deprecated: use rows2") as caught:
                assert list(client.stream("rows")) == [1]
            assert {each.filename for each in caught} == {__file__}
            assert len(ran) == 2


class TestErrorClasses:
    def test_an_error_of_the_application_has_its_class(
        self, service: Service, connect: Connect
    ) -> None:
        class NoMore(gtcp.CommandError, code=1000):
            pass

        with serving(service.commands) as running:
            for number in (0, 2):
                client = connect(running.address, errors=[NoMore])
                error = outcome(list, client.stream(FAILS, {"n": number}))
                assert type(error) is NoMore
                assert (error.data, error.received, error.executed) == ({"why": 1}, number, "yes")


class TestLeaving:
    def test_the_loop_stops_the_handler(self, service: Service, client: gtcp.Client) -> None:
        for row in client.stream(ROWS, {"n": 10**9}, result=Row):
            if row.n == 5:
                break
        assert client.call(PLAIN, {"n": 1}) == {"n": 1}
        soon(lambda: service.closed == ["Cancelled"])
        assert client.stats()["in_flight"] == 0

    def test_the_block_stops_the_handler(self, service: Service, client: gtcp.Client) -> None:
        with client.stream(ROWS, {"n": 10**9}) as rows:
            assert next(rows) == {"n": 0}
            for row in rows:
                assert row == {"n": 1}
                break
            assert next(rows) == {"n": 2}
            assert rows.received == 3
        soon(lambda: service.closed == ["Cancelled"])
        assert list(rows) == []

    def test_an_exception_in_the_block_stops_it(
        self, service: Service, client: gtcp.Client
    ) -> None:
        def fail() -> None:
            with client.stream(ROWS, {"n": 10**9}) as rows:
                next(rows)
                raise ZeroDivisionError

        assert isinstance(outcome(fail), ZeroDivisionError)
        soon(lambda: service.closed == ["Cancelled"])

    def test_a_killed_greenlet_stops_it(self, service: Service, client: gtcp.Client) -> None:
        task = begin(lambda: list(client.stream(SLOW, {"seconds": [60]})))
        soon(lambda: client.stats()["in_flight"])
        task.kill()
        assert client.stats()["in_flight"] == 0
        assert client.call(PLAIN, {"n": 1}) == {"n": 1}

    def test_it_in_another_thread_stops_it(self, service: Service, client: gtcp.Client) -> None:
        rows = client.stream(ROWS, {"n": 10**9})
        next(rows)
        error = elsewhere(lambda: next(rows))
        assert isinstance(error, gtcp.GtcpError)
        assert "in the thread" in str(error)
        soon(lambda: service.closed == ["Cancelled"])

    def test_it_to_the_garbage_collector_stops_it(
        self, service: Service, client: gtcp.Client
    ) -> None:
        cycle: list[Any] = [client.stream(ROWS, {"n": 10**9})]
        next(cycle[0])
        cycle.append(cycle)
        del cycle
        gc.collect()
        soon(lambda: service.closed == ["Cancelled"])


class TestSlowConsumer:
    def test_lets_other_calls_of_the_connection_go_on(
        self, service: Service, client: gtcp.Client
    ) -> None:
        rows = client.stream(ROWS, {"n": 10**6}, window=10)
        next(rows)
        for n in range(50):
            assert client.call(PLAIN, {"n": n}) == {"n": n}
        assert service.yielded <= 11
        assert client.stats()["opened"] == 1
        rows.close()

    def test_is_sent_no_more_than_its_window(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            peer.send(*(item(request, n) for n in range(11)))
            peer.silence()

        server, client = scripted(script)
        rows = client.stream(1, window=10)
        with pytest.raises(gtcp.ProtocolError, match="more items than it has credit for") as caught:
            list(rows)
        assert caught.value.executed == "maybe"
        soon(lambda: len(server.lines) >= 2)
        assert server.lines[-1].get("params") == {"op": "cancel", "id": 1}

    def test_returns_credit_as_it_takes_items(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            left, sent = request["credit"], 0
            while sent < 100:
                for _ in range(min(left, 100 - sent)):
                    peer.send(item(request, sent))
                    sent += 1
                left = 0 if sent == 100 else peer.request()["params"]["n"]
            peer.send(end(request))
            peer.silence()

        _, client = scripted(script)
        assert list(client.stream(1, window=8)) == list(range(100))


class TestNumbers:
    def test_an_item_that_arrives_twice_is_dropped(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            numbers = (0, 1, 1, 0, 2, 2)
            peer.send(*(item(request, n) | {"item": n} for n in numbers), end(request))
            peer.silence()

        _, client = scripted(script)
        assert list(client.stream(1)) == [0, 1, 2]
        assert client.stats()["dropped"] == 3

    def test_an_item_that_is_missing_breaks_the_stream_off(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            peer.send(*(item(request, n) | {"item": n} for n in (0, 1, 3)))
            peer.silence()

        server, client = scripted(script)
        rows = client.stream(1)
        assert [next(rows), next(rows)] == [0, 1]
        error = outcome(next, rows)
        assert isinstance(error, gtcp.ProtocolError)
        assert "item 2 of the stream is missing" in str(error)
        assert (error.executed, error.received) == ("maybe", 2)
        soon(lambda: server.lines[-1].get("params") == {"op": "cancel", "id": 1})


class TestErrors:
    def test_of_the_handler_come_after_its_items(self, client: gtcp.Client) -> None:
        for number in (0, 3):
            rows = client.stream(FAILS, {"n": number})
            assert [next(rows) for _ in range(number)] == list(range(number))
            error = outcome(next, rows)
            assert isinstance(error, gtcp.RemoteError)
            assert (error.code, error.data, error.received) == (1000, {"why": 1}, number)
            assert error.executed == "yes"

    def test_keep_how_many_items_came_when_pickled_or_copied(self, client: gtcp.Client) -> None:
        error = outcome(list, client.stream(FAILS, {"n": 3}))
        for each in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert each.received == 3

    def test_a_broken_connection_is_retried_before_the_first_item(self, scripted: Scripted) -> None:
        def breaks(peer: Peer) -> None:
            peer.request()
            peer.reset()

        server, client = scripted(breaks, works)
        assert list(client.stream(1, idempotent=True)) == [1]
        assert len(server.peers) == 2
        assert client.stats()["retries"] == 1

    def test_a_broken_connection_is_not_retried_unless_idempotent(self, scripted: Scripted) -> None:
        def breaks(peer: Peer) -> None:
            peer.request()
            peer.reset()

        server, client = scripted(breaks)
        error = outcome(list, client.stream(1))
        assert isinstance(error, gtcp.ConnectionLost)
        assert (error.executed, error.received) == ("maybe", 0)
        assert len(server.peers) == 1

    def test_a_broken_connection_is_not_retried_after_an_item(self, scripted: Scripted) -> None:
        def breaks(peer: Peer) -> None:
            request = peer.request()
            peer.send(item(request, 1), item(request, 2))
            peer.close()

        server, client = scripted(breaks)
        rows = client.stream(1, idempotent=True)
        assert [next(rows), next(rows)] == [1, 2]
        error = outcome(next, rows)
        assert isinstance(error, gtcp.ConnectionLost)
        assert (error.executed, error.received) == ("maybe", 2)
        assert len(server.peers) == 1

    def test_nobody_listens(self, connect: Connect) -> None:
        client = connect(f"127.0.0.1:{free_port()}", retries=0)
        error = outcome(list, client.stream(1))
        assert isinstance(error, gtcp.ConnectError)
        assert (error.executed, error.received) == ("no", 0)

    def test_the_client_is_closed(self, client: gtcp.Client) -> None:
        rows = client.stream(ROWS, {"n": 10**9}, window=2)
        next(rows)
        client.close()
        error = outcome(list, rows)
        assert isinstance(error, gtcp.ConnectionLost)
        assert error.received >= 1
        assert isinstance(outcome(list, client.stream(ROWS)), gtcp.ConnectError)

    def test_an_item_that_does_not_fit(self, service: Service, client: gtcp.Client) -> None:
        error = outcome(list, client.stream(ROWS, {"n": 10**9}, result=int))
        assert isinstance(error, gtcp.ProtocolError)
        assert (error.executed, error.received) == ("maybe", 0)
        soon(lambda: service.closed == ["Cancelled"])
        assert client.call(PLAIN, {"n": 1}) == {"n": 1}

    @pytest.mark.parametrize("line", [b"nonsense\n", b'{"id":1,"code":0,"more":1}\n'])
    def test_what_is_no_item_breaks_the_connection(self, scripted: Scripted, line: bytes) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            peer.send(item(request, 1), line)
            peer.silence()

        _, client = scripted(script)
        error = outcome(list, client.stream(1))
        assert isinstance(error, gtcp.ProtocolError)
        assert error.executed == "maybe"

    def test_more_to_an_ordinary_call_is_taken_as_its_reply(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            request = peer.request()
            peer.send(item(request, 1), item(request, 2), end(request))
            peer.echo()

        _, client = scripted(script)
        assert client.call(1) == 1
        assert client.call(1, {"a": 1}) == {"a": 1}


class TestDeadlines:
    def test_the_timeout_is_for_each_item(self, client: gtcp.Client) -> None:
        assert list(client.stream(SLOW, {"seconds": [0.4] * 4}, timeout=1.2)) == [0, 1, 2, 3]
        error = outcome(list, client.stream(SLOW, {"seconds": [0, 0.1, 60]}, timeout=1.2))
        assert isinstance(error, gtcp.CallTimeout)
        assert (error.executed, error.received) == ("maybe", 2)
        assert client.call(PLAIN, {"n": 1}) == {"n": 1}

    def test_the_total_is_for_all(self, client: gtcp.Client) -> None:
        began = time.monotonic()
        rows = client.stream(SLOW, {"seconds": [0.1] * 100}, total=0.35)
        error = outcome(list, rows)
        assert isinstance(error, gtcp.CallTimeout)
        assert error.received <= 3
        assert time.monotonic() - began < 5

    def test_a_server_that_says_nothing_is_told_to_stop(self, scripted: Scripted) -> None:
        def script(peer: Peer) -> None:
            peer.send(item(peer.request(), 1))
            peer.silence()

        server, client = scripted(script)
        rows = client.stream(1, timeout=0.1)
        assert next(rows) == 1
        error = outcome(next, rows)
        assert type(error) is gtcp.CallTimeout
        assert (error.executed, error.received) == ("maybe", 1)
        soon(lambda: server.lines[-1].get("params") == {"op": "cancel", "id": 1})
        assert client.stats()["in_flight"] == 0

    def test_the_time_between_items_is_the_consumers(self, client: gtcp.Client) -> None:
        rows = client.stream(ROWS, {"n": 300}, timeout=1.5, window=2)
        next(rows)
        gevent.sleep(2)
        assert len(list(rows)) == 299

    def test_what_has_arrived_is_taken_after_a_pause(self, client: gtcp.Client) -> None:
        rows = client.stream(ROWS, {"n": 300}, timeout=1.5, window=2)
        next(rows)
        time.sleep(2)  # the event loop stands still
        assert len(list(rows)) == 299

    def test_a_stream_in_a_handler_inherits_its_deadline(self, connect: Connect) -> None:
        with serving(Service().commands) as inner:
            outer = gtcp.Commands()

            @outer.handler(1)
            def nested(request: gtcp.Request) -> int:
                with gtcp.Client(inner.address) as client:
                    return len(list(client.stream(SLOW, {"seconds": [0.1] * 100}, timeout=30)))

            with serving(outer) as running:
                began = time.monotonic()
                with pytest.raises(gtcp.CallTimeout):  # it, or its server, is first
                    connect(running.address).call(1, timeout=0.5)
                context = inner.server._context
                assert context is not None
                soon(lambda: not context.in_flight)
                assert time.monotonic() - began < 10  # all items would take that long


class TestDrain:
    def test_a_stream_that_goes_on_is_told(self, service: Service, connect: Connect) -> None:
        with serving(service.commands) as running:
            client = connect(running.address)
            rows = client.stream(ROWS, {"n": 500}, window=2, result=Row)
            assert next(rows).n == 0
            assert not rows.leaving
            running.start_stopping()
            soon(lambda: rows.leaving)
            assert [row.n for row in rows] == list(range(1, 500))
            running.join()

    def test_a_stream_that_is_ended_says_what_came(
        self, service: Service, connect: Connect
    ) -> None:
        with serving(service.commands) as running:
            client = connect(running.address)
            rows = client.stream(SLOW, {"seconds": [0, 0, 0, 60]})
            assert [next(rows) for _ in range(3)] == [0, 1, 2]
            running.start_stopping(0.1)
            error = outcome(next, rows)
            assert isinstance(error, gtcp.RemoteError)
            assert (error.code, error.executed, error.received) == (503, "maybe", 3)
            running.join()

    def test_a_stream_that_is_ended_before_its_first_item_is_not_retried(
        self, service: Service, connect: Connect
    ) -> None:
        with serving(service.commands) as running:
            client = connect(running.address)
            task = begin(list, client.stream(SLOW, {"seconds": [60]}))
            soon(lambda: running.server._context and running.server._context.in_flight)
            running.start_stopping(0.1)
            error = task.get()
            assert (error.code, error.executed, error.received) == (503, "maybe", 0)
            assert client.stats()["retries"] == 0
            running.join()

    def test_a_stream_that_was_not_begun_is_sent_elsewhere(self, scripted: Scripted) -> None:
        def leaves(peer: Peer) -> None:
            request = peer.request()
            peer.send({"id": request["id"], "code": 503, "message": "going away"}, GOODBYE)
            peer.close()

        server, client = scripted(leaves, works)
        assert list(client.stream(1)) == [1]
        assert len(server.peers) == 2

    def test_calls_go_elsewhere_while_a_stream_goes_on(self, scripted: Scripted) -> None:
        def leaving(peer: Peer) -> None:
            request = peer.request()
            notice = {"id": request["id"], "code": 503, "more": True, "message": "going away"}
            peer.send(item(request, 1), notice)
            eventually(lambda: len(peer.server.peers) == 2)
            peer.send(item(request, 2), end(request), GOODBYE)
            peer.silence()

        _, client = scripted(leaving, Peer.echo)
        rows = client.stream(1)
        assert next(rows) == 1
        soon(lambda: rows.leaving)
        assert client.call(1, {"a": 1}) == {"a": 1}
        assert list(rows) == [2]


def test_a_stream_has_its_own_place_in_the_window_of_calls(client: gtcp.Client) -> None:
    rows = client.stream(ROWS, {"n": 10**6}, window=1)
    next(rows)
    assert client.stats()["in_flight"] == 1
    rows.close()
    assert client.stats()["in_flight"] == 0
