"""What the documents show is what happens. How to mark a block: doc_blocks.py."""

from pathlib import Path

import pytest

from tests.doc_blocks import run_document

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_keeps_its_promises(path, tmp_path):
    run_document(path, tmp_path)
