"""Generators of inputs: atheris, guided by coverage, or hypothesis, by its strategies.

Each target runs in a process of its own, which may crash, hang or eat its memory: the input
that it was at is kept all the same.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

#: Seconds that one input may take by the clock, on a machine that does other things too.
INPUT_SECONDS = 60

MEMORY_MB = 1024

MAX_BYTES = 4096


def available() -> str:
    """The engine to use: atheris where it is installed."""
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


class Outcome(NamedTuple):
    """The outcome of a run of one target."""

    executions: int  # inputs tried
    failed: bool  # whether it ended otherwise than it should
    found: Path | None  # the file with the input that it was at then
    log: str  # what the process said


def fuzz(target: str, engine: str, seconds: float, seed: int, corpus: Path | None) -> Outcome:
    """Run one target for so long; a finding is saved in the current directory.

    Args:
        corpus: a folder of inputs to begin with, to which atheris adds; None for the seeds only.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "fuzz.engines", engine, target, str(seconds), str(seed),
                   name, str(corpus or folder / "corpus")]  # fmt: skip
        log = folder / "log"
        with log.open("wb") as output:
            child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
            try:
                status = child.wait(seconds + 2 * INPUT_SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                child.kill()
                child.wait()
        text = log.read_text(errors="replace")
        counts = re.findall(r"(?:executions|number_of_executed_units): (\d+)|^#(\d+)\t", text, re.M)
        executions = int(max(counts[-1], key=len)) if counts else 0
        found = _saved(target, folder / "input") if status != 0 else None
        return Outcome(executions, status != 0, found, text)


def _saved(target: str, made: Path) -> Path | None:
    """Copy the input that was found to where it stays; None if not even the first one ran."""
    if not made.exists():
        return None
    data = made.read_bytes()
    found = Path(f"fuzz-{target}-{hashlib.sha256(data).hexdigest()[:12]}")
    found.write_bytes(data)
    return found


def load(target: str) -> Any:
    """A target's module."""
    return importlib.import_module(f"fuzz.targets.{target}")


def by_atheris(target: str, seconds: float, seed: int, folder: Path, corpus: Path) -> None:
    """Run in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["gtcp"]):
        module = load(target)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(module.SEEDS):
        (corpus / f"seed-{number:02}").write_bytes(each)
    words = folder / "words"
    words.write_text("".join(f'"{_quoted(each)}"\n' for each in module.TOKENS))
    # Linux lets a process begin with the peak of the one that started it.
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    options = [
        f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={MAX_BYTES}",
        f"-dict={words}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={peak_mb + MEMORY_MB}",
        f"-exact_artifact_path={folder / 'input'}", "-print_final_stats=1", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], module.run)
    atheris.Fuzz()


def by_hypothesis(target: str, seconds: float, seed: int, folder: Path, corpus: Path) -> None:
    """Run in this process; raises at a finding, which hypothesis has made small by then."""
    module = load(target)
    current = folder / "input"
    end = monotonic() + seconds
    count = 0

    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        current.write_bytes(data)
        module.run(data)

    kept = sorted(corpus.iterdir()) if corpus.is_dir() else []
    for each in [*module.SEEDS, *(path.read_bytes() for path in kept)]:
        run(each)
    while monotonic() < end:
        seed += 1
        _some_examples(run, module, seed, end)
    print(f"executions: {count}")


def _some_examples(run: Callable[[bytes], None], module: Any, seed: int, end: float) -> None:
    import hypothesis

    from fuzz.inputs import strategy

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=200,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy(module.TOKENS, module.SEEDS))
    def example(data: bytes) -> None:
        if monotonic() < end:
            run(data)

    example()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> None:
    """The process of one target: ENGINE TARGET SECONDS SEED FOLDER CORPUS."""
    engine, target, seconds, seed, folder, corpus = sys.argv[1:]
    run = by_atheris if engine == "atheris" else by_hypothesis
    run(target, float(seconds), int(seed), Path(folder), Path(corpus))


if __name__ == "__main__":
    main()
