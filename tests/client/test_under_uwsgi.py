"""A client that was used before uWSGI forked its workers, in C, without Python's fork hooks."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import gtcp
from tests.helpers import PATIENCE, free_port, serving
from tests.libraries.programs import running

pytestmark = pytest.mark.programs

UWSGI = Path(sys.executable).with_name("uwsgi")

APPLICATION = """
import json
import os

import gtcp

client = gtcp.Client({address!r})
client.call(1, {{"from": "the master"}})


def application(environ, start_response):
    question = {{"path": environ["PATH_INFO"], "pid": os.getpid()}}
    reply = client.call(1, question, timeout=10)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([question, reply]).encode()]
"""


@pytest.fixture(params=[[], ["--enable-threads", "--threads", "4"], ["--lazy-apps"]])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    commands = gtcp.Commands()

    @commands.handler(1)
    def echo(request: gtcp.Request) -> Any:
        gevent.sleep(0.002)
        return request.params

    if not UWSGI.exists():
        pytest.skip("uwsgi is not installed")
    port = free_port()
    with serving(commands) as server:
        (tmp_path / "app.py").write_text(APPLICATION.format(address=server.address))
        command = [
            str(UWSGI),
            *["--http-socket", f"127.0.0.1:{port}", "--wsgi-file", "app.py"],
            *["--master", "--processes", "3", "--need-app", "--no-orphans", *request.param],
        ]
        with running(command, port, tmp_path):
            yield port


def test_each_worker_gets_its_own_replies(port: int) -> None:
    pids: set[int] = set()
    wrong: list[Any] = []

    def ask(name: str) -> None:
        for n in range(40):
            url = f"http://127.0.0.1:{port}/{name}/{n}"
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                question, reply = json.load(response)
            pids.add(question["pid"])
            if question != reply or question["path"] != f"/{name}/{n}":
                wrong.append((question, reply))

    threads = [threading.Thread(target=ask, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong
    assert len(pids) == 3
