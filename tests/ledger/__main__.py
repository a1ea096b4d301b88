"""Run the stress test: servers, callers, faults, then the comparison."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

import gtcp
from gtcp.testing import FaultProxy
from tests.ledger.books import Verdict, compare
from tests.ledger.messages import RUN

ROOT = Path(__file__).parents[2]
KINDS = ("greenlets", "threads", "forks", "signals")


#: What happens to the servers, and how often.
FAULTS = {
    "HUP": 8,
    "HUP, slow import": 3,
    "HUP, broken code": 3,
    "TERM": 1,
    "kill worker": 4,
    "stop worker": 3,
    "kill master": 1,
}

#: What the application does when it is loaded after this: see `app`.
LOADING = {"HUP": "", "HUP, slow import": "1.0", "HUP, broken code": "broken"}


class Servers:
    """A gunicorn with two workers, restarted and killed in all ways."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._loading = folder / f"loading-{number}"
        self._log = (folder / "server.log").open("ab")
        self._port = _free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.faults: Counter[str] = Counter()
        self._start()

    def _start(self) -> None:
        command = [
            sys.executable, "-m", "gunicorn", "-k", "gtcp.server.worker.GtcpWorker", "-w", "2",
            "-b", self.address, "--timeout", "20", "--graceful-timeout", "5",
            "--log-level", "warning", "tests.ledger.app:server",
        ]  # fmt: skip
        environment = {
            **os.environ,
            "LEDGER_RUNS": str(self._folder / "runs"),
            "LEDGER_WAITED": str(self._folder / "waited"),
            "LEDGER_LOADING": str(self._loading),
        }
        self._master = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log
        )
        self.wait_until_up()

    def wait_until_up(self) -> None:
        end = monotonic() + 30
        with gtcp.Client(self.address, retries=0) as client:
            while monotonic() < end:
                try:
                    client.call(0, timeout=1)
                except gtcp.GtcpError:
                    sleep(0.05)
                else:
                    return
        raise SystemExit("the server does not come up")

    def repair(self) -> None:
        """Have code again that can be loaded."""
        self._load_next("")
        self._master.send_signal(signal.SIGHUP)
        self.wait_until_up()

    def break_something(self, chance: random.Random) -> None:
        kind = chance.choices(tuple(FAULTS), tuple(FAULTS.values()))[0]
        self.faults[kind] += 1
        if kind.startswith("HUP"):
            self._load_next(LOADING[kind])
            self._master.send_signal(signal.SIGHUP)
        elif kind == "TERM":
            self._load_next("")
            if self.stop() != 0:
                raise SystemExit("the master did not end with status 0")
            self._start()
        elif kind == "kill master":
            self._load_next("")
            orphans = self._workers()
            self._master.kill()
            self._master.wait()
            while any(Path(f"/proc/{each}").exists() for each in orphans):
                sleep(0.02)  # they find out, finish what they are at, and free the port
            self._start()
        else:
            for worker in self._workers()[:1]:
                self._hit(worker, kind, chance.uniform(0.1, 1.0))

    def _load_next(self, how: str) -> None:
        self._loading.with_suffix(".new").write_text(how)
        self._loading.with_suffix(".new").rename(self._loading)

    def _hit(self, worker: int, kind: str, seconds: float) -> None:
        try:
            if kind == "kill worker":
                os.kill(worker, signal.SIGKILL)
            else:
                os.kill(worker, signal.SIGSTOP)
                sleep(seconds)
                os.kill(worker, signal.SIGCONT)
        except ProcessLookupError:
            return  # it was on its way out

    def _workers(self) -> list[int]:
        children = Path(f"/proc/{self._master.pid}/task/{self._master.pid}/children")
        return [int(each) for each in children.read_text().split()]

    def end(self, problems: list[str]) -> None:
        """Check that it still serves, and stop it."""
        self.repair()
        with gtcp.Client(self.address) as client:
            client.call(RUN, {"id": f"afterwards-{self._port}"}, timeout=5)
        if self.stop() != 0:
            problems.append("the server did not end with status 0")

    def stop(self) -> int:
        self._master.terminate()
        return self._master.wait(30)


def stress(
    seconds: float, seed: int, folder: Path, hosts: int = 1
) -> tuple[Verdict, Counter[str], list[str]]:
    """Run everything for so long; return the verdict, the faults by kind, and what went wrong.

    With one host, each caller has three clients: two of them call through a network with faults.
    With several, it has one client of them all, two of which are behind such a network.
    """
    chance = random.Random(seed)
    services = [Servers(folder, number) for number in range(hosts)]
    problems: list[str] = []
    behind = [services[number % hosts] for number in (1, 2)]
    with FaultProxy(behind[0].address) as first, FaultProxy(behind[1].address) as second:
        direct = [each.address for each in services if hosts == 1 or each not in behind]
        addresses = [*direct, first.address, second.address]
        if hosts > 1:
            addresses = [",".join(addresses)]
        callers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.ledger.callers", kind, str(seed), str(seconds),
                 str(folder / "told"), *addresses],
                cwd=ROOT,
            )
            for kind in KINDS
        ]  # fmt: skip
        networks = [
            threading.Thread(target=proxy.run_schedule, args=(seed + number, seconds))
            for number, proxy in enumerate((first, second))
        ]
        for network in networks:
            network.start()
        end = monotonic() + seconds
        while monotonic() < end:
            sleep(chance.uniform(0.2, 1.5))
            chance.choice(services).break_something(chance)
        for network in networks:
            network.join()
        for kind, caller in zip(KINDS, callers, strict=True):
            try:
                status = caller.wait(60)
            except subprocess.TimeoutExpired:
                caller.kill()
                status = caller.wait()
                problems.append(f"the callers of kind {kind} hang")
            if status:
                problems.append(f"the callers of kind {kind} ended with {status}")
        faults = first.injected + second.injected
        for each in services:
            faults += each.faults
            each.end(problems)
    verdict = compare(folder / "runs", folder / "told", folder / "waited")
    return verdict, faults, problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ledger")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verdict, faults, problems = stress(options.seconds, options.seed, folder, options.hosts)
        log = (folder / "server.log").read_text(errors="replace")
    print(f"seed {options.seed}: {verdict.calls} calls in {options.seconds:g} s")
    print("told:", dict(verdict.told.most_common()))
    print("faults:", dict(faults.most_common()))
    print(f"disagreements: {len(verdict.disagreements)}")
    found = verdict.disagreements + problems
    if found:
        print(log[-3000:])
    for line in found[:20]:
        print("  ", line)
    return 1 if found else 0


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
