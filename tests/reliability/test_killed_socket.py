"""A connection that the kernel ends: ``ss -K``, by the client's port."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import gtcp
from tests.client.fakes import outcome, soon
from tests.helpers import serving

SLOW, ECHO = 1, 2


def can_kill() -> bool:
    """Whether ``ss`` is there, we may use it so, and the kernel can do it."""
    if shutil.which("ss") is None:
        return False
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        sock.settimeout(1)
        kill(sock.getsockname()[1])
        try:
            return sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def kill(port: int) -> None:
    subprocess.run(["ss", "-K", "sport", f"= :{port}"], capture_output=True, check=False)


pytestmark = pytest.mark.skipif(not can_kill(), reason="needs root, and a kernel with ss -K")


@pytest.fixture
def running() -> Iterator[Any]:
    commands = gtcp.Commands()
    commands.handler(SLOW)(lambda request: gevent.sleep(30))
    commands.handler(ECHO)(lambda request: request.params)
    with serving(commands) as running:
        yield running


def only(running: Any) -> Any:
    (connection,) = running.server.connections
    return connection


def test_a_call_in_flight_is_lost_as_maybe_and_the_next_one_works(running: Any) -> None:
    with gtcp.Client(running.address) as client:
        client.call(ECHO)
        call = gevent.spawn(outcome, client.call, SLOW, timeout=20)
        soon(lambda: only(running).in_flight)
        kill(int(only(running).address.rpartition(":")[2]))
        error = call.get(timeout=10)
        assert type(error) is gtcp.ConnectionLost
        assert error.executed == "maybe"
        assert client.call(ECHO, {"n": 1}, timeout=1) == {"n": 1}


def test_an_idle_connection_costs_no_call(running: Any) -> None:
    with gtcp.Client(running.address) as client:
        for number in range(3):
            client.call(ECHO)
            kill(int(only(running).address.rpartition(":")[2]))
            assert client.call(ECHO, {"n": number}, timeout=5) == {"n": number}
            soon(lambda: len(running.server.connections) == 1)
