"""The order of measurements, and participants that fail."""

from benchmarks.contest import Contest, Figure, hold
from benchmarks.processes import Failed

FIGURES = [Figure("rps", "Calls", "calls/s"), Figure("p99", "Latency", "µs")]


def test_contenders_take_turns_and_every_other_round_goes_backwards():
    order = []

    def measure(row, column, seconds):
        order.append((row, column, seconds))
        return {"rps": 1.0}

    contest = Contest(["a", "b"], ["x", "y"], measure, FIGURES)
    hold(contest, rounds=2, seconds=0.5)
    assert [row + column for row, column, _ in order] == [
        *["ax", "bx", "ay", "by"],
        *["bx", "ax", "by", "ay"],
    ]
    assert {seconds for _, _, seconds in order} == {0.5}
    assert contest.steps(2) == len(order)


def test_every_figure_becomes_a_table_and_the_last_one_has_the_note():
    def measure(row, _column, _seconds):
        return {"rps": 10.0, "p99": None if row == "b" else 5.0}

    tables, failures = hold(
        Contest(["a", "b"], ["x"], measure, FIGURES, reference="a", note="noted"), 3, 0.1
    )
    assert [(each.title, list(each.rows), each.note) for each in tables] == [
        ("Calls", ["a", "b"], ""),
        ("Latency", ["a"], "noted"),
    ]
    assert tables[0].rows["b"]["x"].rounds == [10.0, 10.0, 10.0]
    assert failures == []


def test_one_who_fails_is_not_measured_again_and_the_others_are():
    calls = []

    def measure(row, column, _seconds):
        calls.append(row)
        if row == "b" and len(calls) > 2:
            raise Failed("ended: out of breath")
        return {"rps": 2.0}

    tables, failures = hold(Contest(["a", "b"], ["x"], measure, FIGURES[:1]), 3, 0.1)
    assert calls == ["a", "b", "b", "a", "a"]
    assert failures == ["b, x: ended: out of breath"]
    assert tables[0].rows["a"]["x"].rounds == [2.0, 2.0, 2.0]


def test_a_round_that_found_nothing_does_not_shift_the_ratios():
    found = iter([{"rps": 8.0}, {}, {"rps": 2.0}, {"rps": 4.0}])  # a b, then b a

    tables, _ = hold(
        Contest(["a", "b"], ["x"], lambda *_: next(found), FIGURES[:1], reference="a"), 2, 0.1
    )
    assert tables[0].rows["b"]["x"].ratio == 2.0
