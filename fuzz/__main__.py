"""Run the targets, or one input again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzz import TARGETS
from fuzz.engines import available, fuzz, load


def main() -> int:
    """The exit status: 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="all of them in turn without")
    parser.add_argument("file", nargs="?", type=Path, help="run the target on this input only")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default=available())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="inputs are kept here, a folder a target")
    options = parser.parse_args()
    if options.file is not None:
        load(options.target).run(options.file.read_bytes())
        print(f"{options.target}: nothing is wrong with {options.file}")
        return 0
    targets = [options.target] if options.target else TARGETS
    print(f"by {options.engine}")
    found = [each for each in targets if not clean(each, options, len(targets))]
    return 1 if found else 0


def clean(target: str, options: argparse.Namespace, count: int) -> bool:
    """Run one target and report the outcome."""
    corpus = None if options.corpus is None else (options.corpus / target).absolute()
    seconds = options.seconds / count
    outcome = fuzz(target, options.engine, seconds, options.seed, corpus)
    print(f"{target}: {outcome.executions} executions in {seconds:g} s", flush=True)
    if outcome.failed:
        print(outcome.log[-6000:])
        again = f"again with: python -m fuzz {target} {outcome.found}"
        print(f"{target}: FAILED, {again if outcome.found else 'it did not even begin'}")
    return not outcome.failed


if __name__ == "__main__":
    sys.exit(main())
