"""The documentation, built once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the HTML; any warning of Sphinx fails.

    The processes of xdist share it.
    """
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    html, done = folder / "documentation", folder / "documentation.done"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", "doctrees"]
    with open(folder / "documentation.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            ended = subprocess.run(
                [*command, str(DOCS), str(html)], cwd=folder, capture_output=True, text=True
            )
            assert ended.returncode == 0, ended.stderr
            done.touch()
    return html
