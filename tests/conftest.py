"""Fixtures and hooks of all tests."""

from __future__ import annotations

import compileall
import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.edge.certificates import Authority

# A machine that is busy makes examples slow, which is no failure.
settings.register_profile("gtcp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gtcp")

pytest_plugins = ["pytester"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the programs that tests start write no bytecode.

    Python takes a module that was changed within a second, to the same size, for unchanged. The
    processes of xdist are started before, and keep the bytecode of the tests. What programs import
    is compiled here, since each of them would do it again.
    """
    config = session.config
    if not hasattr(config, "workerinput") and not sys.dont_write_bytecode:
        for folder in ("gtcp", "tests", "benchmarks", "fuzz"):
            compileall.compile_dir(ROOT.parent / folder, quiet=1)
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test of programs that skips since one is not installed, where they must be.

    As in .ci/run for root, which can install them. Other reasons are those of the kernel.
    """
    report = yield
    required = os.environ.get("TEST_PROGRAMS") == "required"
    if required and report.skipped and item.get_closest_marker("programs") is not None:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "not installed" in reason:
            report.outcome, report.longrepr = "failed", reason
    return report


#: Folders whose tests do not measure the coverage of their own process: they only start programs,
#: or repeat under load what others measure. Measuring makes a process several times slower.
UNMEASURED = {"benchmarks", "documentation", "ledger", "libraries", "recipes", "reliability"}

ROOT = Path(__file__).parent


def folder_of(item: pytest.Item) -> str:
    """Return the folder of a test below this one, "" if there is none."""
    inside = item.path.is_relative_to(ROOT)
    return item.path.relative_to(ROOT).parts[0] if inside else ""


@pytest.hookimpl(trylast=True)  # after hypothesis has marked its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the folders above, and those of hypothesis, which repeat others."""
    for item in items:
        if folder_of(item) in UNMEASURED or item.get_closest_marker("hypothesis") is not None:
            item.add_marker("untraced")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start programs without coverage, unless the test has the marker ``cover_programs``.

    Coverage doubles the time that a program takes to start. Of tests that run under gunicorn and
    under ``gtcp serve`` only the latter are measured: gtcp's worker is the same.
    """
    if item.get_closest_marker("cover_programs") is not None and "[gunicorn" not in item.name:
        return (yield)
    names = [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]
    variables = {name: os.environ.pop(name) for name in names}
    try:
        return (yield)
    finally:
        os.environ.update(variables)


@contextmanager
def tracing_off(item: pytest.Item) -> Iterator[None]:
    """Do not trace what a test with the marker ``untraced`` runs.

    The marker of pytest-cov, ``no_cover``, does not do: it starts coverage again after each such
    test, and each start adds a function that runs after a fork, which takes a seventh of a second.
    """
    if item.get_closest_marker("untraced") is None:
        yield
        return
    here, threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.settrace(here)
        threading.settrace(threads)  # type: ignore[arg-type]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Do not trace servers that fixtures start for such a test, either."""
    with tracing_off(item):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Do not trace the test itself."""
    with tracing_off(item):
        return (yield)


@pytest.fixture(autouse=True)
def _end_load() -> Iterator[None]:
    """End the load that a failed test has left."""
    yield
    services = sys.modules.get("tests.server.services")
    for load in [] if services is None else list(services.Load.running):
        load.end()


@pytest.fixture
def no_secret_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests independent of the environment of their user."""
    for name in ("GTCP_SECRET", "GTCP_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    from tests.edge.certificates import Authority  # takes its time to import

    return Authority(tmp_path)
