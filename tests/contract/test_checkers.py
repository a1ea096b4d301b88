"""Stubs pass mypy, pyright and ruff."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

import gtcp
from gtcp.contract.describe import describe
from gtcp.contract.model import Contract
from gtcp.contract.stubs import write_stubs
from tests.contract.families import contracts, written
from tests.contract.orders import commands

ROOT = Path(gtcp.__file__).parent.parent


def need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def check(folder: Path, *command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


CHECKERS = {
    "ruff": ["ruff", "check", "--isolated", "--select", "F,E9,I", "--quiet", "."],
    "mypy": ["mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "."],
}


def write_all(folder: Path) -> None:
    """Write stubs, and the configuration of the checkers."""
    count = 0

    @settings(max_examples=150, database=None)
    @given(contracts())
    def write(contract: Contract) -> None:
        nonlocal count
        (folder / f"stub_{count}.py").write_text(written(contract))
        count += 1

    write()
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nfollow_imports = silent\nmypy_path = {ROOT}\n"
    )
    config = {"extraPaths": [str(ROOT)], "pythonVersion": "3.10", "include": ["*.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))


@pytest.mark.untraced
@pytest.mark.programs
def test_mypy_and_ruff_find_nothing(tmp_path: Path) -> None:
    """Both in one test: writing the stubs takes longer than checking them."""
    for name in CHECKERS:
        need(name)
    write_all(tmp_path)
    for command in CHECKERS.values():
        check(tmp_path, *command)


@pytest.mark.untraced
def test_pyright_finds_nothing(tmp_path: Path) -> None:
    need("pyright")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    write_all(tmp_path)
    check(tmp_path, "pyright", "--pythonpath", sys.executable)


@pytest.mark.programs
def test_ruff_does_not_change_the_format_of_a_stub(tmp_path: Path) -> None:
    """Of a usual one: annotations that fit on no line may be laid out differently."""
    need("ruff")
    text = write_stubs(describe(commands), "OrdersClient")
    (tmp_path / "orders_client.py").write_text(text)
    check(tmp_path, "ruff", "format", "--isolated", "--target-version", "py310", "--diff", ".")
