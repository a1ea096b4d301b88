"""The machine of the benchmarks: the processor, its cores, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Cores(NamedTuple):
    """Where servers run and where what loads them does; None where that can't be said."""

    server: int | None
    load: int | None


def usable_cores() -> list[int]:
    """The cores this process may use; empty where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return []
    return sorted(os.sched_getaffinity(0))


def pick_cores() -> Cores:
    """Two cores that share nothing, where there are two."""
    usable = usable_cores()
    if len(usable) < 2:
        return Cores(None, None)
    server = usable[0]
    twins = _threads_of_core(server)
    others = [core for core in usable[1:] if core not in twins] or usable[1:]
    return Cores(server, others[0])


def _threads_of_core(core: int) -> set[int]:
    """Cores that Linux shows as several but that are one: hyperthreads."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        text = path.read_text()
    except OSError:
        return {core}
    threads: set[int] = set()
    for piece in text.strip().split(","):
        first, _, last = piece.partition("-")
        threads.update(range(int(first), int(last or first) + 1))
    return threads


def describe(cores: Cores) -> dict[str, str]:
    """The machine, as far as a figure depends on it."""
    pinned = "no"
    if cores.server is not None:
        pinned = f"servers to core {cores.server}, load to core {cores.load}"
    return {
        "CPU": _cpu_model(),
        "cores": str(len(usable_cores()) or os.cpu_count() or 1),
        "pinned": pinned,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, gtcp (with its commit) and the installed packages."""
    import gtcp  # here, so that what weighs a client can import this module without it

    found = {"Python": platform.python_version(), "gtcp": gtcp.__version__ + _commit()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""
