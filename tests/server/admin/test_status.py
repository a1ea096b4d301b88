"""What operators see: the status page, ``gtcp top`` and ``gtcp stacks``."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gtcp
from gtcp.histogram import BUCKETS
from gtcp.server.admin import status_page
from gtcp.server.ops.status import (
    MethodCount,
    ProcessStatus,
    RunningCall,
    merged,
    quantile,
)
from tests.browser import Browser
from tests.cli.processes import run
from tests.helpers import Gate, eventually, free_port, serving
from tests.server.admin.http_client import get
from tests.server.admin.test_admin import commands
from tests.server.services import Service, call, write_app

NONE = [0] * (len(BUCKETS) + 1)


@contextmanager
def waiting(**settings: Any) -> Iterator[tuple[gtcp.Client, Any]]:
    """A server with a call that waits, and a client of it."""
    gate = Gate()
    with serving(commands(gate), **settings) as running, gtcp.Client(running.address) as client:
        caller = threading.Thread(target=client.call, args=(2,))
        caller.start()
        eventually(lambda: gate.waiting)
        try:
            yield client, running
        finally:
            gate.open()
            caller.join()


# Numbers


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        (NONE, 0.5, None),
        ([10, *NONE[1:]], 0.5, 0.0025),
        ([10, *NONE[1:]], 1.0, 0.005),
        ([5, 5, *NONE[2:]], 0.5, 0.005),
        ([5, 5, *NONE[2:]], 0.75, 0.0075),
        ([0, 10, *NONE[2:]], 0.1, 0.0055),
        ([*NONE[:-1], 3], 0.99, 10.0),
    ],
)
def test_quantiles(buckets: list[int], share: float, seconds: float | None) -> None:
    assert quantile(buckets, share) == pytest.approx(seconds)


def process(pid: int, methods: list[MethodCount], calls: list[RunningCall]) -> ProcessStatus:
    return ProcessStatus(pid, "1", 1.0, "SERVING", 2, 1, 0, 5, True, methods, calls, [], {"a": "1"})


def test_processes_are_added_up() -> None:
    one = MethodCount("pay", 2.0, 1.0, 1, 3, [2, *NONE[1:]])
    other = MethodCount("pay", 4.0, 0.0, 2, 0, [4, *NONE[1:]])
    old = RunningCall(8, "b", 1, 1, "pay", 9.0)
    young = RunningCall(7, "a", 1, 1, "pay", 3.0)
    status = merged(process(8, [one], [old]), [process(7, [other, MethodCount("ask")], [young])])
    assert [each.pid for each in status.processes] == [7, 8]
    assert [each.name for each in status.methods] == ["ask", "pay"]
    pay = status.methods[1]
    assert (pay.rate, pay.errors, pay.in_flight, pay.queued) == (6.0, 1.0, 3, 3)
    assert (pay.p50, status.methods[0].p50) == (0.0025, None)
    assert status.calls == [old, young]


# One process


def test_the_status_of_a_server_with_an_admin_port() -> None:
    port = free_port()
    with waiting(admin=str(port)) as (client, _):

        def counted() -> Any:
            client.call(1)
            with pytest.raises(gtcp.RemoteError, match="1000 no"):
                client.call(3)
            status = json.loads(get(port, "/status").body)
            rates = {each["name"]: each for each in status["methods"]}
            ready = {"quick", "refuse", "wait"} <= rates.keys() and rates["quick"]["rate"] > 0
            return (status, rates) if ready else None

        status, rates = eventually(counted)
        assert status["counted"] is True
        assert rates["quick"]["errors"] == 0 < rates["refuse"]["errors"]
        assert rates["quick"]["p99"] > 0
        assert rates["wait"]["in_flight"] == 1
        [call] = status["calls"]
        assert (call["method"], call["cmdid"], call["pid"]) == ("wait", 2, os.getpid())
        assert "in wait\n" in call["stack"]
        assert "gtcp/server" not in call["stack"]
        [process] = status["processes"]
        assert (process["health"], process["in_flight"]) == ("SERVING", 1)
        busiest = status["connections"][0]
        assert (busiest["peer"], busiest["in_flight"]) == (call["peer"], 1)
        assert status["settings"]["admin"] == f'"{port}"'


@pytest.mark.cover_programs
def test_without_an_admin_port_calls_are_shown_but_not_counted() -> None:
    with waiting() as (client, running):
        status = client.call(0, {"op": "status"})
        assert status["counted"] is False
        assert [(each["name"], each["in_flight"]) for each in status["methods"]] == [("wait", 1)]
        [call] = client.call(0, {"op": "stacks"})
        assert "in wait\n" in call["stack"]
        ended = run("stacks", running.address)
        assert "wait of 127.0.0.1:" in ended.stdout
        assert "in wait\n" in ended.stdout
        assert "in wait\n" in run("stacks", running.address, "--id", str(call["id"])).stdout
        other = run("stacks", running.address, "--id", "x")
        assert other.stdout == "no running call has the id x\n"
        [listed] = json.loads(run("stacks", running.address, "--json").stdout)
        assert listed["stack"] == call["stack"]
        shown = run("top", running.address, "--once").stdout
        assert "no admin port" in shown
        assert re.search(r"^wait +- +- +- +- +1 +0$", shown, re.MULTILINE)


@pytest.mark.cover_programs
def test_gtcp_top_shows_rates() -> None:
    port = free_port()
    with waiting(admin=str(port)) as (client, running):

        def rates() -> Any:
            client.call(1)
            return re.search(
                r"^quick +[1-9][\d.]* +0\.0 +2\.5 +[\d.]+ +0 +0$",
                run("top", running.address, "--once").stdout,
                re.MULTILINE,
            )

        eventually(rates)
        assert json.loads(run("top", running.address, "--once", "--json").stdout)["counted"]


@pytest.mark.cover_programs
def test_no_calls_are_running() -> None:
    with serving(commands(Gate())) as running:
        assert run("stacks", running.address).stdout == "no calls are running\n"


# Who may ask


def test_a_server_that_others_can_reach_tells_operators_only(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text("ops:0123456789abcdef\nshop:fedcba9876543210\n")
    secrets.chmod(0o600)
    settings = {"secret_file": str(secrets), "operators": ("key:ops",)}
    with serving(commands(Gate()), host="0.0.0.0", **settings) as running:
        address = running.address.replace("0.0.0.0", "127.0.0.1")
        with gtcp.Client(address, secret="ops:0123456789abcdef") as operator:
            assert operator.call(0, {"op": "stacks"}) == []
        with gtcp.Client(address, secret="shop:fedcba9876543210") as other:
            for op in ("status", "stacks"):
                with pytest.raises(gtcp.RemoteError, match="only operators") as caught:
                    other.call(0, {"op": op})
                assert caught.value.code == 403
            assert other.call(0, {"op": "health"})["status"] == "SERVING"


@pytest.mark.parametrize(
    ("host", "settings"),
    [
        ("0.0.0.0", {"insecure": True}),
        ("127.0.0.1", {"operators": ("key:ops",)}),
    ],
)
def test_nobody_else_is_told(host: str, settings: dict[str, Any]) -> None:
    with (
        serving(commands(Gate()), host=host, **settings) as running,
        gtcp.Client(running.address.replace("0.0.0.0", "127.0.0.1")) as client,
        pytest.raises(gtcp.RemoteError, match="403 only operators"),
    ):
        client.call(0, {"op": "status"})


# The page


def test_the_page_needs_nothing_from_elsewhere() -> None:
    port = free_port()
    with serving(commands(Gate()), admin=str(port)):
        page = get(port, "/")
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert not re.findall(r"(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org)", page.body)


def test_events_come_while_a_browser_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_page, "EVENT_SECONDS", 0.02)
    monkeypatch.setattr(status_page, "MAX_FOLLOWERS", 1)
    port = free_port()
    with serving(commands(Gate()), admin=str(port)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/events")
        response = connection.getresponse()
        assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        for _ in range(3):
            assert json.loads(response.readline().removeprefix(b"data: "))["processes"]
            assert response.readline() == b"\n"
        assert get(port, "/events").status == 503
        response.close()
        connection.close()
        eventually(lambda: follows_again(port))


def follows_again(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/events")
    try:
        return connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.mark.programs
def test_a_browser_shows_it(tmp_path: Path) -> None:
    port = free_port()
    with Browser(tmp_path) as browser, waiting(admin=str(port)) as (client, _):
        browser.look(390, "dark")
        browser.open(f"http://127.0.0.1:{port}/")

        def shown() -> Any:
            client.call(1)
            return "quick" in (browser.value("document.body?.innerText") or "")

        eventually(shown)
        text = browser.value("document.body?.innerText")
        assert "SERVING" in text
        assert re.search(r"wait of 127\.0\.0\.1:\d+, pid", text.replace("\xa0", " "))
        # Only tables scroll sideways, and the keyboard opens a stack.
        assert browser.value("document.documentElement.scrollWidth") <= 390
        assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)"
        for _ in range(10):
            browser.press("Tab")
            if browser.value("document.activeElement.closest('#calls') !== null"):
                break
        browser.press("Enter")
        eventually(lambda: browser.value("document.querySelector('#calls details').open"))
        assert "in wait" in browser.value("document.querySelector('#calls pre').innerText")
        browser.look(1000, "light")
        eventually(
            lambda: (
                browser.value("getComputedStyle(document.body).backgroundColor")
                == "rgb(255, 255, 255)"
            )
        )
        assert browser.value("document.querySelector('#calls details').open")
        assert browser.screenshot().startswith(b"\x89PNG")


# Several processes


@pytest.mark.programs
def test_workers_are_shown_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    write_app(folder)
    port = free_port()
    service = Service("serve", folder, "--admin", str(port))
    try:

        def pids() -> set[int]:
            try:
                status = json.loads(get(port, "/status").body)
            except (OSError, http.client.HTTPException):  # the process that answers was killed
                return set()
            return {each["pid"] for each in status["processes"]}

        assert call(service.where, 2) == "old"
        eventually(lambda: len(pids()) == 2)
        before = pids()
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len(pids()) == 2 and pids() != before)
        assert max(before) in pids()
    finally:
        service.kill()
