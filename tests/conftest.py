"""What all tests share."""

from __future__ import annotations

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


@pytest.fixture
def no_secret_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of who runs the tests does not count."""
    for name in ("GTCP_SECRET", "GTCP_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    from tests.edge.certificates import Authority  # takes its time to import

    return Authority(tmp_path)
