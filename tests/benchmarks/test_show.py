"""Output for readers: text, Markdown, a chart, the documentation's figures."""

from xml.etree import ElementTree

import pytest

from benchmarks import parts
from benchmarks.chart import panels, svg
from benchmarks.machine import ROOT
from benchmarks.publish import BEGIN, END, publish, with_figures
from benchmarks.results import load, table
from benchmarks.show import as_markdown, as_text, number, run_as_markdown
from tests.benchmarks.test_results import run_of


@pytest.fixture
def calls():
    rows = {
        "gtcp": {parts.SEQUENTIAL: [10_000.0], parts.CONCURRENT: [200_000.0]},
        "a | <b>": {parts.SEQUENTIAL: [12_000.0, 13_000.0, 8_000.0]},
    }
    return table(parts.CALLS, "calls/s", rows, reference="gtcp", note="noted")


def test_a_number_has_the_digits_that_mean_something():
    values = (123456.4, 1000.0, 78.94, 1.234, 0, 7)
    assert [number(each) for each in values] == ["123,456", "1,000", "78.9", "1.23", "0", "7"]


def test_text_stands_in_columns(calls):
    lines = as_text(calls).splitlines()
    assert lines[0] == f"{parts.CALLS}: calls/s (in parentheses: gtcp ÷ it)"
    assert lines[2].split() == ["gtcp", "10,000", "200,000"]
    assert lines[3].split() == ["a", "|", "<b>", "12,000", "±21%", "(0.83)", "-"]
    assert lines[2].index("10,000") + len("10,000") == lines[3].index("(0.83)") + len("(0.83)")
    assert lines[4] == "  noted"


def test_text_that_would_be_too_wide_goes_on_below(calls):
    lines = as_text(calls, width=35).splitlines()
    assert max(map(len, lines[1:])) <= 35
    assert [line.split() for line in lines[-4:-1]] == [
        ["64", "callers"],
        ["gtcp", "200,000"],
        ["a", "|", "<b>", "-"],
    ]


def test_a_figure_of_nothing_has_no_spread():
    rows = {"gtcp": {"a": [0.001, -0.002, 0.001]}}
    assert as_text(table("Growth", "MB", rows)).splitlines()[-1].split() == ["gtcp", "0.00"]


def test_a_wide_table_is_transposed_in_markdown():
    wide = table("Wide", "MB", {"gtcp": {str(number): [float(number)] for number in range(1, 8)}})
    rows = [line for line in as_markdown(wide).splitlines() if line.startswith("|")]
    assert rows[0] == "|  | gtcp |"
    assert rows[2:] == [f"| {number} | {number} |" for number in range(1, 8)]


def test_markdown_has_as_many_cells_in_every_row(calls):
    rows = [line for line in as_markdown(calls).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}
    assert "noted" in as_markdown(calls)


def test_a_run_is_shown_with_its_command_machine_and_versions(calls):
    text = run_as_markdown(run_of(calls))
    for expected in (
        "`python -m benchmarks`",
        "CPU: a <fast> one",
        "Python 3.13",
        "mprpc: left out",
    ):
        assert expected in text


def test_the_chart_shows_the_highest_first_and_is_well_formed(calls):
    run = run_of(calls)
    assert [panel.bars for panel in panels(run)] == [
        [("gtcp", 200_000.0)],
        [("a | <b>", 12_000.0), ("gtcp", 10_000.0)],
    ]
    texts = [each.text for each in ElementTree.fromstring(svg(run)).iter() if each.text]
    assert "a | <b>" in texts
    assert any("a <fast> one" in text for text in texts)


def test_a_run_without_calls_has_no_chart():
    assert svg(run_of(table("Memory", "MB", {"gtcp": {"a": [1.0]}}))) == ""


def test_publishing_replaces_the_figures_and_keeps_the_rest(calls, tmp_path):
    run = run_of(calls)
    run.save(tmp_path / "all.json")
    page = tmp_path / "reference" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    publish(tmp_path / "all.json", tmp_path)
    publish(tmp_path / "all.json", tmp_path)  # again changes nothing
    text = page.read_text(encoding="utf-8")
    assert text == f"before\n\n{BEGIN}\n\n{run_as_markdown(run)}\n\n{END}\n\nafter\n"
    assert load(tmp_path / "benchmarks.json") == run
    assert (tmp_path / "benchmarks.svg").read_text(encoding="utf-8") == svg(run)


def test_a_page_without_marks_is_refused(calls):
    with pytest.raises(ValueError, match="figures: begin"):
        with_figures("no marks", run_of(calls))


def test_the_documentation_shows_the_run_that_is_saved_beside_it():
    docs = ROOT / "docs"
    run = load(docs / "benchmarks.json")
    page = (docs / "reference" / "benchmarks.md").read_text(encoding="utf-8")
    assert with_figures(page, run) == page
    assert (docs / "benchmarks.svg").read_text(encoding="utf-8") == svg(run)
