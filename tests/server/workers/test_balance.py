"""Connections are spread over the workers, also over those that start later."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gtcp
from tests.helpers import Gate, Line, eventually, serving
from tests.server.services import Load, Service, Start, pids

pytestmark = [pytest.mark.programs, pytest.mark.untraced]

GOING_AWAY = {"code": 503, "message": "going away"}


@pytest.fixture(params=["gunicorn", "serve"])
def start(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Start the service with two workers, and GTCP_... as keywords."""
    with ExitStack() as stack:

        def start(**env: str) -> Service:
            for name, value in env.items():
                monkeypatch.setenv(f"GTCP_{name.upper()}", value)
            service = Service(request.param, folder)
            stack.callback(service.kill)
            return service

        yield start


def shares(load: Load, service: Service, calls: int = 600) -> list[float]:
    """Return each worker's share of the next calls, times the number of workers."""
    load.pids.clear()
    before = len(load.finished)
    eventually(lambda: len(load.finished) >= before + calls)
    counted = Counter(load.pids)
    total, workers = sum(counted.values()), service.children
    return [counted[each] / total * len(workers) for each in workers]


class TestBalance:
    def test_connections_are_even_from_the_start(self, start: Start) -> None:
        service = start()
        assert sorted(pids(service.where, 32).values()) == pytest.approx([16, 16], abs=2)

    def test_busy_clients_are_spread_over_the_workers_of_a_reload(
        self, start: Start, folder: Path
    ) -> None:
        service = start()
        load = Load(service.where, folder, threads=32, clients=32)
        load.goes_on()
        for _ in range(3):  # on a busy machine, a worker may not get to accept in time
            service.replace()
            load.goes_on(200)
            if max(found := shares(load, service)) < 1.5:
                break
        else:
            pytest.fail(f"shares of the workers after three reloads: {found}")
        load.end()
        assert load.problems == []

    @pytest.mark.parametrize("how", ["TTIN", "crash"])
    def test_a_worker_that_starts_later_gets_its_share(
        self, start: Start, folder: Path, how: str
    ) -> None:
        service = start(max_connection_age="2")
        where = service.where
        load = Load(where, folder, threads=32, clients=32)
        load.goes_on()
        old = service.children
        if how == "TTIN":
            service.send(signal.SIGTTIN)
            service.until(lambda: len(service.children) == 3)
        else:
            os.kill(min(old), signal.SIGKILL)
            service.until(lambda: min(old) not in service.children)
            load.told.clear()  # calls in flight in the killed one
        service.until(lambda: set(load.pids) - old)
        eventually(lambda: max(shares(load, service)) < 1.5 > 0.5 < min(shares(load, service)))
        load.end()
        lost = [each for each in load.problems if how == "TTIN" or not each.startswith("maybe")]
        assert lost == []


class TestAge:
    def test_a_client_with_ids_never_notices(self) -> None:
        table = gtcp.Commands()
        table.handler(1)(lambda _: "done")
        with (
            serving(table, max_connection_age=0.5) as server,
            gtcp.Client(server.address, retries=3) as client,
        ):

            def reconnected() -> bool:
                assert client.call(1) == "done"
                return client.stats()["opened"] >= 3

            eventually(reconnected)

    def test_the_call_in_flight_is_answered_before_the_goodbye(self) -> None:
        table, gate = gtcp.Commands(), Gate()

        @table.handler(1)
        def wait(_: gtcp.Request) -> str:
            gate.wait()
            return "done"

        with serving(table, max_connection_age=0.5) as server, server.line() as line:
            line.send({"cmdid": 1, "id": 7})
            (connection,) = eventually(lambda: list(server.server.connections))
            eventually(lambda: connection.leaving)
            gate.open()
            assert line.rest() == [{"id": 7, "code": 0, "result": "done"}, GOING_AWAY]

    def test_a_client_without_ids_is_not_closed(self) -> None:
        table = gtcp.Commands()
        table.handler(1)(lambda _: "done")
        done = {"code": 0, "result": "done"}
        with (
            serving(table, max_connection_age=0.5) as server,
            server.line() as old,
            server.line() as first,
            server.line() as second,
        ):
            assert old.ask({"cmdid": 1}) == done
            for line in (first, second):
                eventually(lambda line=line: line.ask({"cmdid": 1, "id": 1}) == GOING_AWAY)
            assert old.ask({"cmdid": 1}) == done

    def test_none_is_no_limit(self) -> None:
        table = gtcp.Commands()
        table.handler(1)(lambda _: "done")
        settings = gtcp.Settings(max_connection_age=None, idle_timeout=None)
        assert settings.lifetime is None
        with serving(table, max_connection_age=None) as server, Line(server.address) as line:
            assert line.ask({"cmdid": 1, "id": 1})["code"] == 0
