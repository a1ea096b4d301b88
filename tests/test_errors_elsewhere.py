"""Errors say the same after pickling, copying, and being made again from their args."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.errors_made import exceptions, made, raise_error, told

ROOT = Path(__file__).parent.parent
NAMES = list(made())


@pytest.fixture(params=NAMES)
def error(request):
    return made()[request.param]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_error_says_the_same(error, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert told(again) == told(error)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copied_error_says_the_same(error, duplicate):
    again = duplicate(error)
    assert again is not error
    assert told(again) == told(error)


def test_an_error_is_made_again_from_its_args(error):
    assert told(type(error)(*error.args)) == told(error)


def test_an_error_that_was_pickled_can_be_changed_and_pickled_again(error):
    if not hasattr(error, "executed"):
        pytest.skip("it belongs to a handler")
    for executed in ("yes", "no", "maybe"):
        error = pickle.loads(pickle.dumps(error))
        error.executed = executed
        assert error.executed == executed
        assert told(type(error)(*error.args)) == told(error)


def test_what_was_added_to_an_error_is_pickled_too(error):
    error.where = "here"
    error.__notes__ = ["a note"]  # as add_note does it, from Python 3.11 on
    again = pickle.loads(pickle.dumps(error))
    assert again.where == "here"
    assert again.__notes__ == ["a note"]
    assert copy.copy(error).__notes__ == ["a note"]


def test_a_process_that_only_imports_gtcp_knows_every_class():
    """By the name of its module alone, as Celery looks for it."""
    classes = {(type(each).__module__, type(each).__name__) for each in made().values()}
    code = f"import sys, gtcp; [getattr(sys.modules[m], n) for m, n in {sorted(classes)!r}]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def executor():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("name", exceptions())
def test_an_error_passes_through_a_process_pool_executor(executor, name):
    error = executor.submit(raise_error, name).exception(60)
    assert told(error) == told(made()[name])
    assert "the cause" in str(error.__cause__)


def test_errors_pass_through_a_multiprocessing_pool():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results = {name: pool.apply_async(raise_error, (name,)) for name in exceptions()}
        for name, result in results.items():
            with pytest.raises(type(made()[name])) as raised:
                result.get(60)
            assert told(raised.value) == told(made()[name])
        pool.close()
        pool.join()


@pytest.mark.programs
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_errors_pass_through_celery(pool, tmp_path, monkeypatch):
    """By JSON in a file from its worker, and in the worker by pickle where that has a child."""
    pytest.importorskip("celery")
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("GTCP_TEST_FOLDER", str(tmp_path))
    caller = """\
from tests.errors_celery import app
from tests.errors_made import exceptions, made, told
results = {name: app.send_task("raise_error", (name,)) for name in exceptions()}
for name, result in results.items():
    error = result.get(30, propagate=False, interval=0.05)
    assert told(error) == told(made()[name]), (told(error), told(made()[name]))
    assert type(error) is type(made()[name])
print(len(results))
"""
    command = [sys.executable, "-m", "celery", "-A", "tests.errors_celery", "worker"]
    command += ["--pool", pool, "--concurrency", "1", "--without-mingle", "--without-gossip"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        done = subprocess.run(
            [sys.executable, "-c", caller], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.stdout == f"{len(exceptions())}\n", done.stderr + log.read_text()
    finally:
        os.kill(worker.pid, signal.SIGTERM)
        try:
            worker.wait(30)
        finally:
            worker.kill()
            worker.wait()
