"""A systemd that is process 1, of namespaces of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import eventually

#: Each hierarchy of control groups is mounted anew: its root is a group of our own then.
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
{mounts}
export container=other SYSTEMD_UNIT_PATH={units}
exec {systemd} --system --unit=boot.target --log-target=console --show-status=0
"""

NAMESPACES = ("--pid", "--fork", "--mount", "--uts", "--ipc", "--cgroup", "--mount-proc")

NOTHING = "[Unit]\nDescription=Nothing\nDefaultDependencies=no\n"


class Manager:
    """Systemd, and the folder of its units. It shares the network and the files of the machine.

    Attributes:
        units: the folder; after a change call ``ctl("daemon-reload")``.
        version: of systemd.
    """

    def __init__(self, folder: Path) -> None:
        self.units = folder / "units"
        self.units.mkdir()
        (self.units / "boot.target").write_text(NOTHING)
        (self.units / "shutdown.target").write_text(NOTHING)
        self._log = folder / "systemd.log"
        systemd = "/lib/systemd/systemd"
        if shutil.which("systemctl") is None or not os.path.exists(systemd):
            pytest.skip("systemd is not installed")
        if os.geteuid() != 0:
            pytest.skip("only root makes the namespaces")
        shown = subprocess.run([systemd, "--version"], capture_output=True, text=True, check=True)
        self.version = int(shown.stdout.split()[1])
        self._groups, mounts = self._make_groups()
        boot = BOOT.format(mounts="\n".join(mounts), units=self.units, systemd=systemd)
        join = [f"echo $$ > {each}/cgroup.procs" for each in self._groups]
        start = " && ".join([*join, f'exec unshare {" ".join(NAMESPACES)} --kill-child sh -c "$0"'])
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(["sh", "-c", start, boot], stderr=log, stdout=log)
        try:
            eventually(lambda: self._process.poll() is not None or self._is_up())
            if self._process.poll() is not None:
                pytest.skip(f"systemd can't be process 1 here: {self._log.read_text()}")
        except BaseException:
            self.end()
            raise

    def ctl(self, *arguments: str) -> str:
        """Run ``systemctl``; return what it prints. A failure of it fails the test."""
        ended = self.try_ctl(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def try_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``systemctl``."""
        namespaces = ("nsenter", "--target", self._first, "-m", "-u", "-i", "-p", "-C")
        return subprocess.run(
            [*namespaces, "systemctl", *arguments], capture_output=True, text=True, timeout=60
        )

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.ctl("show", unit, "--property", name, "--value").strip()

    def main_process(self, unit: str) -> int:
        """The number of a service's main process, outside of the namespaces."""
        inside = self.show(unit, "MainPID")
        for each in Path("/proc").glob("[0-9]*/status"):
            try:
                numbers = each.read_text().partition("NSpid:")[2].split("\n")[0].split()
                if numbers[1:] == [inside] and self._is_ours(each.parent):
                    return int(numbers[0])
            except OSError:  # it has just ended
                continue
        raise AssertionError(f"{unit} has no main process")

    def end(self) -> None:
        """Kill systemd, and all that it has started."""
        self._process.kill()
        self._process.wait()
        for each in self._groups:
            eventually(lambda each=each: _removed(each))

    @property
    def _first(self) -> str:
        """The number of process 1 outside of its namespace."""
        children = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        return Path(children).read_text().strip()

    def _is_up(self) -> bool:
        try:
            return self.try_ctl("is-active", "boot.target").returncode == 0
        except OSError:  # it has ended
            return False

    def _is_ours(self, process: Path) -> bool:
        first = Path("/proc", self._first, "ns", "pid")
        return os.readlink(process / "ns" / "pid") == os.readlink(first)

    @staticmethod
    def _make_groups() -> tuple[list[Path], list[str]]:
        """Make a control group in each hierarchy that systemd uses; return how to mount them."""
        groups, mounts = [], []
        for line in Path("/proc/mounts").read_text().splitlines():
            _, where, kind, options = line.split()[:4]
            if kind == "cgroup" and "name=systemd" in options:
                mounts.append(f"umount {where}\nmount -t cgroup -o none,name=systemd none {where}")
            elif kind == "cgroup2":
                mounts.append(f"umount {where}\nmount -t cgroup2 none {where}")
            else:
                continue
            group = Path(where, f"gtcp{os.getpid()}")
            try:
                group.mkdir()
            except OSError as exc:
                pytest.skip(f"no control groups here: {exc}")
            groups.append(group)
        return groups, mounts


def _removed(group: Path) -> bool:
    """Remove a control group and those in it; return whether they have gone."""
    folders = [Path(each) for each, _, _ in os.walk(group, topdown=False)]
    try:
        for each in folders:
            each.rmdir()
    except OSError:  # what was in it is still ending
        return False
    return True
