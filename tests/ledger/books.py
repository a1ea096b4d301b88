"""Holding the two books against each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Verdict:
    """The result of the comparison.

    Attributes:
        calls: how many callers wrote down.
        told: how many were told what.
        disagreements: one line for each call whose two books differ.
    """

    calls: int = 0
    told: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)


def compare(runs: Path, told: Path, waited: Path) -> Verdict:
    """Check every call: told against ran; and every run: it has gone on after its wait once."""
    ran, went_on = _counted(runs), _counted(waited)
    verdict = Verdict()
    for number, times in went_on.items():
        if times > ran[number]:
            wrong = f"ran {ran[number]} times, but has gone on {times} times after its wait"
            verdict.disagreements.append(f"{number}: {wrong}")
    seen: set[str] = set()
    for line in told.read_text().splitlines():
        number, idempotent, word, how = line.split(" ", 3)
        verdict.calls += 1
        if number in seen:
            verdict.disagreements.append(
                f"{number}: has two outcomes, the second is {word} ({how})"
            )
            continue
        seen.add(number)
        verdict.told[word] += 1
        wrong = _wrong(word, ran.pop(number, 0), idempotent == "1")
        if wrong:
            verdict.disagreements.append(f"{number}: {wrong} ({how})")
    # What ran for nobody: a caller that was killed together with its process can't tell.
    return verdict


def _counted(book: Path) -> Counter[str]:
    return Counter(book.read_text().split()) if book.exists() else Counter()


def _wrong(word: str, times: int, idempotent: bool) -> str:
    if times > 1 and not idempotent:
        return f"ran {times} times and is not idempotent (told {word})"
    if word == "wrong":
        return "was given the result of another call, or not the items of its stream"
    if word == "no" and times:
        return "told it did not run, but it ran"
    if word in ("yes", "result") and not times:
        return f"told {word}, but it did not run"
    return ""
