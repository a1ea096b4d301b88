"""Fixtures and hooks of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
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


#: Folders whose tests measure the coverage of the programs that they start. It doubles the time
#: that a program takes to start, so the others leave it out.
MEASURED = {"cli", "client", "server", "testing"}
ROOT = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start programs without coverage, but in the tests of the folders above.

    Of tests that run under gunicorn and under ``gtcp serve`` only the latter are measured: gtcp's
    worker is the same.
    """
    inside = item.path.is_relative_to(ROOT)
    folder = item.path.relative_to(ROOT).parts[0] if inside else ""
    if folder in MEASURED and "[gunicorn" not in item.name:
        return (yield)
    variables = {
        name: os.environ[name] for name in os.environ if name.startswith("COVERAGE_PROCESS")
    }
    for name in variables:
        del os.environ[name]
    try:
        return (yield)
    finally:
        os.environ.update(variables)


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
