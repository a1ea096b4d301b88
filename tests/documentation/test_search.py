"""The search of the documentation finds the words that people look for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def index(built: Path) -> dict[str, Any]:
    text = (built / "searchindex.js").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    return found


def search(index: dict[str, Any], word: str) -> set[str]:
    """Return the pages that Sphinx's searchtools.js finds for a word: index entries and terms."""
    from sphinx.search.en import SearchEnglish

    stem = SearchEnglish({}).stem(word.lower())
    numbers: list[int] = [entry[0] for entry in index["indexentries"].get(word.lower(), [])]
    for terms in (index["terms"], index["titleterms"]):
        found = terms.get(stem, [])
        numbers += [found] if isinstance(found, int) else found
    return {index["docnames"][number] for number in numbers}


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("connect_timeout", "reference/client"),
        ("429", "reference/errors"),
        ("503", "reference/errors"),
        ("graceful", "how-to/running"),
        ("graceful_timeout", "reference/settings"),
        ("GTCP_IDLE_TIMEOUT", "reference/settings"),
        ("Django", "how-to/frameworks"),
        ("Django", "how-to/databases"),
        ("Flask", "how-to/frameworks"),
        ("Celery", "how-to/frameworks"),
        ("uWSGI", "how-to/frameworks"),
        ("SQLAlchemy", "how-to/databases"),
        ("Kubernetes", "how-to/docker-and-kubernetes"),
        ("systemd", "how-to/systemd"),
        ("supervisord", "how-to/supervisord-and-circus"),
        ("HAProxy", "how-to/haproxy-and-nginx"),
        ("nginx", "how-to/haproxy-and-nginx"),
        ("asyncio", "how-to/blocking-and-computing"),
        ("JSON", "how-to/logging"),
        ("PoolTimeout", "reference/errors"),
        ("exit", "reference/cli"),
    ],
)
def test_search_finds_a_page(index: dict[str, Any], word: str, page: str) -> None:
    assert page in search(index, word)


def test_search_finds_nothing_for_a_word_that_is_nowhere(index: dict[str, Any]) -> None:
    assert search(index, "xyzzyplugh") == set()
