"""The programs of docs/how-to/databases.md: cancelled requests, and a restart of the database."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import Served, run, served
from tests.doc_blocks import file_of
from tests.helpers import Line, eventually, free_port
from tests.recipes.postgres import INSTALLED, Postgres, postgres

PACKAGES = {
    "with_sqlalchemy": "sqlalchemy",
    "with_django": "django",
    "with_psycopg": "psycopg_pool",
}

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs psycopg"),
    pytest.mark.xdist_group("postgres"),
]

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "databases.md"

ADD, NAMES, BY_HAND = 1, 2, 3


def program(name: str) -> str:
    """Return a program of the document."""
    return file_of(DOCUMENT, f"{name}.py")


def without_request_hooks(source: str) -> str:
    found = re.subn(r"^@server\.(before|after)_request\n", "", source, flags=re.MULTILINE)
    assert found[1]
    return found[0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    with postgres() as one:
        yield one


@pytest.fixture
def database(cluster: Postgres) -> Postgres:
    cluster.execute("DROP TABLE IF EXISTS items")
    cluster.execute("CREATE TABLE items (name text)")
    return cluster


Start = Callable[..., Served]


def environment(name: str, database: Postgres) -> dict[str, str]:
    url = database.url
    if name == "with_sqlalchemy":
        url = url.replace("postgresql:", "postgresql+psycopg:")
    return {"DATABASE_URL": url, "PGPORT": str(database.port)}


@pytest.fixture
def start(tmp_path: Path, database: Postgres) -> Iterator[Start]:
    """Start a program of the document; ``change`` makes another of its source."""
    with ExitStack() as stack:

        def start(name: str, change: Callable[[str], str] = lambda source: source) -> Served:
            pytest.importorskip(PACKAGES[name])
            (tmp_path / f"{name}.py").write_text(change(program(name)))
            env = environment(name, database)
            return stack.enter_context(served(tmp_path, name, "--bind", "127.0.0.1:0", env=env))

        yield start


@pytest.fixture(params=PACKAGES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(line: Line, cmdid: int, timeout: int = 20_000, **params: Any) -> dict[str, Any]:
    reply: dict[str, Any] = line.ask({"cmdid": cmdid, "params": params, "timeout": timeout})
    return reply


def cancelled(database: Postgres, line: Line, cmdid: int, name: str) -> None:
    """Make a call, and cancel it while its transaction is open."""
    line.send({"cmdid": cmdid, "id": name, "params": {"name": name, "seconds": 60}})
    inserted = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in%' AND query LIKE 'INSERT%'"
    eventually(lambda: database.execute(inserted))
    line.send({"cmdid": 0, "params": {"op": "cancel", "id": name}, "oneway": True})
    assert line.reply()["code"] == 408


def names(database: Postgres) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM items ORDER BY name")]


def test_what_a_cancelled_request_has_begun_is_not_committed_by_the_next(
    name: str, start: Start, database: Postgres
) -> None:
    with Line(start(name).address) as line:
        assert ask(line, ADD, name="first")["code"] == 0
        cancelled(database, line, ADD, "cancelled")
        assert ask(line, ADD, name="second")["code"] == 0
        assert ask(line, NAMES)["result"] == ["first", "second"]
    assert names(database) == ["first", "second"]


def test_a_restart_of_the_database_costs_no_later_request(
    name: str, start: Start, database: Postgres
) -> None:
    with Line(start(name).address) as line:
        assert ask(line, ADD, name="before")["code"] == 0
        database.restart()
        assert ask(line, NAMES)["result"] == ["before"]
        database.restart()
        assert ask(line, ADD, name="after")["code"] == 0
        assert ask(line, NAMES)["result"] == ["after", "before"]


def test_requests_that_fail_while_the_database_is_down_leave_nothing_broken(
    name: str, start: Start, database: Postgres
) -> None:
    with Line(start(name).address) as line:
        assert ask(line, ADD, name="before")["code"] == 0
        database.stop()
        try:
            codes = [ask(line, ADD, timeout=1000, name="lost")["code"] for _ in range(2)]
        finally:
            database.start()
        assert set(codes) <= {500, 408}
        eventually(lambda: ask(line, ADD, name="after")["code"] == 0)
        assert ask(line, NAMES)["result"] == ["after", "before"]


def test_many_cancelled_requests_leave_connections_for_the_others(
    name: str, start: Start, database: Postgres
) -> None:
    """More than the pool has: some are cancelled while they wait for a connection."""
    with Line(start(name).address) as line:
        for n in range(3):
            params = {"name": "cancelled", "seconds": 60}
            line.send(
                *[
                    {"cmdid": ADD, "id": f"{n}, {m}", "params": params, "timeout": 300}
                    for m in range(8)
                ]
            )
            assert {reply["code"] for reply in line.replies(8)} == {408}
        assert ask(line, ADD, name="after")["code"] == 0
        assert ask(line, NAMES)["result"] == ["after"]


def test_a_drain_closes_the_connections(name: str, start: Start, database: Postgres) -> None:
    one = start(name)
    with Line(one.address) as line:
        assert ask(line, ADD, name="first")["code"] == 0
    one.end()
    others = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
    eventually(lambda: len(database.execute(others)) == 1)  # the one that asks


class TestWithoutTheHooks:
    """The reasons for the recipes. (If one of these fails, a recipe has become unnecessary.)"""

    def test_sqlalchemy_commits_what_a_cancelled_request_has_begun(
        self, start: Start, database: Postgres
    ) -> None:
        with Line(start("with_sqlalchemy", without_request_hooks).address) as line:
            cancelled(database, line, ADD, "cancelled")
            assert ask(line, ADD, name="second")["code"] == 0
        assert names(database) == ["cancelled", "second"]

    def test_djangos_connection_stays_in_a_transaction_opened_by_hand(
        self, start: Start, database: Postgres
    ) -> None:
        with Line(start("with_django", without_request_hooks).address) as line:
            cancelled(database, line, BY_HAND, "cancelled")
            assert ask(line, ADD, name="second")["code"] == 0
            assert ask(line, NAMES)["result"] == ["cancelled", "second"]
            assert names(database) == []  # though the caller got a success

    def test_djangos_connection_stays_broken_after_a_restart(
        self, start: Start, database: Postgres
    ) -> None:
        with Line(start("with_django", without_request_hooks).address) as line:
            assert ask(line, ADD, name="before")["code"] == 0
            database.restart()
            assert [ask(line, NAMES)["code"] for _ in range(3)] == [500, 500, 500]

    def test_psycopgs_pool_loses_connections_that_cancelled_requests_wait_for(
        self, start: Start, database: Postgres
    ) -> None:
        def change(source: str) -> str:
            assert source.count("with database()") == 2
            return source.replace("with database()", "with pool.connection(timeout=1)")

        with Line(start("with_psycopg", change).address) as line:
            params = {"name": "cancelled", "seconds": 60}
            line.send(
                *[{"cmdid": ADD, "id": n, "params": params, "timeout": 300} for n in range(8)]
            )
            line.replies(8)
            codes = [ask(line, ADD, name="after")["code"] for _ in range(4)]
        assert 500 in codes  # PoolTimeout


def test_a_transaction_opened_by_hand_ends_with_its_request(
    start: Start, database: Postgres
) -> None:
    with Line(start("with_django").address) as line:
        cancelled(database, line, BY_HAND, "cancelled")
        assert ask(line, ADD, name="second")["code"] == 0
        assert names(database) == ["second"]
        assert ask(line, BY_HAND, name="third")["code"] == 0
    assert names(database) == ["second", "third"]


def test_without_a_database_the_pool_s_server_does_not_start(tmp_path: Path) -> None:
    pytest.importorskip("psycopg_pool")
    source = program("with_psycopg").replace("timeout=5", "timeout=0.5")
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    (tmp_path / "app.py").write_text(source.replace('os.environ["DATABASE_URL"]', repr(url)))
    ended = run("serve", "app", "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: on_start open_pool failed: PoolTimeout: ")
