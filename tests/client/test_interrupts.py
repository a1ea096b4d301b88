"""Exceptions that signal handlers raise: the connection is intact or closed, ``executed`` right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import gevent
import pytest

import gtcp
from tests.client.interrupts import SCENARIOS
from tests.helpers import serving

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

#: Seconds for one program on a busy machine.
LONGEST = 300


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    commands, counts = gtcp.Commands(), Counter[str]()

    @commands.handler(1)
    def count(request: gtcp.Request[dict[str, str]]) -> int:
        counts[request.params["token"]] += 1
        return counts[request.params["token"]]

    @commands.handler(2)
    def look(request: gtcp.Request[dict[str, str]]) -> int:
        return counts[request.params["token"]]

    @commands.handler(3)
    def slow(request: gtcp.Request[dict[str, float]]) -> None:
        gevent.sleep(request.params["seconds"])

    with serving(commands) as server:
        yield server.address


def run(name: str, address: str, every: int) -> None:
    program = [sys.executable, "-m", "tests.client.interrupts", name, address, str(every)]
    # Not measured: an exception in the middle of the coverage tool's own code locks it for ever.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=LONGEST, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_exception_at_any_instruction(name: str, address: str) -> None:
    """Each instruction of a plain call; of the others every third, to save time."""
    run(name, address, 1 if name == "call" else 3)


@pytest.mark.parametrize("name", ["signals-one", "signals-five"])
def test_signals_at_random_times(name: str, address: str) -> None:
    """1,000 signals, or 500; by hand it is 10,000 (see ``tests.client.interrupts``)."""
    run(name, address, 10 if name == "signals-one" else 20)
