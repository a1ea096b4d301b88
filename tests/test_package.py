"""The package that is published: its name, its version, what is in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import gtcp

ROOT = Path(__file__).parent.parent
#: The package of the same import name on the index is another project's.
OLD_SPELLING = re.compile(r"gtcp\[|pip3? install (-U |--upgrade )?['\"]?gtcp(?![-\w])")


def tracked() -> list[Path]:
    """Files of the repository, or of a source distribution, which has no repository."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        folders = ("gtcp", "tests", "docs", "benchmarks", "fuzz", "examples")
        found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
        return [path for path in [*found, *ROOT.glob("*")] if path.is_file()]
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_nothing_tells_people_to_install_another_projects_package() -> None:
    wrong = []
    for path in tracked():
        if path == Path(__file__) or path.suffix not in (".py", ".md", ".toml", ".yml", ".cfg", ""):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # not text
            continue
        wrong += [f"{path}: {line}" for line in text.splitlines() if OLD_SPELLING.search(line)]
    assert wrong == []


def test_the_version_is_in_one_place() -> None:
    said = re.compile(rf"^\s*_*version_*\s*=\s*[\"']{re.escape(gtcp.__version__)}", re.MULTILINE)
    places = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.suffix in (".py", ".toml", ".cfg") and said.search(path.read_text(encoding="utf-8"))
    ]
    assert places == ["gtcp/version.py"]
    assert f"## {gtcp.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert targets
    assert [each for each in targets if not (ROOT / each).exists()] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a checkout")
def test_the_source_distribution_has_every_folder() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    assert [each for each in folders if f"graft {each}" not in manifest] == []
    files = {path.name for path in tracked() if path.parent == ROOT} - {"MANIFEST.in"}
    assert [each for each in files if each not in manifest] == []
