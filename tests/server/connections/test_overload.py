"""Load shedding: excess requests are refused immediately, before work is spent on them."""

from __future__ import annotations

import time

import gevent
import msgspec
import pytest

import gtcp
from tests.helpers import Gate, eventually, serving


class Counted(msgspec.Struct):
    n: int = 0

    def __post_init__(self) -> None:
        decoded.append(self.n)


decoded: list[int] = []


def test_a_command_has_a_limit_of_its_own() -> None:
    commands, gate = gtcp.Commands(), Gate()
    commands.handler(1, max_in_flight=2)(lambda request: gate.wait())
    commands.handler(2)(lambda request: "other")
    with serving(commands) as running, running.line() as line, running.line() as second:
        line.send(*[{"cmdid": 1, "id": n} for n in range(2)])
        eventually(lambda: gate.waiting == 2)
        refused = second.ask({"cmdid": 1, "id": 3})
        assert refused["code"] == 429
        assert refused["data"] == {"retry_after": 1.0}
        assert second.ask({"cmdid": 2, "id": 4})["result"] == "other"
        gate.open()
        assert sorted(each["id"] for each in line.replies(2)) == [0, 1]
        assert second.ask({"cmdid": 1, "id": 5})["code"] == 0


def test_a_handler_that_fails_or_is_stopped_gives_its_place_back() -> None:
    commands = gtcp.Commands()

    @commands.handler(1, max_in_flight=1)
    def slow(request: gtcp.Request) -> None:
        gevent.sleep(60 if request.params.get("long") else 0.001)
        raise gtcp.CommandError(1000, "as always")

    with serving(commands) as running, running.line() as line:
        assert line.ask({"cmdid": 1, "id": 1})["code"] == 1000
        late = {"cmdid": 1, "id": 2, "timeout": 20, "params": {"long": True}}
        assert line.ask(late)["code"] == 408
        assert line.ask({"cmdid": 1, "id": 3})["code"] == 1000


@pytest.mark.parametrize(
    ("limit", "kind"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), ("2", TypeError)],
)
def test_an_impossible_limit_is_refused(limit: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"max_in_flight: expected (an int of )?1 or more"):
        gtcp.Commands().handler(1, max_in_flight=limit)(lambda request: None)  # type: ignore[arg-type]


def test_over_the_limit_params_are_not_decoded() -> None:
    commands, gate = gtcp.Commands(), Gate()
    commands.handler(1)(lambda request: gate.wait())

    @commands.handler(2)
    def typed(request: gtcp.Request[Counted]) -> int:
        return request.params.n

    server = serving(commands, max_in_flight=1)
    with server as running, running.line() as first, running.line() as line:
        first.send({"cmdid": 1, "id": 1})
        eventually(lambda: gate.waiting)
        decoded.clear()
        line.send(
            {"cmdid": 2, "id": 2, "params": {"n": 2}},
            {"cmdid": 2, "params": {"n": "no number"}},
            {"cmdid": 2, "oneway": True},
            {"cmdid": 0, "id": 3},
            {"cmdid": 77, "id": 4},
        )
        codes = [(each.get("id"), each["code"]) for each in line.replies(4)]
        assert codes == [(2, 429), (None, 429), (3, 0), (4, 404)]
        assert decoded == []
        gate.open()
        assert first.reply()["code"] == 0
        assert line.ask({"cmdid": 2, "params": {"n": 3}})["result"] == 3
        assert decoded == [3]


def test_a_request_whose_deadline_passes_behind_another_is_refused_in_its_turn() -> None:
    commands, gate = gtcp.Commands(), Gate()
    ran = []

    @commands.handler(1)
    def work(request: gtcp.Request) -> int:
        ran.append(request.params["n"])
        if request.params["n"] == 1:
            gate.wait()
        return request.params["n"]

    with serving(commands) as running, running.line() as line:
        line.send(
            {"cmdid": 1, "params": {"n": 1}},
            {"cmdid": 1, "params": {"n": 2}, "timeout": 60000},
            {"cmdid": 1, "params": {"n": 3}, "timeout": 20},
            {"cmdid": 1, "params": {"n": 4}},
        )
        eventually(lambda: gate.waiting)
        time.sleep(0.03)
        gate.open()
        replies = line.replies(4)
        assert [each["code"] for each in replies] == [0, 0, 408, 0]
        assert replies[2]["data"] == {"executed": "no"}
        assert ran == [1, 2, 4]


def test_who_sends_garbage_again_and_again_gets_few_lines_in_the_log(caplog):
    with serving(gtcp.Commands()) as running:
        for _ in range(100):
            with running.line() as line:
                line.send(b"garbage\n")
                assert [each["code"] for each in line.rest()] == [400]
    assert len(caplog.records) < 50


class TestCallsThatEnd:
    """Those about to end do not count as in flight on their connection."""

    def commands(self, begun, clean_up):
        commands = gtcp.Commands()

        @commands.handler(1)
        def cleans_up_slowly(request):
            begun.append(True)
            try:
                gevent.sleep(30)
            finally:
                clean_up()

        @commands.handler(2)
        def naps(request):
            gevent.sleep(0.01)

        return commands

    @pytest.mark.parametrize("late", [True, False])
    def test_when_their_deadline_has_passed_or_they_were_cancelled_in_the_same_breath(self, late):
        limit, begun = 20, []
        commands = self.commands(begun, lambda: gevent.sleep(0.3))
        server = serving(commands, max_in_flight_per_connection=limit)
        with server as running, running.line() as line:
            more = {"timeout": 50} if late else {}
            line.send(*[{"cmdid": 1, "id": n, **more} for n in range(limit)])
            eventually(lambda: len(begun) == limit)
            cancel = {"cmdid": 0, "oneway": True}
            cancels = [{**cancel, "params": {"op": "cancel", "id": n}} for n in range(limit)]
            if late:
                time.sleep(0.06)
                cancels = []
            line.send(*cancels, *[{"cmdid": 2, "id": 100 + n} for n in range(limit)])
            codes = {each["id"]: each["code"] for each in line.replies(2 * limit)}
        assert [codes[100 + n] for n in range(limit)] == [0] * limit
        assert [codes[n] for n in range(limit)] == [408] * limit

    def test_but_count_in_the_process_until_they_have_ended(self):
        gate = Gate()
        commands = self.commands([], gate.wait)
        with serving(commands, max_in_flight=5) as running, running.line() as line:
            line.send(*[{"cmdid": 1, "id": n, "timeout": 50} for n in range(5)])
            eventually(lambda: gate.waiting == 5)
            assert line.ask({"cmdid": 2, "id": 100})["code"] == 429
            gate.open()
