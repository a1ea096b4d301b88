"""Many peers, or endless data from one: the cost, and other callers meanwhile."""

from __future__ import annotations

import os
import re
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import gtcp
from gtcp.server.connections.context import MAX_REFUSED
from tests.helpers import PATIENCE, Line, eventually, process, serving

PROC = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")

PING = {"cmdid": 0}

#: A server in a process of its own, which may have so many files open.
PROGRAM = """
import resource, gevent, gtcp
from gtcp.server.ops import log_setup
log_setup.configure()
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
server = gtcp.Server(gtcp.Settings(port=0))
server.handler(1)(lambda request: request.params)
server.start()
print(server.addresses[0], flush=True)
gevent.sleep(1000)
"""


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def many_files() -> Iterator[int]:
    """Raise the limit of descriptors to its maximum, and yield it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield files
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@PROC
def test_out_of_descriptors_under_load(tmp_path: Path) -> None:
    """Connected peers are served, nothing spins, few lines are logged, and it ends by itself."""
    log = tmp_path / "stderr"

    def lines() -> int:
        return log.read_text().count("can't accept connections for now: Too many open files")

    with process(PROGRAM.format(files=64), tmp_path) as (child, address), ExitStack() as stack:
        line = stack.enter_context(Line(address))
        assert line.ask(PING)["result"] == "pong"
        others = [stack.enter_context(Line(address)) for _ in range(100)]
        eventually(lines)
        before, start, logged = cpu_seconds(child.pid), time.monotonic(), lines()
        for number in range(30):
            assert line.ask({"cmdid": 1, "params": {"n": number}})["result"] == {"n": number}
            time.sleep(0.02)  # not to wait for anything, but for harm to be done
        took = time.monotonic() - start
        # It tries twice a second. Spinning, it would compute all the time.
        assert lines() - logged <= took * 2 + 1
        assert cpu_seconds(child.pid) - before < max(0.2, took / 4)
        assert len(log.read_text().splitlines()) == lines()
        for each in others[:60]:
            each.close()
        for each in others[60:]:
            assert each.ask(PING)["result"] == "pong"
        logged = lines()
        with Line(address) as late:
            assert late.ask(PING)["result"] == "pong"
        assert lines() == logged


def test_slow_senders_are_cut_while_a_caller_is_served() -> None:
    commands = gtcp.Commands()
    commands.handler(1)(lambda request: request.params["n"])
    server = serving(commands, line_timeout=0.5)
    with server as running, ExitStack() as stack:
        caller = stack.enter_context(running.line())
        slow = [stack.enter_context(running.line()) for _ in range(50)]
        told: set[Line] = set()

        def all_are_told() -> bool:
            for each in set(slow) - told:
                if select.select([each.sock], [], [], 0)[0]:
                    told.add(each)
                else:
                    each.send(b"{")
            number = len(told)
            assert caller.ask({"cmdid": 1, "params": {"n": number}})["result"] == number
            return number == len(slow)

        eventually(all_are_told)
        for each in slow:
            assert each.reply() == {"code": 400, "message": "the line was not finished in time"}
            assert each.at_end()
            each.close()
        eventually(lambda: len(running.server.connections) == 1)


def test_a_peer_that_connects_without_end_is_refused_and_the_others_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(gtcp.Commands(), max_connections=20) as running, ExitStack() as stack:
        caller = stack.enter_context(running.line())
        assert caller.ask(PING)["code"] == 0
        greedy = []
        for _ in range(400):
            greedy.append(stack.enter_context(running.line()))
            if len(greedy) % 20 == 0:
                assert caller.ask(PING)["code"] == 0
        eventually(lambda: len(running.server.connections) <= 20 + 100)
        for each in greedy[:19]:
            assert each.ask(PING)["code"] == 0
        refused = [each.rest() for each in greedy[19:]]
        too_many = [{"code": 429, "message": "too many connections"}]
        assert refused.count(too_many) >= 100
        assert refused.count(too_many) + refused.count([]) == len(refused)
        for each in greedy:
            each.close()
        eventually(lambda: len(running.server.connections) == 1)
        with running.line() as late:
            assert late.ask(PING)["code"] == 0
        assert caller.ask(PING)["code"] == 0
    assert "too many connections" in caplog.text
    # Ten a second, and a line for the rest.
    assert len(caplog.records) < 100


def test_strangers_of_other_networks_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    """They are refused without being counted, however many linger at a time."""
    settings = {"max_connections": 3, "allow_networks": ("127.0.0.2/32",)}
    with serving(gtcp.Commands(), **settings) as running, ExitStack() as stack:

        def known() -> Line:
            return stack.enter_context(running.line(source="127.0.0.2"))

        strangers = []
        for number in range(400):
            strangers.append(stack.enter_context(running.line()))
            if number % 150 == 149:
                assert known().ask(PING)["result"] == "pong"
        context = running.server._context
        assert context is not None
        assert len(context.refused) <= MAX_REFUSED
        assert context.admitted == 2
        last = known()
        assert last.ask(PING)["result"] == "pong"
        refusal = {"code": 403, "message": "not allowed to connect from this network"}
        assert [each.rest() for each in strangers] == [[refusal]] * len(strangers)
        for each in strangers:
            each.close()
        eventually(lambda: len(running.server.connections) == 3)
        assert known().reply()["code"] == 429  # the limit is for those that are admitted
    assert len(caplog.records) < 100


def test_those_that_fail_to_prove_a_secret_keep_nobody_out() -> None:
    server = gtcp.Server(gtcp.Settings(port=0, max_connections=3), secret="s" * 32)
    with serving(server) as running, ExitStack() as stack:
        for number in range(300):
            line = stack.enter_context(running.line())
            line.send(PING)  # it is no proof
            if number % 50 == 49:
                with gtcp.Client(running.address, secret="s" * 32) as client:
                    assert client.call(0) == "pong"
        context = running.server._context
        assert context is not None
        assert len(context.refused) <= MAX_REFUSED


@PROC
def test_ten_thousand_slow_senders_cost_what_they_have_sent(tmp_path: Path) -> None:
    with many_files() as files, ExitStack() as stack:
        count, size = min(9_900, files - 500), 1000
        where = process(PROGRAM.format(files=files), tmp_path)
        child, address = stack.enter_context(where)
        caller = stack.enter_context(Line(address))
        assert caller.ask(PING)["code"] == 0
        before = memory_of(child.pid)
        host, port = address.rsplit(":", 1)
        for _ in range(count):
            sock = socket.create_connection((host, int(port)), timeout=PATIENCE)
            stack.callback(sock.close)
            sock.sendall(b"x" * size)
        assert caller.ask(PING)["code"] == 0
        # The line so far, some kilobytes for each connection, and what the allocator keeps.
        assert memory_of(child.pid) - before < count * (size + 16_000)


@PROC
def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    with process(PROGRAM.format(files=256), tmp_path) as (child, address):
        with Line(address) as endless, Line(address) as caller:
            assert caller.ask(PING)["code"] == 0
            before, most = memory_of(child.pid), 0
            for _ in range(100):
                endless.send(b"x" * 1_000_000)
                most = max(most, memory_of(child.pid))
            assert [each["code"] for each in endless.rest()] == [413]
            assert caller.ask(PING)["code"] == 0
        assert most - before < 20_000_000
