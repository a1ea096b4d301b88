"""The documents' blocks do what they show. How to mark a block: doc_blocks.py."""

import re
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.doc_blocks import run_document

ROOT = Path(__file__).parent.parent
#: A document with one of these belongs to the tests that start real programs; these do not.
COMMON = {"curl", "nc", "openssl"}
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def parameter(path: Path) -> ParameterSet:
    needs = set(
        re.findall(r"^<!-- needs: (\S+) -->$", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    marks = [pytest.mark.programs] if needs - COMMON else []
    return pytest.param(path, marks=marks, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", [parameter(path) for path in DOCUMENTS])
def test_document_keeps_its_promises(path, tmp_path):
    run_document(path, tmp_path)
