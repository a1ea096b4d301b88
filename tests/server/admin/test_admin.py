"""The admin port: health, readiness during a drain, metrics, handlers that block the loop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import gtcp
from gtcp.server.admin.operations import Operations
from tests.helpers import Gate, compute, eventually, free_port, serving
from tests.server.admin.http_client import get, metrics
from tests.server.services import Service, Waiting, call, write_app

DURATIONS = "rpc_server_call_duration_seconds_count"


def commands(gate: Gate | None = None) -> gtcp.Commands:
    table = gtcp.Commands()

    @table.handler(1)
    def quick(request: gtcp.Request) -> int:
        return 1

    @table.handler(2)
    def wait(request: gtcp.Request) -> None:
        assert gate is not None
        gate.wait()

    @table.handler(3)
    def refuse(request: gtcp.Request) -> None:
        raise gtcp.CommandError(1000, "no")

    @table.handler(4)
    def burn(request: gtcp.Request) -> None:
        compute(0.4)

    return table


def test_health_says_what_the_application_says() -> None:
    server = gtcp.Server(gtcp.Settings(port=0))
    with serving(server) as running, gtcp.Client(running.address) as client:
        assert client.call(0, {"op": "health"}) == {"status": "SERVING", "commands": {}}
        running.run(server.health.set, False, "pay")
        expected = {"status": "SERVING", "commands": {"pay": "NOT_SERVING"}}
        assert client.call(0, {"op": "health"}) == expected
        running.run(server.health.set, True, "pay")
        running.run(server.health.set, False)
        expected = {"status": "NOT_SERVING", "commands": {"pay": "SERVING"}}
        assert client.call(0, {"op": "health"}) == expected


@pytest.mark.parametrize("arguments", [("yes",), (True, 5)])
def test_health_takes_no_other_types(arguments: tuple[object, ...]) -> None:
    server = gtcp.Server(gtcp.Settings(port=0))
    with pytest.raises(TypeError, match="expected a"):
        server.health.set(*arguments)  # type: ignore[arg-type]


def test_probes() -> None:
    port = free_port()
    server = gtcp.Server(gtcp.Settings(port=0, admin=f"127.0.0.1:{port}"))
    with serving(server) as running:
        assert get(port, "/livez")[:2] == (200, "ok\n")
        assert get(port, "/readyz")[:2] == (200, "ok\n")
        running.run(server.health.set, False)
        assert get(port, "/readyz")[:2] == (503, "not serving\n")
        assert get(port, "/livez").status == 200


def test_what_the_admin_port_does_not_have() -> None:
    port = free_port()
    with serving(commands(), admin=str(port)):
        answer = get(port, "/nothing")
        assert answer.status == 404
        assert "/metrics" in answer.body
        assert get(port, "/livez", "POST").status == 405
        head = get(port, "/livez", "HEAD")
        assert (head.status, head.body) == (200, "")
        assert head.headers["X-Content-Type-Options"] == "nosniff"


def test_without_the_setting_nothing_is_counted() -> None:
    server = gtcp.Server(gtcp.Settings(port=0))
    with serving(server):
        assert server._context is not None
        assert server._context.metrics is server._context.operations is None


def test_an_admin_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = gtcp.Server(gtcp.Settings(port=0, admin=f"127.0.0.1:{port}"))
        with pytest.raises(OSError, match=rf"admin: can't listen on 127.0.0.1:{port}: .* in use"):
            server.start()
        assert not server.started


@pytest.mark.parametrize("admin", ["unix:/x", "tls://127.0.0.1:1", "host", "127.0.0.1:99999", ""])
def test_an_admin_address_is_one_of_tcp(admin: str) -> None:
    with pytest.raises(gtcp.SettingsError, match="admin: expected an address such as"):
        gtcp.Settings(admin=admin)


def test_requests_are_counted_by_method_and_outcome() -> None:
    port = free_port()
    table = commands()
    with serving(table, admin=str(port)) as running, gtcp.Client(running.address) as client:
        for _ in range(3):
            client.call(1)
        for cmdid in (3, 99):
            with pytest.raises(gtcp.RemoteError):
                client.call(cmdid)
        found = metrics(port)
        assert found[DURATIONS, (("rpc_method", "quick"),)] == 3
        assert found[DURATIONS, (("error_type", "1000"), ("rpc_method", "refuse"))] == 1
        assert found[DURATIONS, (("error_type", "404"), ("rpc_method", "_OTHER"))] == 1
        assert found["gtcp_received_bytes_total", ()] > 100
        assert found["gtcp_sent_bytes_total", ()] > 60
        assert found["gtcp_connections", ()] == 1
        assert found["gtcp_in_flight", ()] == 0


def test_both_an_access_log_and_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gtcp.access")
    port = free_port()
    with serving(commands(), admin=str(port), access_log=True) as running:
        with gtcp.Client(running.address) as client:
            client.call(1)
        assert metrics(port)[DURATIONS, (("rpc_method", "quick"),)] == 1
    assert "1 0 " in caplog.text


def test_refusals_and_cancellations_are_counted() -> None:
    port, gate = free_port(), Gate()
    table = commands(gate)
    settings = {"admin": str(port), "max_in_flight": 1, "max_connections": 1}
    with serving(table, **settings) as running, gtcp.Client(running.address, retries=0) as client:
        line = running.line()
        assert line.ask({"cmdid": 1, "id": 1})["result"] == 1
        with pytest.raises(gtcp.GtcpError):
            client.call(1, timeout=2)
        line.send({"cmdid": 2, "id": 2, "timeout": 300})
        eventually(lambda: gate.waiting)
        assert line.ask({"cmdid": 1, "id": 3})["code"] == 429
        assert line.reply()["code"] == 408
        found = metrics(port)
        assert found["gtcp_rejections_total", (("limit", "connections"),)] >= 1
        assert found["gtcp_rejections_total", (("limit", "in_flight"),)] == 1
        assert found["gtcp_cancelled_handlers_total", (("reason", "deadline"),)] == 1
        line.close()


def test_readiness_fails_before_the_drain_begins() -> None:
    port = free_port()
    server = gtcp.Server(gtcp.Settings(port=0, admin=str(port), drain_delay=20.0))
    server.include(commands())
    with serving(server) as running:
        running.start_stopping()
        eventually(lambda: get(port, "/readyz")[:2] == (503, "draining\n"))
        with gtcp.Client(running.address) as client:  # it still accepts connections
            assert client.call(1) == 1
            assert client.call(0, {"op": "health"})["status"] == "DRAINING"
        began = time.monotonic()
        running.stop(0)  # as a second signal does
        assert time.monotonic() - began < 10


def test_the_drain_begins_after_its_delay() -> None:
    server = gtcp.Server(gtcp.Settings(port=0, drain_delay=0.3))
    server.include(commands())
    with serving(server) as running:
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began >= 0.3
        assert server.health.status == "SERVING"  # it may be started again


def test_a_handler_that_blocks_the_loop_is_named_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with serving(commands(), admin=str(port)) as running, gtcp.Client(running.address) as client:
        client.call(4)
        found = metrics(port)
        blocked = found["gtcp_loop_blocked_seconds_total", (("rpc_method", "burn"),)]
        assert 0.1 <= blocked < 5
        assert ("gtcp_loop_blocked_seconds_total", (("rpc_method", "quick"),)) not in found
    # On a busy machine it takes seconds, each of which has its line.
    record = next(
        each for each in caplog.records if "has blocked the event loop" in each.getMessage()
    )
    assert "cmdid 4 (burn) of 127.0.0.1:" in record.getMessage()
    assert record.stack_info is not None
    assert "in burn" in record.stack_info
    assert "gtcp/server" not in record.stack_info


def test_code_outside_of_handlers_that_blocks_the_loop_is_named_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with serving(commands(), admin=str(port)) as running:
        running.run(compute, 0.4)
        eventually(lambda: "code outside of handlers has blocked" in caplog.text)


def test_a_handler_that_waits_is_not_said_to_block(caplog: pytest.LogCaptureFixture) -> None:
    port, gate = free_port(), Gate()
    with (
        serving(commands(gate), admin=str(port)) as running,
        gtcp.Client(running.address) as client,
    ):
        waiting = threading.Thread(target=client.call, args=(2,))
        waiting.start()
        time.sleep(0.3)
        gate.open()
        waiting.join()
    assert "(wait)" not in caplog.text


# Several processes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the application is; the folder of the metrics is made beside it."""
    made = tmp_path / "app"
    made.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    write_app(made)
    return made


