from __future__ import annotations

from pathlib import Path

import pytest

from tests.edge.certificates import Authority


@pytest.fixture(autouse=True)
def _no_secret_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GTCP_SECRET", "GTCP_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)
