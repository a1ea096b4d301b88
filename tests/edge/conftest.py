from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_secret_around(no_secret_around: None) -> None:
    """For every test here."""
