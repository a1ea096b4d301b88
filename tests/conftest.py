"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Generator
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

    As in .ci/run for root, who can install them. Other reasons are those of the kernel.
    """
    report = yield
    required = os.environ.get("TEST_PROGRAMS") == "required"
    if required and report.skipped and item.get_closest_marker("programs") is not None:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "not installed" in reason:
            report.outcome, report.longrepr = "failed", reason
    return report


@pytest.fixture
def no_secret_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of who runs the tests does not count."""
    for name in ("GTCP_SECRET", "GTCP_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    from tests.edge.certificates import Authority  # takes its time to import

    return Authority(tmp_path)
