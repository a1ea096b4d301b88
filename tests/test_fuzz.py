"""The fuzzing itself: its targets take their seeds, and what it finds is not lost."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import TARGETS, engines
from fuzz.inputs import HEADER_BYTES, MAX_STREAM, Input, seed

ROOT = Path(__file__).parents[1]
ENGINES = ["hypothesis", *(["atheris"] if importlib.util.find_spec("atheris") else [])]

RAISES = """
SEEDS = (b"", b"abc")
TOKENS = (b"wrong", b"right")


def run(data):
    assert b"wrong" not in data, "it is wrong"
"""

CRASHES = """
import os, signal

SEEDS = (b"", b"abc")
TOKENS = (b"wrong", b"right")


def run(data):
    if b"wrong" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.untraced
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_wrong_with_the_seeds(target):
    module = engines.load(target)
    for each in module.SEEDS:
        module.run(each)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of the fuzzing, to be changed; what is found goes there too."""
    shutil.copytree(ROOT / "fuzz", tmp_path / "fuzz")
    monkeypatch.setattr(engines, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", [RAISES, CRASHES])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_breaks_a_target_is_kept_in_a_file(elsewhere, engine, source):
    (elsewhere / "fuzz" / "targets" / "broken.py").write_text(source)
    outcome = engines.fuzz("broken", engine, 20, 1, None)
    assert outcome.failed, outcome.log
    assert b"wrong" in outcome.found.read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_finds_nothing_says_how_much_it_tried(elsewhere, engine):
    outcome = engines.fuzz("lines", engine, 1, 1, None)
    assert not outcome.failed, outcome.log
    assert outcome.found is None
    assert outcome.executions > 30


def test_a_target_that_does_not_begin_has_failed(elsewhere):
    (elsewhere / "fuzz" / "targets" / "broken.py").write_text("import nothing_of_this_name")
    outcome = engines.fuzz("broken", "hypothesis", 1, 1, None)
    assert outcome.failed
    assert outcome.found is None
    assert "nothing_of_this_name" in outcome.log


def test_one_input_can_be_tried_again(tmp_path):
    file = tmp_path / "input"
    file.write_bytes(seed(b'{"cmdid":1}'))
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "lines", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stdout


class TestInput:
    def test_is_cut_by_the_sizes_in_its_header(self):
        given = Input(bytes((2, 3, 0, 0)) + b"abcdefgh")
        assert given.pieces == [b"ab", b"cde", b"fg", b"h"]

    def test_is_whole_without_sizes(self):
        assert Input(seed(b"abc")).pieces == [b"abc\n"]

    def test_can_be_repeated_up_to_a_limit(self):
        assert Input(seed(b"a", times=1)).stream == b"a\n" * 8
        assert len(Input(seed(b"a" * 99, times=5)).stream) in range(
            MAX_STREAM - 100, MAX_STREAM + 1
        )

    @pytest.mark.parametrize("data", [b"", b"\1", bytes(HEADER_BYTES)])
    def test_may_be_too_short_for_a_stream(self, data):
        assert Input(data).stream == b""
        assert Input(data).pieces == []
