"""``Client.map``: many calls as one stream."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import msgspec
import pytest

import gtcp
from tests.client.fakes import FakeServer, Peer, answer, begin, says, soon
from tests.helpers import PATIENCE, Gate, free_port, serving

Connect = Callable[..., gtcp.Client]
Scripted = Callable[..., tuple[FakeServer, gtcp.Client]]


def numbers(count: int) -> Iterator[dict[str, int]]:
    return ({"n": n} for n in range(count))


def unordered_echo(peer: Peer) -> None:
    """Answer in pairs, the second before the first."""
    while (first := peer.request()) is not None:
        second = peer.request()
        peer.send(answer(second), answer(first))


def elsewhere(function: Callable[[], Any]) -> Any:
    """Return what it returns in another thread, or the exception that it raises there."""
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(function())
        except BaseException as exc:
            outcomes.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    soon(lambda: outcomes)
    thread.join(PATIENCE)
    return outcomes[0]


# Results


@pytest.mark.parametrize("window", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_item_gets_its_own_result(scripted: Scripted, window: int, ordered: bool) -> None:
    server, client = scripted(Peer.echo)
    results = list(client.map(1, numbers(300), window=window, ordered=ordered))
    if not ordered:
        results.sort(key=lambda each: each["n"])
    assert results == list(numbers(300))
    assert client.stats()["in_flight"] == 0
    assert len(server.lines) == 300


def test_results_keep_the_order_of_the_params_or_come_as_they_come_in(scripted: Scripted) -> None:
    _, client = scripted(unordered_echo)
    assert list(client.map(1, numbers(100), window=10)) == list(numbers(100))
    results = list(client.map(1, numbers(10), window=2, ordered=False))
    assert [each["n"] for each in results] == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    both = [begin(lambda: list(client.map(1, numbers(100), window=10))) for _ in range(2)]
    assert [each.get() for each in both] == [list(numbers(100))] * 2


def test_params_may_change_once_they_have_been_taken(scripted: Scripted) -> None:
    def source() -> Iterator[dict[str, int]]:
        params = {"n": 0}
        for params["n"] in range(100):
            yield params

    _, client = scripted(Peer.echo)
    assert list(client.map(1, source())) == list(numbers(100))


def test_no_items_no_connection(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    assert list(client.map(1, [])) == []
    assert server.peers == []


def test_nothing_is_sent_before_a_result_is_asked_for(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    taken: list[int] = []
    results = client.map(1, ({"n": taken.append(n) or n} for n in range(3)))
    gevent.sleep(0.01)
    assert (taken, server.peers) == ([], [])
    assert next(results) == {"n": 0}


def test_results_of_a_type(scripted: Scripted) -> None:
    class Number(msgspec.Struct):
        n: int

    _, client = scripted(Peer.echo)
    assert list(client.map(1, numbers(3), result=Number)) == [Number(0), Number(1), Number(2)]
    wrong = list(client.map(1, [{"n": "x"}, {"n": 1}], result=Number, return_exceptions=True))
    assert type(wrong[0]) is gtcp.ProtocolError
    assert wrong[1] == Number(1)


def test_a_slow_source_does_not_hold_up_results(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo)
    results: list[Any] = []

    def source() -> Iterator[dict[str, int]]:
        for n in range(3):
            yield {"n": n}
            soon(lambda wanted=n: len(server.lines) > wanted)
            gevent.sleep(0.01)  # its reply is here, or about to be
        soon(lambda: len(results) >= 2)

    mapped = begin(lambda: [results.append(each) for each in client.map(1, source())])
    assert not isinstance(mapped.get(), Exception)
    assert results == list(numbers(3))


# The window


@pytest.mark.parametrize("ordered", [True, False])
def test_the_window_bounds_what_is_in_flight(connect: Connect, ordered: bool) -> None:
    gate = Gate()
    commands = gtcp.Commands()
    most = [0]

    @commands.handler(1)
    def hold(request: gtcp.Request) -> Any:
        most[0] = max(most[0], gate.waiting + 1)
        gate.wait()
        return request.params

    with serving(commands) as server:
        client = connect(server.address)
        mapped = begin(lambda: list(client.map(1, numbers(60), window=8, ordered=ordered)))
        soon(lambda: gate.waiting == 8)
        assert client.stats()["in_flight"] == 8
        gate.open()
        assert sorted(each["n"] for each in mapped.get()) == list(range(60))
        assert most == [8]


def test_a_window_wider_than_the_pool(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo, max_connections=2, max_in_flight=3, timeout=10)
    assert list(client.map(1, numbers(200), window=100)) == list(numbers(200))


def test_the_usual_window_needs_one_connection(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo)
    assert list(client.map(1, numbers(500))) == list(numbers(500))
    assert client.stats()["opened"] == 1


def test_a_stream_uses_all_the_connections_that_are_wanted(scripted: Scripted) -> None:
    server, client = scripted(Peer.echo, min_connections=4)
    assert list(client.map(1, numbers(500), window=32)) == list(numbers(500))
    assert [len(peer.lines) > 50 for peer in server.peers] == [True] * 4


@pytest.mark.parametrize("ordered", [True, False])
def test_most_of_the_window_stays_in_flight_while_results_are_taken(
    scripted: Scripted, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that is busy for a millisecond must not make a row shorter.
    monkeypatch.setattr("gtcp.client.pipeline.PATIENCE", 60.0)

    def answers_but_the_last(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request["cmdid"] and request["params"]["n"] < 40:
                peer.answer(request)

    _, client = scripted(answers_but_the_last)
    results = client.map(1, numbers(1000), window=40, ordered=ordered)
    for taken in range(1, 41):
        next(results)
        assert 0 <= taken + 40 - client.stats()["sent"] <= 40 // 8
    results.close()


def test_calls_get_their_turn_beside_a_stream(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo, max_connections=1, max_in_flight=4, timeout=10)
    mapped = begin(lambda: list(client.map(1, numbers(500), window=4)))
    calls = [begin(client.call, 1, {"n": n}) for n in range(50)]
    assert [each.get() for each in calls] == list(numbers(50))
    assert mapped.get() == list(numbers(500))


def resident_bytes() -> int:
    """How much memory this process has, as the kernel counts it."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.untraced
