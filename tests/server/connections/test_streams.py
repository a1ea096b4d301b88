"""Commands that stream, seen by a peer that speaks lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest

import gtcp
from tests.edge.certificates import Authority
from tests.helpers import Gate, Line, Serving, compute, eventually, process, serving

COUNT, ENDLESS, WAITS, FAILS, BYTES, PLAIN, COMPUTES, SHIELDED = 1, 2, 3, 4, 5, 6, 7, 8


class Query(msgspec.Struct):
    words: list[str]


class Service:
    """Commands that stream, and what their handlers have noted."""

    def __init__(self) -> None:
        self.commands = gtcp.Commands()
        self.yielded = 0
        self.ended: list[str] = []
        self.gate = Gate()
        handler = self.commands.handler

        @handler(COUNT)
        def count(request: gtcp.Request) -> Iterator[int]:
            yield from range(request.params.get("n", 3))

        @handler(ENDLESS)
        def endless(request: gtcp.Request) -> Iterator[int]:
            yield from self.noted(range(10**9))

        @handler(WAITS)
        def waits(request: gtcp.Request) -> Iterator[int]:
            yield from self.noted(self.at_the_gate())

        @handler(FAILS)
        def fails(request: gtcp.Request) -> Iterator[int]:
            yield 1
            raise gtcp.CommandError(1000, "no more", {"after": 1})

        @handler(BYTES)
        def large(request: gtcp.Request) -> Iterator[str]:
            item = "x" * request.params["size"]
            yield from self.noted(item for _ in range(request.params["n"]))

        @handler(PLAIN)
        def plain(request: gtcp.Request) -> str:
            return "plain"

        @handler(COMPUTES)
        def computes(request: gtcp.Request) -> Iterator[int]:
            for n in range(request.params["n"]):
                compute(request.params["seconds"])
                yield n

        @handler(SHIELDED)
        def shielded(request: gtcp.Request) -> Iterator[int]:
            with gtcp.shield():
                yield from self.noted(range(1000))

    def at_the_gate(self) -> Iterator[int]:
        yield 0
        self.gate.wait()
        yield 1

    def noted(self, items: Iterable[Any]) -> Iterator[Any]:
        """Note each item when the next one is asked for, and how the handler ends."""
        ended = "ended"
        try:
            for item in items:
                self.yielded += 1
                yield item
        except BaseException as exc:
            ended = f"{type(exc).__name__}: {exc}"
            raise
        finally:
            self.ended.append(ended)


@pytest.fixture
def service() -> Service:
    return Service()


def item(value: Any, number: int | None = None) -> dict[str, Any]:
    return {"code": 0, "more": True, "result": value} | ({} if number is None else {"id": number})


def reply(line: Line) -> Any:
    """The next line, decoded, without the number of an item."""
    return unnumbered(line.reply())


def replies(line: Line, count: int) -> list[Any]:
    return [reply(line) for _ in range(count)]


def rest(line: Line) -> list[Any]:
    """All lines until the end of the connection."""
    return [unnumbered(each) for each in line.rest()]


def unnumbered(reply: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in reply.items() if key != "item"}


def start(line: Line, cmdid: int, number: int | None = 7, **keys: Any) -> None:
    identity = {} if number is None else {"id": number}
    line.send({"cmdid": cmdid, "stream": True, **identity, **keys})


def credit(line: Line, items: Any, number: Any = 7) -> None:
    params = {"op": "credit", "id": number, "n": items}
    line.send({"cmdid": 0, "oneway": True, "params": params})


def cancel(line: Line, number: int = 7) -> None:
    line.send({"cmdid": 0, "oneway": True, "params": {"op": "cancel", "id": number}})


def is_idle(line: Line) -> bool:
    """Whether the server has nothing to say but to a ping."""
    return bool(line.ask({"cmdid": 0, "id": "ping"}).get("result") == "pong")


class TestRegistration:
    def answer(self, function: Any, **keys: Any) -> list[Any]:
        commands = gtcp.Commands()
        commands.handler(1)(function)
        line = commands.answer(msgspec.json.encode({"cmdid": 1, "stream": True, **keys}))
        return [unnumbered(msgspec.json.decode(each)) for each in line.splitlines()]

    def test_a_generator_function_streams_annotated_or_not(self) -> None:
        def bare(request):  # type: ignore[no-untyped-def]
            yield 1

        def iterator(request: gtcp.Request) -> Iterator[int]:
            yield 1

        def iterable(request: gtcp.Request) -> Iterable[int]:
            yield 1

        def generator(request: gtcp.Request) -> Generator[int, None, None]:
            yield 1

        for each in (bare, iterator, iterable, generator):
            assert self.answer(each) == [item(1), {"code": 0}]

    def test_a_function_annotated_to_return_an_iterator_streams(self) -> None:
        def rows(request: gtcp.Request) -> Iterator[int]:
            return iter([1, 2])

        assert self.answer(rows) == [item(1), item(2), {"code": 0}]

    def test_a_class_whose_process_is_a_generator_streams(self) -> None:
        class Rows(gtcp.BaseHandler):
            def process(self, request: gtcp.Request) -> Iterator[int]:
                yield 1

        assert self.answer(Rows) == [item(1), {"code": 0}]

    def test_of_another_return_annotation_is_refused(self) -> None:
        def rows(request: gtcp.Request) -> list[int]:
            yield 1  # type: ignore[misc]

        with pytest.raises(TypeError, match=r"^rows is a generator function.*expected Iterator"):
            self.answer(rows)

    def test_with_run_to_end_is_refused(self) -> None:
        commands = gtcp.Commands()
        with pytest.raises(TypeError, match="run_to_end: rows streams"):

            @commands.handler(1, run_to_end=True)
            def rows(request: gtcp.Request) -> Iterator[int]:
                yield 1

    def test_items_that_have_no_json_form_are_refused(self) -> None:
        def rows(request: gtcp.Request) -> Iterator[complex]:
            yield 1j

        with pytest.raises(TypeError, match="the result of rows"):
            self.answer(rows)

    def test_the_list_of_commands_says_that_it_streams(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            rows = line.ask({"cmdid": 0, "params": {"op": "commands"}})["result"]
        found = {each["cmdid"]: each for each in rows}
        assert found[COUNT]["streaming"] is True
        assert found[COUNT]["result"] == {"type": "integer"}
        assert found[PLAIN]["streaming"] is False

    def test_params_and_meta_are_typed_as_for_other_commands(self) -> None:
        def rows(request: gtcp.Request[Query]) -> Iterator[str]:
            yield from request.params.words
            yield request.meta["tenant"]

        replies = self.answer(rows, params={"words": ["a"]}, meta={"tenant": "b"})
        assert replies == [item("a"), item("b"), {"code": 0}]
        wrong = self.answer(rows, params={"words": 1})
        assert [each["code"] for each in wrong] == [422]


class TestItems:
    def test_come_in_order_and_are_followed_by_an_end_line(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, COUNT, None)
            line.send({"cmdid": PLAIN})
            wanted = [*map(item, range(3)), {"code": 0}, {"code": 0, "result": "plain"}]
            assert replies(line, 5) == wanted

    def test_have_the_id_of_their_request(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, COUNT)
            wanted = [*(item(n, 7) for n in range(3)), {"code": 0, "id": 7}]
            assert replies(line, 4) == wanted

    def test_are_numbered(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, FAILS)
            line.send({"cmdid": COUNT, "stream": True, "params": {"n": 2}})
            assert [line.reply().get("item") for _ in range(2 + 3)] == [0, None, 0, 1, None]

    def test_of_an_empty_stream_are_none(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, COUNT, params={"n": 0})
            assert reply(line) == {"code": 0, "id": 7}

    def test_are_sent_before_the_handler_waits(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, WAITS)
            assert reply(line) == item(0, 7)
            eventually(lambda: service.gate.waiting)
            assert is_idle(line)
            service.gate.open()
            assert replies(line, 2) == [item(1, 7), {"code": 0, "id": 7}]

    def test_of_an_error_are_followed_by_its_line_only(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, FAILS)
            error = {"code": 1000, "message": "no more", "data": {"after": 1}, "id": 7}
            assert replies(line, 2) == [item(1, 7), error]
            assert is_idle(line)

    @pytest.mark.parametrize(
        "bad", [object(), {"a": 1j}, "\ud800", msgspec.Raw(b"1\n2"), "x" * 500]
    )
    def test_that_cannot_be_sent_end_the_stream_with_one_500(self, bad: Any) -> None:
        commands, closed = gtcp.Commands(), []

        @commands.handler(1)
        def rows(request):  # type: ignore[no-untyped-def]
            try:
                yield 1
                yield bad
            finally:
                closed.append(True)

        with serving(commands, max_reply_bytes=400) as running, running.line() as line:
            start(line, 1)
            first, last = replies(line, 2)
            assert first == item(1, 7)
            assert (last["code"], last["id"], list(last["data"])) == (500, 7, ["error_id"])
            assert closed
            assert is_idle(line)

    @pytest.mark.untraced
    def test_hundred_thousand_arrive_whole(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, COUNT, None, params={"n": 100_000})
            values = [reply(line) for _ in range(100_001)]
            assert [each["result"] for each in values[:-1]] == list(range(100_000))
            assert values[-1] == {"code": 0}


class TestMismatch:
    def test_without_stream_a_streaming_command_is_refused(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            for number, keys in enumerate(({}, {"stream": False}, {"stream": None})):
                reply = line.ask({"cmdid": ENDLESS, "id": number, **keys})
                assert reply["code"] == 405
                assert '"stream": true' in reply["message"]
            line.send({"cmdid": ENDLESS, "stream": True, "oneway": True})
            assert is_idle(line)
            assert not service.yielded

    def test_with_stream_another_command_is_refused(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            for cmdid in (PLAIN, 0):
                reply = line.ask({"cmdid": cmdid, "id": 1, "stream": True})
                assert reply["code"] == 405
                assert "does not stream" in reply["message"]
            for value in (False, None):
                assert line.ask({"cmdid": PLAIN, "stream": value})["result"] == "plain"

    def test_a_stream_of_another_type_is_no_request(self, service: Service) -> None:
        with serving(service.commands) as running:
            for cmdid in (PLAIN, COUNT):
                with running.line() as line:
                    line.send({"cmdid": cmdid, "id": 1, "stream": "yes"})
                    (reply,) = rest(line)
                    expected = "not a request: stream: expected true or false"
                    assert reply == {"code": 400, "message": expected}


class TestCredit:
    def test_limits_the_items_that_are_sent(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, credit=2)
            assert replies(line, 2) == [item(0, 7), item(1, 7)]
            assert is_idle(line)
            assert service.yielded == 2
            credit(line, 3)
            assert replies(line, 3) == [item(n, 7) for n in (2, 3, 4)]
            assert is_idle(line)

    def test_of_none_holds_the_handler_back_before_it_begins(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, credit=0)
            assert is_idle(line)
            assert not service.yielded
            credit(line, 1)
            assert reply(line) == item(0, 7)

    def test_is_limited_in_bytes_too(self, service: Service) -> None:
        with serving(service.commands, stream_window=2500) as running, running.line() as line:
            start(line, BYTES, credit=100, params={"size": 1000, "n": 10})
            replies(line, 3)  # the third exceeds the window
            assert is_idle(line)
            credit(line, 1)  # more than 1,000 bytes were taken: less than the window is left
            reply(line)
            assert is_idle(line)
            for _ in range(6):
                credit(line, 1)
                assert reply(line)["more"]
            assert is_idle(line)
            credit(line, 1)
            assert reply(line) == {"code": 0, "id": 7}

    def test_lets_one_item_exceed_the_window(self, service: Service) -> None:
        with serving(service.commands, stream_window=10) as running, running.line() as line:
            start(line, BYTES, credit=100, params={"size": 1000, "n": 2})
            reply(line)
            assert is_idle(line)
            credit(line, 1)
            assert reply(line)["more"]

    def test_that_makes_no_sense_is_ignored_and_counted(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            context = running.server._context
            assert context is not None
            start(line, ENDLESS, credit=1)
            reply(line)
            bad = (-1, 0, 2**31, 2**63, 2**70, 1.0, "1", None, True, [1])
            for each in bad:
                credit(line, each)
            credit(line, 1, 8)
            credit(line, 1, "7")
            credit(line, 1, None)
            line.send({"cmdid": 0, "oneway": True, "params": {"op": "credit"}})
            assert is_idle(line)
            assert context.ignored_credit == len(bad) + 4
            credit(line, 2**31 - 1)
            credit(line, 2**31 - 1)  # it overflows
            replies(line, 10)
            eventually(lambda: context.ignored_credit == len(bad) + 5)

    @pytest.mark.parametrize("bad", [-1, 2**31, 2**70, "1", 1.5, True, {"a": [1]}])
    def test_of_a_request_that_makes_no_sense_counts_as_absent(
        self, service: Service, bad: Any
    ) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, COUNT, credit=bad)
            assert replies(line, 4)[-1] == {"code": 0, "id": 7}
            context = running.server._context
            assert context is not None
            assert context.ignored_credit == 1

    def test_may_want_a_reply(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, credit=1)
            reply(line)
            line.send({"cmdid": 0, "id": 1, "params": {"op": "credit", "id": 7, "n": 1}})
            assert sorted(replies(line, 2), key=lambda each: each["id"]) == [
                {"code": 0, "id": 1, "result": None},
                item(1, 7),
            ]

    def test_arrives_behind_requests_that_wait_for_their_turn(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, WAITS, None)
            reply(line)
            start(line, COUNT, credit=1)
            assert reply(line) == item(0, 7)
            line.send({"cmdid": PLAIN})  # behind the stream without an id
            credit(line, 10)
            assert replies(line, 3)[-1] == {"code": 0, "id": 7}
            service.gate.open()

    def test_may_arrive_together_with_the_request(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            keys = {"cmdid": ENDLESS, "id": 7, "stream": True, "credit": 1}
            grant = {"cmdid": 0, "oneway": True, "params": {"op": "credit", "id": 7, "n": 2}}
            line.send(keys, grant)
            assert replies(line, 3) == [item(n, 7) for n in range(3)]
            assert is_idle(line)
            assert service.yielded == 3

    def test_that_can_not_arrive_any_more_ends_the_stream(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, credit=1)
            reply(line)
            line.send(b"nonsense\n")
            end, last = rest(line)
            assert (end["code"], end["id"], end["message"]) == (408, 7, "no more credit can arrive")
            assert last["code"] == 400
            assert service.ended == ["GeneratorExit: "]


class TestStopping:
    def test_cancelling_stops_the_handler_where_it_yields(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, credit=1)
            reply(line)
            cancel(line)
            assert reply(line) == {"code": 408, "message": "the caller has gone", "id": 7}
            assert service.ended == ["Cancelled: the caller has gone"]

    def test_cancelling_stops_the_handler_where_it_waits(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, WAITS)
            reply(line)
            eventually(lambda: service.gate.waiting)
            cancel(line)
            assert reply(line)["code"] == 408
            assert service.gate.stopped == 1

    @pytest.mark.parametrize("with_credit", [True, False])
    def test_hanging_up_stops_the_handler(self, service: Service, with_credit: bool) -> None:
        with serving(service.commands) as running:
            with running.line() as line:
                start(line, ENDLESS, **({"credit": 1} if with_credit else {}))
                reply(line)
            eventually(lambda: service.ended)
            eventually(lambda: not running.server.connections)

    def test_hanging_up_without_an_id_stops_the_handler(self, service: Service) -> None:
        with serving(service.commands) as running:
            with running.line() as line:
                start(line, ENDLESS, None)
                reply(line)
            eventually(lambda: service.ended)
            eventually(lambda: not running.server.connections)

    def test_a_half_closed_stream_goes_on_while_it_is_taken(self) -> None:
        commands = gtcp.Commands()

        @commands.handler(1)
        def slow(request):  # type: ignore[no-untyped-def]
            for n in range(8):
                gevent.sleep(0.2)
                yield n

        with serving(commands, half_close_grace=1.0) as running, running.line() as line:
            start(line, 1, None)
            line.finish()
            assert len(rest(line)) == 9

    def test_a_half_closed_stream_that_pauses_is_ended(self, service: Service) -> None:
        with serving(service.commands, half_close_grace=0.1) as running, running.line() as line:
            start(line, WAITS, None)
            line.finish()
            assert [each["code"] for each in rest(line)] == [0, 408]

    def test_a_handler_may_not_go_on_after_it(self) -> None:
        commands, seen = gtcp.Commands(), []

        @commands.handler(1)
        def stubborn(request):  # type: ignore[no-untyped-def]
            while True:
                try:
                    yield 1
                except BaseException as exc:
                    seen.append(type(exc).__name__)
                    if isinstance(exc, GeneratorExit):
                        raise

        with serving(commands) as running, running.line() as line:
            start(line, 1, credit=1)
            reply(line)
            cancel(line)
            assert reply(line)["code"] == 408
            assert seen == ["Cancelled", "GeneratorExit"]

    def test_a_shield_lets_the_handler_go_on_for_nobody(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, SHIELDED, credit=2)
            replies(line, 2)
            cancel(line)
            assert reply(line)["code"] == 408
            assert service.yielded == 1000

    def test_a_deadline_block_around_a_yield_ends_it(self) -> None:
        commands = gtcp.Commands()

        @commands.handler(1)
        def rows(request):  # type: ignore[no-untyped-def]
            try:
                with gtcp.deadline(0.05):
                    while True:
                        yield 1
            except gtcp.CallTimeout:
                yield "late"

        with serving(commands) as running, running.line() as line:
            start(line, 1, credit=1)
            reply(line)
            time.sleep(0.1)  # it waits for credit meanwhile
            assert is_idle(line)
            credit(line, 2)
            assert replies(line, 2) == [item("late", 7), {"code": 0, "id": 7}]


class TestDeadlines:
    def test_the_timeout_is_for_each_item(self) -> None:
        commands = gtcp.Commands()

        @commands.handler(1)
        def rows(request):  # type: ignore[no-untyped-def]
            for seconds in (0.4, 0.4, 0.4, 0.4, 60):
                gevent.sleep(seconds)
                yield request.remaining() <= 0.8

        with serving(commands) as running, running.line() as line:
            start(line, 1, timeout=1200)
            *items, last = replies(line, 5)
            assert [each["result"] for each in items] == [True] * 4
            assert last == {"code": 408, "message": "the deadline passed", "id": 7}

    def test_the_timeout_does_not_count_while_the_caller_takes_nothing(self) -> None:
        commands, left = gtcp.Commands(), []

        @commands.handler(1)
        def rows(request):  # type: ignore[no-untyped-def]
            for n in range(3):
                left.append(request.remaining())
                yield n

        with serving(commands) as running, running.line() as line:
            start(line, 1, timeout=2000, credit=1)
            reply(line)
            time.sleep(2.2)
            credit(line, 1)
            assert reply(line) == item(1, 7)
            assert left[1] > 0.5

    def test_the_total_is_for_the_whole_stream(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, credit=1, timeout=10_000, total=100)
            assert replies(line, 2)[1] == {"code": 408, "message": "the deadline passed", "id": 7}
            assert service.ended == ["Cancelled: the deadline passed"]

    def test_what_is_late_before_it_begins_does_not_run(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, ENDLESS, timeout=0)
            assert reply(line)["data"] == {"executed": "no"}
            assert not service.yielded

    def test_calls_of_the_handler_inherit_what_is_left_for_the_item(self) -> None:
        commands, left = gtcp.Commands(), []

        @commands.handler(1)
        def rows(request):  # type: ignore[no-untyped-def]
            from gtcp.deadline import remaining

            for n in range(2):
                left.append(remaining())
                gevent.sleep(0.1)
                yield n

        with serving(commands) as running, running.line() as line:
            start(line, 1, timeout=20_000, total=20_050)
            replies(line, 3)
        assert 15 < left[0] <= 20
        assert 15 < left[1] < 19.96


class TestFairness:
    def test_streams_that_never_wait_alternate(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as one, running.line() as two:
            start(one, COMPUTES, params={"n": 20, "seconds": 0.012})
            reply(one)
            start(two, COMPUTES, params={"n": 5, "seconds": 0.012})
            replies(two, 6)
            assert replies(one, 20)[-1] == {"code": 0, "id": 7}

    def test_calls_are_served_between_the_items_of_a_stream(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as one, running.line() as two:
            start(one, COMPUTES, params={"n": 40, "seconds": 0.012})
            reply(one)
            assert two.ask({"cmdid": PLAIN})["result"] == "plain"
            one.send({"cmdid": PLAIN, "id": 8})  # on the same connection too
            kinds = [each["id"] for each in replies(one, 40 + 1)]
            assert kinds.index(8) < len(kinds) - 1
            assert kinds[-1] == 7

    def test_many_streams_of_one_connection_all_end(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            for number in range(50):
                start(line, COUNT, number, credit=5, params={"n": 20})
            seen: dict[int, list[Any]] = {number: [] for number in range(50)}
            left = 50
            while left:
                each = reply(line)
                if each.get("more"):
                    seen[each["id"]].append(each["result"])
                    credit(line, 1, each["id"])
                else:
                    assert each == {"code": 0, "id": each["id"]}
                    left -= 1
            assert all(each == list(range(20)) for each in seen.values())


class TestBackpressure:
    def test_a_stream_waits_while_nobody_reads(self, service: Service) -> None:
        with serving(service.commands) as running:
            with running.line(receive_buffer=4096) as line:
                start(line, BYTES, None, params={"size": 100_000, "n": 1000})
                connection = eventually(lambda: next(iter(running.server.connections), None))
                eventually(lambda: connection.writer.blocked_since is not None)
                assert service.yielded < 1000
                kept = connection.writer._unsent
                assert len(kept) + sum(map(len, connection.writer.lines)) < 200_000
                assert replies(line, 1001)[-1] == {"code": 0}
            assert service.yielded == 1000

    def test_a_peer_that_takes_nothing_is_closed(self, service: Service) -> None:
        with (
            serving(service.commands, write_timeout=0.5) as running,
            running.line(receive_buffer=4096) as line,
        ):
            start(line, BYTES, None, params={"size": 100_000, "n": 1000})
            eventually(lambda: service.ended)
            assert service.ended[0].startswith("Cancelled")


@pytest.mark.cover_programs
class TestTransports:
    SIZES = (10, 100_000, 1_000_000, 3, 300_000, 70_000)

    def commands(self) -> gtcp.Commands:
        commands = gtcp.Commands()

        @commands.handler(1)
        def rows(request: gtcp.Request) -> Iterator[str]:
            for size in self.SIZES * 3:
                yield "x" * size

        return commands

    def test_items_of_all_sizes_go_over_tls(self, authority: Authority) -> None:
        cert = authority.issue("localhost")
        with serving(self.commands(), tls_cert=cert) as running:
            address = "tls://localhost:" + running.address.rpartition(":")[2]
            with gtcp.Client(address, ca=authority.ca) as client:
                assert [len(each) for each in client.stream(1)] == [*self.SIZES * 3]

    def test_items_of_all_sizes_go_over_a_unix_socket(self, tmp_path: Path) -> None:
        with (
            serving(self.commands(), bind=(f"unix:{tmp_path}/socket",)) as running,
            gtcp.Client(running.address) as client,
            running.line() as line,
        ):
            assert [len(each) for each in client.stream(1)] == [*self.SIZES * 3]
            start(line, 1, None)
            lines = replies(line, len(self.SIZES) * 3 + 1)
            assert [len(each["result"]) for each in lines[:-1]] == [*self.SIZES * 3]

    def test_a_forked_child_sends_nothing(self, tmp_path: Path) -> None:
        with process(FORKS, tmp_path) as (_, address), Line(address) as line:
            start(line, 1)
            wanted = [item("before", 7), item("after", 7), {"code": 0, "id": 7}]
            assert replies(line, 3) == wanted
            eventually(lambda: "ending it, the parent answers" in (tmp_path / "stderr").read_text())
            assert is_idle(line)


FORKS = """
import os
import gtcp

