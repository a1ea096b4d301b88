"""gtcp bench, against real servers: what it counts is what happened."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent
import pytest

import gtcp
from gtcp.cli.load import Load, Plan, Tally
from tests.cli.processes import COMMAND, environment, free_address, only_line, peer, run
from tests.helpers import PATIENCE, Gate, eventually, serving

ECHO, NAP, REFUSE, WAIT = 1, 2, 3, 4


def table(gate: Gate | None = None) -> gtcp.Commands:
    commands = gtcp.Commands()

    @commands.handler(ECHO)
    def echo(request: Any) -> Any:
        return request.params

    @commands.handler(NAP)
    def nap(request: Any) -> None:
        gevent.sleep(request.params["seconds"])

    @commands.handler(REFUSE)
    def refuse(request: Any) -> None:
        raise gtcp.CommandError(1001, "no more\x1b[31m tea")

    @commands.handler(WAIT)
    def wait(request: Any) -> None:
        assert gate is not None
        gate.wait()

    return commands


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(table()) as server:
        yield server.address


def plan(cmdid: int = ECHO, **changes: Any) -> Plan:
    settings = {"params": {}, "concurrency": 3, "seconds": 0.2, "rate": None, **changes}
    return Plan(cmdid=cmdid, **settings)


@contextmanager
def loading(address: str, wanted: Plan, **options: Any) -> Iterator[Load]:
    """A load that runs in a greenlet; it is stopped at the end."""
    with gtcp.Client(address, retries=0, **options) as client:
        load = Load(client, wanted)
        runs = gevent.spawn(load.run)
        gevent.sleep(0)
        try:
            yield load
        finally:
            load.stop()
            runs.join()


def polled(condition: Callable[[], Any]) -> None:
    """Let the load run until the condition holds."""
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.002)


def load(address: str, wanted: Plan, **options: Any) -> Tally:
    with gtcp.Client(address, retries=0, **options) as client:
        return Load(client, wanted).run()


# The closed loop


def test_a_closed_loop_has_so_many_calls_in_flight() -> None:
    gate = Gate()
    wanted = plan(WAIT, concurrency=7, seconds=60)
    with serving(table(gate)) as server, loading(server.address, wanted) as running:
        polled(lambda: gate.waiting == 7)
        assert running.tally.answered == 0
        gate.open()
        polled(lambda: running.tally.answered > 7)


def test_it_counts_the_calls_that_the_server_took() -> None:
    with serving(table()) as server:
        tally = load(server.address, plan())
        assert tally.answered == tally.latency.count == server.server.handled > 0
    assert tally.failed == tally.unsent == 0
    assert tally.per_second == tally.in_time / tally.seconds


def test_calls_begun_in_time_are_waited_for_but_make_no_rate(address: str) -> None:
    tally = load(address, plan(NAP, params={"seconds": 0.3}, seconds=0.1))
    assert (tally.answered, tally.in_time, tally.per_second) == (3, 0, 0.0)
    assert tally.latency.longest >= 0.3


# The open loop


def test_an_open_loop_does_not_wait_for_answers() -> None:
    gate = Gate()
    wanted = plan(WAIT, concurrency=1000, seconds=60, rate=500.0)
    with serving(table(gate)) as server, loading(server.address, wanted) as running:
        polled(lambda: gate.waiting >= 20)
        assert running.tally.answered == 0


def test_an_open_loop_makes_as_many_calls_as_planned(address: str) -> None:
    tally = load(address, plan(concurrency=1000, seconds=0.25, rate=200.0))
    assert tally.answered + tally.unsent == 50
    assert tally.answered > 0


def test_until_a_call_is_due_replies_are_looked_for_again_and_again(address: str) -> None:
    """Calls due every millisecond; with `sleep(0)` the loop would look once every 5 ms."""
    loop = gevent.get_hub().loop

    def looks_often() -> bool:
        before, begun = loop.iteration, monotonic()
        assert load(address, plan(concurrency=1000, seconds=0.2, rate=1000.0)).answered > 0
        return loop.iteration - before > 2 * (monotonic() - begun) / sys.getswitchinterval()

    assert any(looks_often() for _ in range(5))  # other processes may have had the processor


def test_latency_counts_from_the_time_a_call_was_meant_for(address: str) -> None:
    """One at a time, 0.1 s each, though one is due every 0.01 s: the others wait for their turn.

    Counted from when they are sent, all would have taken 0.1 s.
    """
    wanted = plan(NAP, params={"seconds": 0.1}, concurrency=1, seconds=0.5, rate=100.0)
    tally = load(address, wanted)
    assert 1 <= tally.answered <= 6
    assert tally.unsent == 50 - tally.answered
    assert tally.latency.longest >= 0.1 + (tally.answered - 1) * 0.09 - 0.01


# What fails


def test_errors_are_counted_by_kind_with_an_example(address: str) -> None:
    tally = load(address, plan(REFUSE))
    assert tally.answered == 0
    assert tally.errors == {"RemoteError 1001": tally.failed}
    assert tally.examples == {"RemoteError 1001": "no more\x1b[31m tea"}
    assert tally.latency.count == tally.failed > 0


def test_a_call_that_times_out_counts_with_its_time(address: str) -> None:
    tally = load(address, plan(NAP, params={"seconds": 60}, concurrency=1), timeout=0.1)
    assert tally.failed == tally.latency.count > 0
    assert set(tally.errors) <= {"CallTimeout", "RemoteTimeout 408"}
    assert tally.latency.longest >= 0.09


def test_without_a_server_it_does_not_knock_all_the_time() -> None:
    tally = load(free_address(), plan(concurrency=1))
    assert 1 <= tally.errors["ConnectError"] == tally.failed <= 10
    assert tally.latency.count == 0


# The command


def test_it_sums_up_with_percentiles_and_a_histogram(address: str, typed: Any) -> None:
    status, out, err = typed("bench", address, "1", '{"a": 1}', "-c", "2", "-d", "0.5")
    assert (status, err) == (0, "")
    head, rate, latencies, *rows = out.splitlines()
    assert head == f"BENCH {address} cmdid 1: 2 at a time, 1 connection"
    assert rate.split()[1:4] == ["answered", "in", "0.500"]
    assert rate.endswith("/s, 0 failed")
    assert [part.split()[0] for part in latencies.split(", ")] == [
        "p50", "p90", "p99", "p99.9", "max", "mean",
    ]  # fmt: skip
    assert rows
    assert all(row.startswith("<= ") and row.endswith("%") for row in rows)
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_for_programs(address: str, typed: Any) -> None:
    status, out, _ = typed("bench", address, "1", "-d", "0.2", "--rate", "100", "--json")
    told = json.loads(only_line(out))
    assert status == 0
    assert (told["address"], told["cmdid"], told["rate"]) == (address, 1, 100.0)
    assert (told["concurrency"], told["connections"]) == (1000, 1)
    assert told["answered"] + told["not_sent"] == 20
    assert (told["failed"], told["errors"]) == (0, {})
    assert set(told["latency_ms"]) == {"p50", "p90", "p99", "p99.9", "max", "mean"}
    assert sum(row["calls"] for row in told["histogram"]) == told["answered"]
    assert told["seconds"] == pytest.approx(0.2, abs=0.01)


def test_every_call_has_the_params_and_no_other_connections_are_opened() -> None:
    seen: set[str] = set()
    commands = gtcp.Commands()

    @commands.handler(1)
    def look(request: Any) -> None:
        assert request.params == {"a": 1}
        seen.add(request.address)

    with serving(commands) as server:
        flags = ["-c", "8", "-d", "0.3", "--connections", "3"]
        ended = run("bench", server.address, "1", '{"a": 1}', *flags)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0].endswith(": 8 at a time, 3 connections")
    assert len(seen) == 3


def test_as_many_connections_are_opened_as_are_asked_for(address: str, typed: Any) -> None:
    _, out, _ = typed("bench", address, "1", "-d", "0.1", "--connections", "300", "--json")
    assert json.loads(out)["connections"] == 300


@pytest.mark.cover_programs
def test_where_fewer_can_be_opened_it_says_so_and_measures_nothing() -> None:
    with serving(table(), max_connections=5) as server:
        ended = run("bench", server.address, "1", "-d", "600", "--connections", "50")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "connections" in only_line(ended.stderr)


def test_a_failed_call_is_status_1_and_shown_harmless(address: str, typed: Any) -> None:
    status, out, err = typed("bench", address, "3", "-d", "0.1")
    assert (status, err) == (1, "")
    lines = out.splitlines()
    failed = lines[1].split()[-2]
    assert lines[1].startswith("0 answered in 0.1")
    assert lines[2] == f"  {failed} RemoteError 1001: no more\\x1b[31m tea"


def test_what_was_not_sent_is_told(address: str, typed: Any) -> None:
    flags = ["-c", "1", "-r", "100", "-d", "0.3"]
    _, out, _ = typed("bench", address, "2", '{"seconds": 0.1}', *flags)
    line = next(each for each in out.splitlines() if "not sent" in each)
    assert int(line.split()[0]) >= 26
    assert line.endswith(" not sent: the rate was too high for 1 at a time")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a gtcp server"),
        (b'{"code":401,"message":"a secret is asked for"}\n', "error: 401 a secret is asked for"),
    ],
)
def test_a_server_that_refuses_gets_no_load(said: bytes, shown: str, refused: Any) -> None:
    with peer(said) as (where, _):
        assert shown in refused(1, "bench", where, "1", "-d", "600")


class Unharmed:
    """A greenlet that is killed only after it has run once more."""

    def kill(self, block: bool) -> None:
        assert not block


def test_no_call_is_started_after_a_stop() -> None:
    gate = Gate()
    with serving(table(gate)) as server, gtcp.Client(server.address) as client:
        load = Load(client, plan(WAIT, concurrency=50, seconds=600, rate=200))
        running = gevent.spawn(load.run)
        eventually(lambda: gevent.sleep(0.01) or gate.waiting >= 5)
        load._director = Unharmed()
        load.stop()
        assert running.get(timeout=PATIENCE).abandoned >= 5


@pytest.mark.parametrize("rate", [[], ["--rate", "200"]])
@pytest.mark.parametrize("answered", [True, False])
def test_interrupted_it_sums_up(answered: bool, rate: list[str]) -> None:
    """While calls are answered, and while all wait: calls in flight are counted as abandoned."""
    gate = Gate()
    with serving(table(gate)) as server:
        command = [*COMMAND, "bench", server.address, "1" if answered else "4", "-d", "600", *rate]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        eventually(lambda: server.server.handled > 150 if answered else gate.waiting >= 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    count = int(out.splitlines()[1].split()[0])
    assert (count > 0) is answered
    assert ", 0 failed" in out
    abandoned = re.search(r"^(\d+) abandoned in flight, when the run was interrupted$", out, re.M)
    if not answered:
        assert abandoned is not None
        assert int(abandoned[1]) >= (5 if rate else 10)
    assert process.returncode == (0 if answered else 1)


def test_interrupted_it_counts_each_call_once() -> None:
    """Answered, failed or abandoned: together all calls that the server got."""
    gate = Gate()
    with serving(table(gate)) as server, loading(server.address, plan(WAIT, seconds=60)) as running:
        polled(lambda: gate.waiting == 3)
        running.stop()
        polled(lambda: running.tally.abandoned == 3)
        assert (running.tally.answered, running.tally.failed) == (0, 0)
        gate.open()


def test_a_rate_of_zero_is_explained(address: str, typed: Any) -> None:
    flags = ["-c", "2", "-d", "0.1"]
    status, out, _ = typed("bench", address, "2", '{"seconds": 0.3}', *flags)
    assert status == 0
    assert "2 answered in 0.100 s, 0.0/s, 0 failed" in out
    explained = "0.0/s: all calls ended after the 0.1 s of --duration; a longer one gives a rate"
    assert explained in out.splitlines()
    _, out, _ = typed("bench", address, "2", '{"seconds": 0.3}', *flags, "--json")
    told = json.loads(out)
    assert (told["answered"], told["answered_in_time"], told["abandoned"]) == (2, 0, 0)
    _, out, _ = typed("bench", address, "1", "-d", "0.5")
    assert "--duration" not in out
    assert "abandoned" not in out


@pytest.mark.cover_programs
def test_a_terminal_is_shown_how_it_goes() -> None:
    leader, follower = pty.openpty()
    with serving(table()) as server:
        process = subprocess.Popen(
            [*COMMAND, "bench", server.address, "1", "-d", "600"],
            stdout=subprocess.PIPE,
            stderr=follower,
            env=environment(),
        )
        os.close(follower)
        shown = b""
        while shown.count(b"failed") < 2:
            shown += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    os.close(leader)
    line = shown.decode().split("\r\x1b[K")[1]
    assert " of 600 s: " in line
    assert line.endswith(", 0 failed")
    assert out.startswith(b"BENCH ")
    assert b"\r" not in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rate", "0"], "expected more than 0 and at most a million, got 0.0"),
        (["--rate", "nan"], "expected more than 0"),
        (["--rate", "fast"], "'fast'"),
        (["--concurrency", "0"], "expected a whole number from 1 to 100000, got '0'"),
        (["--concurrency", "1000000"], "expected a whole number from 1 to 100000"),
        (["--connections", "many"], "expected a whole number from 1 to 10000, got 'many'"),
        (["--duration", "0"], "expected seconds > 0"),
        (["--timeout", "-1"], "expected seconds > 0"),
        (["{"], "PARAMS: not JSON"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags: list[str], says: str, refused: Any) -> None:
    assert says in refused(2, "bench", "127.0.0.1:1", "1", *flags)
