"""Restarts as they are done in operation: by supervisord, behind HAProxy, again and again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gtcp
from tests.helpers import eventually, free_port
from tests.server.services import PID, Load, Service, Waiting, call, refused, write_app

pytestmark = pytest.mark.programs

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

ROLLING_RESTARTS = int(os.environ.get("ROLLING_RESTARTS", "3"))

SUPERVISORD = """
[unix_http_server]
file={folder}/control
[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/control
[program:shop]
command={python} -m gtcp serve app --workers 2 --bind 127.0.0.1:{port}
directory={folder}
stopsignal=TERM
stopwaitsecs=40
killasgroup=true
redirect_stderr=true
stdout_logfile={folder}/shop.log
"""

BALANCER = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch 1
listen gtcp
    bind fd@{fd}
    balance roundrobin
    server one {one}
    server two {two}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the application is."""
    folder = tmp_path / "app"
    folder.mkdir()
    write_app(folder)
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def answers(address: str) -> bool:
    try:
        return bool(call(address, PID))
    except gtcp.ConnectError:
        return False


def test_supervisorctl_restart(folder: Path, stack: ExitStack, tmp_path: Path) -> None:
    pytest.importorskip("supervisor", reason="supervisor is not installed")
    where = f"127.0.0.1:{(port := free_port())}"
    configuration = folder / "supervisord.conf"
    configuration.write_text(SUPERVISORD.format(folder=folder, port=port, python=sys.executable))

    def command(name: str, *arguments: str) -> list[str]:
        module = f"import sys; from supervisor.{name} import main; main()"
        return [sys.executable, "-W", "ignore", "-c", module, "-c", str(configuration), *arguments]

    output = stack.enter_context((tmp_path / "output").open("wb"))
    supervisord = subprocess.Popen(
        command("supervisord"), cwd=folder, stdout=output, stderr=output, start_new_session=True
    )
    stack.callback(end, supervisord)
    eventually(lambda: answers(where))
    waiting = Waiting(where, tmp_path / "call")
    load = Load(where, folder)
    load.goes_on()
    restart = subprocess.Popen(
        command("supervisorctl", "restart", "shop"), stdout=output, stderr=output
    )
    eventually(lambda: refused(where))
    assert waiting.let_go() == "done"
    assert restart.wait() == 0
    eventually(lambda: answers(where))
    load.goes_on()
    load.end()
    assert set(load.told) <= {"no"}, load.problems
    assert load.runs == dict.fromkeys(load.finished, 1)


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_one_of_two_servers_behind_haproxy_stops(
    folder: Path, stack: ExitStack, tmp_path: Path
) -> None:
    services = []
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir()
        write_app(home)
        services.append(Service("serve", home))
        stack.callback(services[-1].kill)
    one, two = (each.where for each in services)
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    file = tmp_path / "haproxy.cfg"
    file.write_text(BALANCER.format(fd=listener.fileno(), one=one, two=two))
    assert HAPROXY is not None
    log = stack.enter_context((tmp_path / "haproxy.log").open("wb"))
    proxy = subprocess.Popen(
        [HAPROXY, "-db", "-f", str(file)], stdout=log, stderr=log, pass_fds=[listener.fileno()]
    )
    stack.callback(end, proxy)
    where = f"127.0.0.1:{listener.getsockname()[1]}"
    load = Load(where, folder, threads=8, clients=8)
    eventually(lambda: len(set(load.pids)) == 4)
    # Not through the proxy: to know which of the two it is in flight on.
    waiting = Waiting(one, tmp_path / "call")
    services[0].send(signal.SIGTERM)
    eventually(lambda: refused(one))
    load.pids.clear()
    load.goes_on(200)
    for _ in range(20):
        assert call(where, PID) in services[1].children
    assert waiting.let_go() == "done"
    assert services[0].end() == 0
    load.goes_on()
    load.end()
    assert load.problems == []
    assert load.runs == dict.fromkeys(load.finished, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gunicorn", "serve"])
def test_rolling_restarts_lose_nothing_and_leave_the_load_even(
    folder: Path, stack: ExitStack, kind: str
) -> None:
    write_app(folder, before="time.sleep(1)")
    service = Service(kind, folder)
    stack.callback(service.kill)
    load = Load(service.where, folder, threads=16, clients=16)
    for _ in range(ROLLING_RESTARTS):
        load.goes_on()
        service.replace()
    for _ in range(3):  # on a busy machine, a worker may not get to accept in time
        load.goes_on()
        load.pids.clear()
        load.goes_on(1000)
        counted = Counter(load.pids)
        if max(counted.values()) < 1.5 * sum(counted.values()) / service.count:
            break
        service.replace()
    else:
        pytest.fail(f"calls of the workers after three more reloads: {counted}")
    load.end()
    assert load.problems == []
    assert load.runs == dict.fromkeys(load.finished, 1)
