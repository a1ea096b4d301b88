"""The systemd units of the documentation, checked by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_blocks import parse

pytestmark = pytest.mark.programs

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "systemd.md"

#: What a systemd before 253 says about Type=notify-reload.
OLD = "Failed to parse service type, ignoring: notify-reload"


def units(page: Path) -> dict[str, str]:
    """Return the units of a page by their names."""
    texts = [each.text for each in parse(page.read_text("utf-8")) if each.language == "ini"]
    return {each.partition("\n")[0].removeprefix("# "): each for each in texts}


def verify(folder: Path) -> list[str]:
    """Write the units of the page, with this Python's programs; return what systemd says."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    names = []
    for name, text in units(PAGE).items():
        ours = text.replace("/srv/shop/.venv/bin", str(Path(sys.executable).parent))
        (folder / name).write_text(ours.replace("/srv/shop", str(folder)))
        names.append(str(folder / name))
    ended = subprocess.run(
        [program, "verify", "--man=no", *names], capture_output=True, text=True, cwd=folder
    )
    assert len(names) == 2
    return [line for line in ended.stderr.splitlines() if OLD not in line and str(folder) in line]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert verify(tmp_path) == []


def test_systemd_would_report_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text("utf-8").replace("KillMode=mixed", "KilMode=mixed"))
    monkeypatch.setattr("tests.recipes.test_units.PAGE", page)
    (line,) = verify(tmp_path)
    assert "KilMode" in line