server = gtcp.Server(gtcp.Settings(port=0))

@server.handler(1)
def rows(request):
    yield "before"
    os.fork()
    yield "after"

server.start()
print(server.addresses[0], flush=True)
server._done.wait()
"""


class TestDrain:
    def test_tells_streams_and_lets_them_finish(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, COUNT, credit=1, params={"n": 3})
            reply(line)
            running.start_stopping()
            notice = {"code": 503, "more": True, "message": "going away", "id": 7}
            assert reply(line) == notice
            line.send({"cmdid": PLAIN, "id": 8})
            assert reply(line) == {"code": 503, "message": "going away", "id": 8}
            credit(line, 5)
            wanted = [item(1, 7), item(2, 7), {"code": 0, "id": 7}]
            assert rest(line) == [*wanted, {"code": 503, "message": "going away"}]

    def test_a_stream_without_an_id_is_not_told(self, service: Service) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, WAITS, None)
            reply(line)
            running.start_stopping()
            running.wait_until_leaving()
            service.gate.open()
            wanted = [item(1), {"code": 0}, {"code": 503, "message": "going away"}]
            assert rest(line) == wanted

    @pytest.mark.parametrize("number", [None, 7])
    def test_ends_streams_with_503_when_its_time_is_over(
        self, service: Service, number: int | None
    ) -> None:
        with serving(service.commands) as running, running.line() as line:
            start(line, WAITS, number)
            reply(line)
            eventually(lambda: service.gate.waiting)
            threading.Thread(target=running.stop, args=(0.2,)).start()
            *notice, end, goodbye = rest(line)
            identity = {} if number is None else {"id": number}
            stopped = {"code": 503, "message": "the server stops", "data": {"executed": "maybe"}}
            assert end == stopped | identity
            assert goodbye == {"code": 503, "message": "going away"}
            assert len(notice) == (number is not None)
            assert service.ended == ["Cancelled: the server stops"]
            running.join()

    def test_ends_many_streams_whose_readers_have_stopped(self, service: Service) -> None:
        with serving(service.commands) as running, ExitStack() as stack:
            lines = [stack.enter_context(running.line()) for _ in range(20)]
            for line in lines:
                start(line, ENDLESS, credit=3)
                replies(line, 3)
            running.stop(0)
            for line in lines:
                ends = [each["code"] for each in rest(line) if not each.get("more")]
                assert ends == [503, 503]
            assert len(service.ended) == 20


class TestAround:
    def test_hooks_run_around_the_whole_stream(self) -> None:
        server, seen = gtcp.Server(gtcp.Settings(port=0)), []

        @server.handler(1)
        def rows(request: gtcp.Request) -> Iterator[int]:
            seen.append("first")
            yield 1
            yield 2
            seen.append("last")

        server.before_request(lambda request: seen.append("before"))
        server.after_request(lambda request, error: seen.append(f"after {type(error).__name__}"))
        with serving(server) as running, running.line() as line:
            start(line, 1)
            replies(line, 3)
            assert seen == ["before", "first", "last", "after NoneType"]
            seen.clear()
            start(line, 1, credit=1)
            reply(line)
            cancel(line)
            reply(line)
            assert seen == ["before", "first", "after Cancelled"]

    def test_limits_count_the_whole_stream(self) -> None:
        commands = gtcp.Commands()

        @commands.handler(1, max_in_flight=1)
        def rows(request: gtcp.Request) -> Iterator[int]:
            yield 1
            yield 2

        with serving(commands) as running, running.line() as line:
            start(line, 1, 1, credit=1)
            reply(line)
            start(line, 1, 2)
            assert reply(line)["code"] == 429
            credit(line, 5, 1)
            assert replies(line, 2)[-1] == {"code": 0, "id": 1}
            start(line, 1, 2)
            assert replies(line, 3)[-1] == {"code": 0, "id": 2}

    def test_the_access_log_has_one_line(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "gtcp.access")
        with serving(service.commands, access_log=True) as running, running.line() as line:
            start(line, COUNT, credit=1, params={"n": 3})
            size = len(line.line())
            credit(line, 5)
            size += sum(len(line.line()) for _ in range(3))
        lines = [each.getMessage() for each in caplog.records if each.name == "gtcp.access"]
        assert len(lines) == 1
        assert f" {COUNT} 0 " in lines[0]
        assert lines[0].endswith(f"out={size} items=3")

    def test_context_variables_live_as_long_as_the_stream(self) -> None:
        import contextvars

        variable = contextvars.ContextVar("variable", default=0)
        commands = gtcp.Commands()

        @commands.handler(1)
        def rows(request):  # type: ignore[no-untyped-def]
            for _ in range(3):
                variable.set(variable.get() + 1)
                yield variable.get()

        with serving(commands) as running, running.line() as line:
            for number in range(2):
                start(line, 1, number, credit=1)
                assert reply(line) == item(1, number)
                credit(line, 5, number)
                assert replies(line, 3)[1] == item(3, number)


def test_a_server_is_left_without_streams(service: Service) -> None:
    def streams(running: Serving) -> int:
        return sum(len(each.streams) for each in running.server.connections)

    with serving(service.commands) as running, running.line() as line:
        start(line, ENDLESS, credit=1)
        reply(line)
        assert streams(running) == 1
        cancel(line)
        reply(line)
        assert streams(running) == 0
        context = running.server._context
        assert context is not None
        assert not context.in_flight