def scraped(port: int) -> dict[Any, float]:
    """Return the metrics; none if the process that should answer was killed."""
    try:
        return metrics(port)
    except ConnectionResetError:
        return defaultdict(float)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["serve", "gunicorn"])
def test_one_scrape_has_the_sum_of_all_workers(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("GTCP_ADMIN", str(port))
    service = Service(kind, folder)
    files = folder.parent / "tmp"
    try:
        where = service.where
        pids = {call(where, 1) for _ in range(20)}
        count = (DURATIONS, (("rpc_method", "pid"),))
        # The other worker writes within a second.
        eventually(lambda: metrics(port)[count] == 20)
        before = 20.0
        for _ in range(3):  # the processes come and go, the numbers stay
            service.replace()
            service.until(lambda: len(pids | {call(where, 1)}) > len(pids))
            eventually(lambda before=before: metrics(port)[count] > before)
            before = metrics(port)[count]
        os.kill(next(iter(service.children)), signal.SIGKILL)
        service.until(lambda: len(service.children) == 2)
        call(where, 1)
        eventually(lambda before=before: scraped(port)[count] >= before)
        counters = [each.name for each in files.rglob("counter_*.db")]
        assert len(counters) <= 5, counters  # not one for each process that there was
        service.send(signal.SIGTERM)
        assert service.end() == 0
        assert list(files.iterdir()) == []
    finally:
        service.kill()


@pytest.mark.cover_programs
def test_readiness_fails_first_when_the_whole_service_stops(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("GTCP_ADMIN", str(port))
    monkeypatch.setenv("GTCP_DRAIN_DELAY", "1.5")
    service = Service("serve", folder)
    try:
        where = service.where
        service.replace()  # a reload has no delay that others could notice: the service goes on
        waiting = Waiting(where, folder / "one")
        service.send(signal.SIGTERM)
        eventually(lambda: get(port, "/readyz").status == 503)
        assert isinstance(call(where, 1), int)
        waiting.let_go()
        assert service.end() == 0
    finally:
        service.kill()


def test_an_unusable_folder_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = gtcp.Server(gtcp.Settings(port=0, admin="0"))
    with pytest.raises(gtcp.SettingsError, match="can't use the folder"):
        server.start(metrics_folder=tmp_path / "file" / "below")


def test_without_prometheus_client_the_metrics_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client.mmap_dict", None)
    port = free_port()
    with serving(commands(), admin=str(port)):
        answer = get(port, "/metrics")
        assert answer.status == 501
        assert "pip install 'gtcp-rpc[prometheus]'" in answer.body


def test_an_error_of_a_view_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_self: Operations) -> None:
        raise RuntimeError("as asked")

    monkeypatch.setattr(Operations, "_livez", broken)
    port = free_port()
    with serving(commands(), admin=str(port)) as running:
        running.errors.clear()
        assert get(port, "/livez").status == 500
        running.errors.clear()  # gevent's own way to report it
    assert logging.getLogger("gtcp.server") is not None
