"""Certificates, secrets and exposure under gunicorn, and in `gtcp serve`."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import gtcp
from tests.edge.certificates import Authority
from tests.helpers import eventually
from tests.server.workers.gunicorn_process import GUNICORN, Supervised

pytestmark = pytest.mark.programs

APP = """
import os
import gtcp

server = gtcp.Server()


@server.handler(1)
def pid(request):
    return os.getpid()
"""

SECRET = "billing.1:" + "s" * 32

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start python with these arguments beside `app.py`, with GTCP_... as keywords."""
    (tmp_path / "app.py").write_text(APP)
    with ExitStack() as stack:

        def start(*arguments: str, **env: str) -> Supervised:
            variables = {f"GTCP_{name.upper()}": value for name, value in env.items()}
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                one = Supervised(tmp_path / "output", *arguments, cwd=tmp_path)
            stack.callback(one.kill)
            return one

        yield start


def address(running: Supervised) -> str:
    """Where `gtcp serve` listens."""
    running.wait_for("gtcp: listening on 127.0.0.1:")
    found = re.search(r"listening on 127.0.0.1:(\d+)", running.log)
    assert found is not None
    return f"tls://localhost:{found[1]}"


SERVE = ("-m", "gtcp", "serve", "app", "--bind", "127.0.0.1:0")


class TestExposure:
    MESSAGE = "other hosts can reach 0.0.0.0:"

    def test_gunicorn_says_so_once_and_stops(self, start: Start) -> None:
        master = start(*GUNICORN, "-b", "0.0.0.0:0", "app:server")
        assert master.end() == 4  # gunicorn's "App failed to load"
        assert self.MESSAGE in master.log
        assert "set insecure (GTCP_INSECURE=true)" in master.log
        assert "--" not in master.log.partition(self.MESSAGE)[2]
        assert "Traceback" not in master.log

    def test_gunicorn_takes_the_settings_that_the_refusal_names(self, start: Start) -> None:
        for env in ({"insecure": "true"}, {"secret": SECRET}):
            master = start(*GUNICORN, "-b", "0.0.0.0:0", "app:server", **env)
            master.wait_for("gtcp: listening on 0.0.0.0:")
            master.send(signal.SIGTERM)
            assert master.end() == 0

    def test_gunicorn_says_in_one_line_that_a_setting_is_unknown(self, start: Start) -> None:
        master = start(*GUNICORN, "-b", "127.0.0.1:0", "app:server", no_such_setting="1")
        assert master.end() == 4
        assert master.log.count("GTCP_NO_SUCH_SETTING") == 1
        assert "Traceback" not in master.log

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_serve_is_one_line_and_status_2(self, start: Start, workers: str) -> None:
        arguments = ("-m", "gtcp", "serve", "app", "--bind", "0.0.0.0:0", "--workers", workers)
        running = start(*arguments)
        assert running.end() == 2
        (line,) = running.log.splitlines()
        assert line.startswith(f"error: {self.MESSAGE}")
        assert "set insecure (GTCP_INSECURE=true)" in line

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_serve_with_insecure_or_a_secret(self, start: Start, workers: str) -> None:
        for env in ({"insecure": "true"}, {"secret": SECRET}):
            running = start(
                "-m", "gtcp", "serve", "app", "--bind", "0.0.0.0:0", "--workers", workers, **env
            )
            running.wait_for("gtcp: listening on 0.0.0.0:")
            if workers == "2":
                running.wait_for("worker is ready", 2)
            running.send(signal.SIGTERM)
            assert running.end() == 0
            assert SECRET[-9:] not in running.log

    def test_serve_does_not_take_a_unix_socket_away(self, start: Start, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "s"))
            other.listen()
            running = start("-m", "gtcp", "serve", "app", "--bind", "unix:s", "--workers", "2")
            assert running.end() == 1
            assert "in use" in running.log
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(tmp_path / "s"))


class TestReload:
    def test_sighup_in_one_process_keeps_connections(
        self, start: Start, authority: Authority
    ) -> None:
        cert = authority.issue("localhost")
        running = start(*SERVE, tls_cert=cert)
        with gtcp.Client(address(running), ca=authority.ca) as client:
            pid = client.call(1)
            authority.issue("localhost", "new.example")
            running.send(signal.SIGHUP)
            running.wait_for("certificates and secrets are read again")
            Path(cert).write_text("oops")
            running.send(signal.SIGHUP)
            running.wait_for("the old certificates and secrets are kept")
            assert client.call(1) == pid
            assert client.stats()["opened"] == 1
            with gtcp.Client(address(running), ca=authority.ca, server_name="new.example") as other:
                assert other.call(1) == pid
        running.send(signal.SIGTERM)
        assert running.end() == 0

    def test_sighup_to_the_master_makes_new_workers(
        self, start: Start, authority: Authority
    ) -> None:
        cert = authority.issue("localhost")
        running = start(*SERVE, "--workers", "2", tls_cert=cert)
        where = address(running)
        running.wait_for("worker is ready", 2)
        with gtcp.Client(where, ca=authority.ca) as client:
            client.call(1)
            authority.issue("localhost", "new.example")
            running.send(signal.SIGHUP)
            new = {"ca": authority.ca, "server_name": "new.example"}
            eventually(lambda: self.answers(where, new))
            client.call(1)
            running.wait_for("worker is ready", 4)
            running.until(lambda: len(running.workers) == 2)
            workers = running.workers
            Path(cert).write_text("oops")
            running.send(signal.SIGHUP)
            running.wait_for("the old workers are kept")
            assert running.workers == workers
            client.call(1)
        running.send(signal.SIGTERM)
        assert running.end() == 0

    def answers(self, where: str, options: Any) -> bool:
        try:
            with gtcp.Client(where, retries=0, **options) as client:
                return bool(client.call(1))
        except gtcp.ConnectError:
            return False

    def test_a_hangup_does_not_end_a_server_whose_secret_is_in_the_environment(
        self, start: Start
    ) -> None:
        running = start(*SERVE, secret=SECRET)
        where = address(running).removeprefix("tls://")
        running.send(signal.SIGHUP)
        running.wait_for("certificates and secrets are read again")
        with gtcp.Client(where, secret=SECRET) as client:
            client.call(1)
        running.send(signal.SIGTERM)
        assert running.end() == 0


def test_workers_ask_for_the_secret(start: Start) -> None:
    running = start(*SERVE, "--workers", "2", secret=SECRET)
    where = address(running).removeprefix("tls://")
    with gtcp.Client(where, secret=SECRET) as client:
        assert client.call(1) != os.getpid()
    with gtcp.Client(where) as client, pytest.raises(gtcp.RemoteError, match="401"):
        client.call(1)
    assert SECRET[-9:] not in running.log


def test_a_bad_certificate_is_one_line_and_status_2(start: Start, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("oops")
    for workers in ("1", "2"):
        running = start(*SERVE, "--workers", workers, tls_cert="bad.pem")
        assert running.end() == 2
        assert running.log.startswith("error: can't use certificate bad.pem")
        assert running.log.count("\n") == 1
