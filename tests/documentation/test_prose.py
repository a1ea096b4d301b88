""".ci/prose finds what it is there for, and leaves code alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(name: str) -> list[str]:
    pytest.importorskip("proselint")
    ended = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "prose"), name], capture_output=True, text=True
    )
    assert not ended.stderr
    lines = ended.stdout.splitlines()
    assert ended.returncode == (1 if lines else 0)
    return lines


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a page in a tree of its own, with the script and its configuration."""
    (tmp_path / ".ci").mkdir()
    for name in (".ci/prose", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr("tests.documentation.test_prose.ROOT", tmp_path)
    return tmp_path / "page.md"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is is here.", "lexical_illusions"),
        ("An irregardless server.", "nonwords"),
        ("A most unique server.", "uncomparables"),
        ("The client, whoever it is.", "'whoever'"),
        ("It starts anew.", "'anew'"),
    ],
)
def test_a_mistake_is_found_with_its_line(page: Path, text: str, found: str) -> None:
    page.write_text(f"# Title\n\n{text}\n")
    (line,) = check(str(page))
    assert line.startswith("page.md:3:")
    assert found in line


def test_code_is_left_out(page: Path) -> None:
    page.write_text(
        "# Title\n\nTitle `whoever` and [here](anew.md).\n\n```sh\n$ very unique anew\n```\n"
    )
    assert check(str(page)) == []