def test_memory_stays_flat(connect: Connect) -> None:
    """Had it all been kept, it would be hundreds of bytes for each of the 80,000 later items."""
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: request.params)
    count = early = late = 0
    with serving(commands) as server:
        client = connect(server.address)
        for _ in client.map(1, ({"text": "x" * 500} for _ in range(100_000)), window=100):
            count += 1
            if count == 20_000:
                early = resident_bytes()
        late = resident_bytes()
    assert count == 100_000
    assert late - early < 16_000_000


# Errors


def test_the_first_error_ends_the_stream(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request["cmdid"] == 0:
                continue
            if request["params"]["n"] == 3:
                peer.answer(request, code=1000, message="three")
            elif request["params"]["n"] < 3:
                peer.answer(request)

    server, client = scripted(script)
    results = []
    with pytest.raises(gtcp.RemoteError, match="three"):
        results.extend(client.map(1, numbers(100), window=5))
    assert results == list(numbers(3))
    # Calls in flight are cancelled.
    soon(lambda: [each for each in server.lines if each["cmdid"] == 0])
    assert client.stats()["in_flight"] == 0


def test_errors_take_the_place_of_results(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request["params"]["n"] % 2:
                peer.answer(request, code=1000 + request["params"]["n"], message="odd")
            else:
                peer.answer(request)

    _, client = scripted(script)
    for index, each in enumerate(client.map(1, numbers(50), return_exceptions=True)):
        if index % 2:
            assert (each.code, each.executed) == (1000 + index, "yes")
        else:
            assert each == {"n": index}


def test_params_that_are_not_json_fail_alone(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo)
    params = [{"n": 0}, {"n": object()}, {"n": 2}]
    results = list(client.map(1, params, return_exceptions=True))
    assert results[0] == {"n": 0}
    assert isinstance(results[1], TypeError)
    assert results[2] == {"n": 2}


def test_a_source_that_raises(scripted: Scripted) -> None:
    def source() -> Iterator[dict[str, int]]:
        yield {"n": 0}
        raise LookupError("no more")

    _, client = scripted(Peer.silence)
    with pytest.raises(LookupError):
        list(client.map(1, source(), return_exceptions=True))
    assert client.stats()["in_flight"] == 0


def test_a_timeout_around_the_stream_is_no_items_error(scripted: Scripted) -> None:
    _, client = scripted(Peer.silence)
    timer = gevent.Timeout.start_new(0.05, LookupError)
    try:
        with pytest.raises(LookupError):
            list(client.map(1, numbers(3), return_exceptions=True))
    finally:
        timer.close()


def test_each_item_has_its_own_deadline(scripted: Scripted) -> None:
    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request["cmdid"] and request["params"]["n"] != 1:
                peer.answer(request)

    _, client = scripted(script)
    results = list(client.map(1, numbers(3), timeout=0.1, return_exceptions=True))
    assert (results[0], results[2]) == ({"n": 0}, {"n": 2})
    assert type(results[1]) is gtcp.CallTimeout
    assert results[1].executed == "maybe"


def test_nobody_listens(connect: Connect) -> None:
    client = connect(f"127.0.0.1:{free_port()}")
    results = list(client.map(1, numbers(5), return_exceptions=True))
    assert [type(each) for each in results] == [gtcp.ConnectError] * 5
    assert {each.executed for each in results} == {"no"}


# Servers that go


def test_a_stream_survives_a_goodbye(scripted: Scripted) -> None:
    def goes(peer: Peer) -> None:
        for _ in range(30):
            peer.answer(peer.request())
        peer.go_away()
        peer.close()

    _, client = scripted(goes, goes, Peer.echo)
    assert list(client.map(1, numbers(500), window=50)) == list(numbers(500))
    assert client.stats()["retries"] > 0


def test_a_stream_survives_refusals_by_id(scripted: Scripted) -> None:
    def refuses(peer: Peer) -> None:
        for _ in range(10):
            peer.answer(peer.request())
        while (request := peer.request()) is not None:
            peer.answer(request, code=503, message="going away")

    _, client = scripted(refuses, Peer.echo)
    assert list(client.map(1, numbers(200), window=50)) == list(numbers(200))


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_lost_connection_fails_what_may_have_run_unless_it_is_idempotent(
    scripted: Scripted, idempotent: bool
) -> None:
    _, client = scripted(says(after=10, end=Peer.reset), Peer.echo)
    options = {"window": 10, "return_exceptions": True, "idempotent": idempotent}
    results = list(client.map(1, numbers(30), **options))
    if not idempotent:
        assert {type(each) for each in results[:10]} == {gtcp.ConnectionLost}
        assert {each.executed for each in results[:10]} == {"maybe"}
        results[:10] = numbers(10)
    assert results == list(numbers(30))


def test_a_stream_survives_a_server_that_starts_again(connect: Connect) -> None:
    stopped = threading.Event()

    def stops(peer: Peer) -> None:
        for _ in range(20):
            peer.answer(peer.request())
        peer.server.stop_listening()
        peer.go_away()
        peer.close()
        stopped.set()

    first = FakeServer(stops)
    first.accept()
    port = int(first.address.split(":")[1])
    client = connect(first.address, retries=50)
    mapped = begin(lambda: list(client.map(1, numbers(60), window=10)))
    soon(stopped.is_set)
    soon(lambda: client.stats()["retries"] > 10)  # nobody listens
    second = FakeServer(Peer.echo, port=port)
    second.accept()
    try:
        assert mapped.get() == list(numbers(60))
    finally:
        second.close()
        first.close()


# Ending early


def test_closing_the_generator_stops_what_is_in_flight(connect: Connect) -> None:
    gate = Gate()
    commands = gtcp.Commands()

    @commands.handler(1)
    def hold_all_but_the_first(request: gtcp.Request) -> Any:
        if request.params["n"]:
            gate.wait()
        return request.params

    with serving(commands) as server:
        client = connect(server.address)
        results = client.map(1, numbers(1000), window=20)
        assert next(results) == {"n": 0}
        soon(lambda: gate.waiting == 19)
        results.close()
        soon(lambda: gate.stopped == 19)
        assert gate.passed == 0
        assert client.stats()["in_flight"] == 0
        assert client.call(1, {"n": 0}) == {"n": 0}
        assert client.stats()["opened"] == 1


def test_the_end_of_one_stream_leaves_the_others_alone(connect: Connect) -> None:
    gate = Gate()
    commands = gtcp.Commands()

    @commands.handler(1)
    def hold(request: gtcp.Request) -> Any:
        gate.wait()
        return request.params

    with serving(commands) as server:
        client = connect(server.address)
        ended = gevent.spawn(lambda: list(client.map(1, numbers(5))))
        other = begin(lambda: list(client.map(1, numbers(7))))
        call = begin(client.call, 1, {"n": 8})
        soon(lambda: gate.waiting == 13)
        ended.kill()
        soon(lambda: gate.stopped == 5)
        gate.open()
        assert other.get() == list(numbers(7))
        assert call.get() == {"n": 8}


def test_a_kill_stops_what_is_in_flight(scripted: Scripted) -> None:
    server, client = scripted(Peer.silence)
    mapped = gevent.spawn(lambda: list(client.map(1, numbers(10), window=5)))
    soon(lambda: len(server.lines) == 5)
    mapped.kill()
    assert client.stats()["in_flight"] == 0
    soon(lambda: [each["cmdid"] for each in server.lines] == [1] * 5 + [0] * 5)


def test_nothing_is_tried_again_after_the_end(scripted: Scripted) -> None:
    closing = threading.Event()

    def script(peer: Peer) -> None:
        peer.requests(5)
        closing.wait(PATIENCE)
        peer.go_away()
        peer.close()

    server, client = scripted(script, Peer.echo)
    results = client.map(1, numbers(5), window=5)
    mapped = begin(next, results)
    soon(lambda: len(server.lines) == 5)
    connection = client._pools.here().connections[0]
    connection.close()  # its calls get their outcome in the next iteration of the loop
    mapped.kill()
    closing.set()
    gevent.sleep(0.05)
    assert client.stats()["retries"] == 0
    assert len(server.peers) == 1


def test_closing_the_client_ends_the_stream(scripted: Scripted) -> None:
    server, client = scripted(Peer.silence)
    mapped = begin(lambda: list(client.map(1, numbers(10), window=5)))
    soon(lambda: len(server.lines) == 5)
    client.close()
    error = mapped.get()
    assert isinstance(error, gtcp.GtcpError)
    assert error.executed == "maybe"


def test_a_window_of_nothing_is_refused(connect: Connect) -> None:
    with pytest.raises(ValueError, match="window"):
        connect("127.0.0.1").map(1, [], window=0)


# Threads


@pytest.mark.parametrize("window", [1, 8, 64])
@pytest.mark.parametrize("taken", [1, 3, 20])
def test_results_are_taken_in_the_thread_that_took_the_first(
    scripted: Scripted, window: int, taken: int
) -> None:
    _, client = scripted(Peer.echo)
    results = client.map(1, numbers(100), window=window)
    assert [next(results)["n"] for _ in range(taken)] == list(range(taken))
    error = elsewhere(lambda: next(results))
    assert type(error) is gtcp.GtcpError
    assert "in the thread" in str(error)
    soon(lambda: client.stats()["in_flight"] == 0)
    assert list(results) == [], "it has ended"
    assert client.call(1, {"n": 7}) == {"n": 7}


def test_a_map_that_was_not_begun_may_be_begun_in_another_thread(scripted: Scripted) -> None:
    _, client = scripted(Peer.echo)
    results = client.map(1, numbers(100))
    assert elsewhere(lambda: list(results)) == list(numbers(100))


def answers_the_first(count: int) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request["cmdid"] and request["params"]["n"] < count:
                peer.answer(request)

    return script


@pytest.mark.parametrize("end", ["close", "free", "next"])
def test_a_map_that_ends_in_another_thread_is_cancelled_in_its_own(
    scripted: Scripted, end: str
) -> None:
    server, client = scripted(answers_the_first(5))
    held = [client.map(1, numbers(100), window=8)]
    assert [next(held[0])["n"] for _ in range(5)] == list(range(5))
    started = client.stats()["sent"]
    assert started > 5
    outcome = elsewhere(
        {"close": lambda: held[0].close(), "free": held.clear, "next": lambda: next(held[0])}[end]
    )
    assert (outcome is None) == (end != "next")
    soon(lambda: client.stats()["in_flight"] == 0)
    soon(lambda: len(server.lines) == 2 * started - 5)
    cancelled = [each["params"]["id"] for each in server.lines if each["cmdid"] == 0]
    assert sorted(cancelled) == [each["id"] for each in server.lines if each["cmdid"]][5:]
    assert client.call(1, {"n": 0}) == {"n": 0}


@pytest.mark.parametrize("end", ["close", "free", "next"])
def test_a_map_may_end_after_the_thread_that_began_it(scripted: Scripted, end: str) -> None:
    _, client = scripted(answers_the_first(5))
    held = [client.map(1, numbers(100), window=8)]
    assert elsewhere(lambda: next(held[0])) == {"n": 0}
    soon(lambda: client.stats()["connections"] == 0)
    if end == "close":
        held[0].close()
    elif end == "free":
        held.clear()
    else:
        with pytest.raises(gtcp.GtcpError, match="in the thread"):
            next(held[0])
    assert client.call(1, {"n": 0}) == {"n": 0}
