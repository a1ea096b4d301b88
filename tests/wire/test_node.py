"""A client in another language that reads streams: Node.js, from docs/wire.md alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import gtcp
from tests.helpers import PATIENCE, eventually, serving

pytestmark = pytest.mark.programs

SCRIPT = Path(__file__).with_name("stream.js")


def test_node_reads_streams() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    commands, closed = gtcp.Commands(), []

    @commands.handler(1)
    def rows(request: gtcp.Request) -> Iterator[dict[str, int]]:
        try:
            for n in range(request.params["n"]):
                yield {"n": n}
        finally:
            closed.append(request.params["n"])

    @commands.handler(2)
    def echo(request: gtcp.Request) -> dict[str, Any]:
        return request.params

    @commands.handler(3)
    def stopped(request: gtcp.Request) -> bool:
        while 10**9 not in closed:
            gevent.sleep(0.002)
        return True

    @commands.handler(4)
    def fails(request: gtcp.Request) -> Iterator[int]:
        yield from range(3)
        raise gtcp.CommandError(1000, "no more")

    with serving(commands) as running:
        host, port = running.address.split(":")
        done = subprocess.run(
            [node, str(SCRIPT), host, port], capture_output=True, text=True, timeout=PATIENCE
        )
        eventually(lambda: not running.server.connections)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    most = told["all"].pop("most")
    assert 0 < most <= 16
    assert told == {
        "all": {"count": 5000, "sum": sum(range(5000))},
        "calls": [1 + 500 * n for n in range(10)],
        "stopped": True,
        "error": {"items": [0, 1, 2], "code": 1000, "message": "no more"},
        "refused": [405, 405],
    }
