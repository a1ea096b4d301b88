"""The units of the documentation, run by systemd itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, eventually, free_port
from tests.recipes.systemd_manager import Manager
from tests.recipes.test_units import PAGE, units
from tests.server.services import PID, Load, Waiting, attempt, call, pids, write_app

pytestmark = [pytest.mark.programs, pytest.mark.slow]


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    manager = Manager(tmp_path_factory.mktemp("systemd"))
    yield manager
    manager.end()


class Shop:
    """The units of the page, for an application in a folder.

    Attributes:
        address: where the service listens.
    """

    def __init__(self, manager: Manager, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._manager = manager
        changes = {
            "/srv/shop/.venv/bin": str(Path(sys.executable).parent),
            " --secret-file /srv/shop/secret": "",  # it listens on the loopback only
            "/srv/shop": str(folder),
            "0.0.0.0:8889": self.address,
            "User=shop\n": f"StandardError=append:{folder}/log\n",
            "--workers 4": "--workers 2",
        }
        if manager.version < 253:  # as the page says
            changes["Type=notify-reload"] = "Type=notify\nExecReload=/bin/kill -HUP $MAINPID"
        changes["[Unit]\n"] = "[Unit]\nDefaultDependencies=no\n"
        for name, text in units(PAGE).items():
            for old, new in changes.items():
                text = text.replace(old, new)
            (manager.units / name).write_text(text)
        manager.ctl("daemon-reload")

    def change(self, old: str, new: str) -> None:
        """Change a line of the service."""
        path = self._manager.units / "shop.service"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        self._manager.ctl("daemon-reload")


@pytest.fixture
def shop(manager: Manager, tmp_path: Path) -> Iterator[Shop]:
    write_app(tmp_path)
    yield Shop(manager, tmp_path)
    manager.try_ctl("stop", "shop.socket", "shop.service")
    manager.try_ctl("reset-failed")


def test_it_starts_reloads_and_drains(manager: Manager, shop: Shop, tmp_path: Path) -> None:
    manager.ctl("start", "shop")
    assert attempt(shop.address) is None  # it was ready when the command ended
    before = set(pids(shop.address))
    load = Load(shop.address, tmp_path)
    load.goes_on()
    manager.ctl("reload", "shop")
    eventually(lambda: before.isdisjoint(pids(shop.address)))
    load.goes_on()
    load.end()
    assert load.problems == []
    assert set(load.runs.values()) == {1}
    waiting = Waiting(shop.address, tmp_path / "call")
    stopping = threading.Thread(target=manager.ctl, args=("stop", "shop"))
    stopping.start()
    eventually(lambda: manager.show("shop", "ActiveState") == "deactivating")
    assert waiting.let_go() == "done"
    stopping.join(PATIENCE)
    assert manager.show("shop", "ActiveState") == "inactive"
    assert manager.show("shop", "Result") == "success"
    assert manager.show("shop", "ExecMainStatus") == "0"


def test_with_a_socket_unit_a_restart_loses_nothing(
    manager: Manager, shop: Shop, tmp_path: Path
) -> None:
    manager.ctl("start", "shop.socket")
    assert manager.show("shop", "ActiveState") == "inactive"
    assert call(shop.address, PID) in pids(shop.address)  # the first connection has started it
    load = Load(shop.address, tmp_path)
    load.goes_on()
    before = manager.show("shop", "MainPID")
    manager.ctl("restart", "shop")
    assert manager.show("shop", "MainPID") != before
    load.goes_on()
    load.end()
    assert load.problems == []
    assert set(load.runs.values()) == {1}


@pytest.mark.parametrize("how", ["stops", "is killed"])
def test_a_master_that_fails_is_replaced(manager: Manager, shop: Shop, how: str) -> None:
    shop.change("WatchdogSec=30", "WatchdogSec=3")
    manager.ctl("start", "shop")
    workers = set(pids(shop.address))
    number = signal.SIGSTOP if how == "stops" else signal.SIGKILL
    os.kill(manager.main_process("shop"), number)
    eventually(lambda: manager.show("shop", "NRestarts") != "0")
    eventually(lambda: manager.show("shop", "ActiveState") == "active")
    assert workers.isdisjoint(pids(shop.address))


def test_what_can_not_start_is_reported(manager: Manager, shop: Shop, tmp_path: Path) -> None:
    shop.change("Restart=on-failure", "Restart=no")
    (tmp_path / "app.py").write_text("import no_such_module\n")
    assert manager.try_ctl("start", "shop").returncode == 1
    assert manager.show("shop", "Result") == "exit-code"
    assert manager.show("shop", "ExecMainStatus") == "1"
    assert "no_such_module" in (tmp_path / "log").read_text()
