"""The comparison finds every kind of disagreement."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ledger.books import compare


def books(tmp_path: Path, runs: str, told: str, waited: str = "") -> list[str]:
    (tmp_path / "runs").write_text(runs)
    (tmp_path / "told").write_text(told)
    (tmp_path / "waited").write_text(waited)
    verdict = compare(tmp_path / "runs", tmp_path / "told", tmp_path / "waited")
    assert verdict.calls == len(told.splitlines())
    return verdict.disagreements


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ("a\n", "a 0 no ConnectError: x"),
        ("", "a 0 result -"),
        ("", "a 0 yes RemoteError: 500 x"),
        ("a\na\n", "a 0 result -"),
        ("a\na\n", "a 0 maybe ConnectionLost: x"),
        ("a\n", "a 1 wrong b"),
        ("a\n", "a 0 result -\na 0 result -"),
    ],
)
def test_a_disagreement_is_found(tmp_path: Path, runs: str, told: str) -> None:
    assert len(books(tmp_path, runs, told)) == 1


def test_a_run_goes_on_once(tmp_path: Path) -> None:
    assert books(tmp_path, "a\na\n", "a 1 result -", "a\na\n") == []
    assert len(books(tmp_path, "a\n", "a 1 result -", "a\na\n")) == 1


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ("a\n", "a 0 result -"),
        ("a\na\n", "a 1 result -"),
        ("a\n", "a 0 maybe CallTimeout: x"),
        ("", "a 0 maybe CallTimeout: x"),
        ("", "a 0 no PoolTimeout: x"),
        ("", "a 0 killed -"),
        ("a\n", "a 0 killed -"),
    ],
)
def test_what_agrees_is_let_pass(tmp_path: Path, runs: str, told: str) -> None:
    assert books(tmp_path, runs, told) == []
