"""Rounds become cells, cells tables; a run is saved and read back as it was."""

import pytest

from benchmarks.results import Part, Run, cell, load, table


def run_of(*tables):
    return Run(
        command="python -m benchmarks",
        when="2026-01-31",
        seconds=1.5,
        machine={"CPU": "a <fast> one"},
        versions={"Python": "3.13"},
        parts=[Part("client", list(tables), ["mprpc: left out"])],
    )


@pytest.mark.parametrize(
    ("rounds", "others", "over_row", "shown"),
    [
        ([90.0, 130.0, 100.0], (), True, (100.0, 0.2, None)),
        # The machine slowed down by ten in the second round, for both alike.
        ([100.0, 10.0, 100.0], [300.0, 30.0, 200.0], True, (100.0, 0.45, 3.0)),
        ([100.0, 10.0, 100.0], [400.0, 40.0, 200.0], False, (100.0, 0.45, 0.25)),
        # Rounds are compared with the same rounds only.
        ([None, 10.0, 20.0], [7.0, None, 40.0], True, (15.0, 1 / 3, 2.0)),
        ([None, 10.0], [7.0, None], True, (10.0, 0.0, None)),
        ([0.0, 0.0], [1.0, 1.0], True, (0.0, 0.0, None)),
        ([None, None], (), True, None),
        ([], (), True, None),
    ],
)
def test_a_cell_is_the_median_half_the_range_and_the_median_of_the_rounds_ratios(
    rounds, others, over_row, shown
):
    made = cell(rounds, others, over_row)
    assert (made and (made.median, made.spread, made.ratio)) == shown


def test_a_table_leaves_out_what_was_not_measured():
    rows = {
        "gtcp": {"a": [10.0], "b": [20.0], "c": [None]},
        "peer": {"a": [5.0], "b": [None]},
        "gone": {"a": [None]},
    }
    made = table("title", "calls/s", rows, reference="gtcp")
    assert made.columns == ["a", "b"]
    assert {name: list(row) for name, row in made.rows.items()} == {
        "gtcp": ["a", "b"],
        "peer": ["a"],
    }
    assert made.rows["peer"]["a"].ratio == 2.0
    assert made.rows["gtcp"]["a"].ratio is None


@pytest.mark.parametrize(
    ("reference", "over_row", "means"),
    [("gtcp", True, "gtcp ÷ it"), ("gtcp", False, "it ÷ gtcp"), ("absent", True, "")],
)
def test_a_table_says_what_its_ratios_mean(reference, over_row, means):
    made = table("title", "s", {"gtcp": {"a": [1.0]}}, reference=reference, over_row=over_row)
    assert made.ratio_means == means


def test_a_run_is_read_back_as_it_was_saved(tmp_path):
    run = run_of(table("title", "calls/s", {"gtcp": {"a": [1.0, 2.0]}}, reference="gtcp"))
    run.save(tmp_path / "new" / "run.json")
    assert load(tmp_path / "new" / "run.json") == run
