"""Where programs are required, a test that skips for want of one fails."""

from __future__ import annotations

import pytest

CONFTEST = "from tests.conftest import pytest_runtest_makereport"
TESTS = """
    import pytest

    @pytest.mark.programs
    def test_program():
        pytest.skip("redis-server is not installed")

    @pytest.mark.skipif(True, reason="haproxy is not installed")
    @pytest.mark.programs
    def test_marked():
        pass

    @pytest.mark.programs
    def test_kernel():
        pytest.skip("no network namespaces here")

    def test_other():
        pytest.skip("x is not installed")
"""


@pytest.mark.parametrize(
    ("required", "outcomes"),
    [("", {"skipped": 4}), ("required", {"skipped": 2, "failed": 1, "errors": 1})],
)
def test_skip_of_a_program_fails_where_it_is_required(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    required: str,
    outcomes: dict[str, int],
) -> None:
    monkeypatch.setenv("TEST_PROGRAMS", required)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers = programs: x")
    result = pytester.runpytest("-p", "no:cacheprovider", "-W", "ignore")
    assert result.parseoutcomes() == outcomes
    if required:
        result.stdout.fnmatch_lines(["*redis-server is not installed*"])
