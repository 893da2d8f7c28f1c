"""Rounds of benchmarks: what is measured in which order, what a budget leaves out, what an interruption keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.__main__ import report
from benchmarks.rounds import Journal, ratios, run_rounds

SECONDS = {("quick", "now"): 1.0, ("quick", "before"): 2.0, ("long", "now"): 30.0, ("long", "before"): 30.0}
TREES = ["now", "before"]


class Machine:
    """A clock that only measuring moves; the case takes its seconds, and one of the trees lacks ``new``."""

    def __init__(self, broken_at: int = 10**9) -> None:
        self.now, self.calls, self.broken_at = 0.0, list[tuple[str, str]](), broken_at

    def measure(self, tree: str, case: str) -> float | None:
        if len(self.calls) == self.broken_at:
            raise KeyboardInterrupt
        self.calls.append((tree, case))
        self.now += SECONDS.get((case, tree), 0.0)
        return SECONDS.get((case, tree))

    def run(self, journal: Journal, budget: float, rounds: int = 5, say: Callable[[str], None] = str) -> None:
        cases = ["long", "quick"]
        run_rounds(cases, TREES, rounds, budget, journal, self.measure, say, lambda: self.now)


def test_a_budget_goes_to_the_cheap_cases_after_one_round_of_all(tmp_path: Path) -> None:
    machine, journal = Machine(), Journal.open(tmp_path / "a.jsonl")
    machine.run(journal, 80.0)
    assert len(journal.of("long", "now")) == 1
    assert len(journal.of("quick", "now")) == 5
    assert machine.now <= 80.0
    assert machine.calls[:4] == [("now", "long"), ("before", "long"), ("now", "quick"), ("before", "quick")]
    assert machine.calls[4:6] == [("before", "quick"), ("now", "quick")]  # the order turns


def test_the_first_round_is_made_whatever_it_takes(tmp_path: Path) -> None:
    machine, journal = Machine(), Journal.open(tmp_path / "a.jsonl")
    machine.run(journal, 0.0)
    assert len(machine.calls) == 4


@pytest.mark.parametrize("stop", range(8))
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, stop: int) -> None:
    whole, path = Machine(), tmp_path / "b.jsonl"
    whole.run(Journal.open(tmp_path / "a.jsonl"), 1e9, rounds=2)
    first, second = Machine(broken_at=stop), Machine()
    with pytest.raises(KeyboardInterrupt):
        first.run(Journal.open(path), 1e9, rounds=2)
    with path.open("a") as file:
        file.write('["long", "no')  # killed while writing
    with path.open("a") as file:
        file.write("\n")
    second.run(Journal.open(path), 1e9, rounds=2)
    assert sorted(first.calls + second.calls) == sorted(whole.calls)
    assert Journal.open(path, fresh=True).known == []


def test_time_that_is_left_falls_to_nothing(tmp_path: Path) -> None:
    said = list[str]()
    Machine().run(Journal.open(tmp_path / "a.jsonl"), 1e9, rounds=2, say=said.append)
    assert said[0].startswith("round 1, case 1 of 2, 0 min 0 s left")  # nothing is known yet
    assert said[2].startswith("round 2, case 1 of 2, 1 min 3 s left")  # both cases once more: 3 s and 60 s
    assert said[3].startswith("round 2, case 2 of 2, 1 min 0 s left")


def test_ratios_are_of_one_round_and_say_how_far_they_spread(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "a.jsonl")
    Machine().run(journal, 1e9, rounds=3)
    assert ratios(journal, "quick", "now", "before") == [0.5] * 3
    lines = list(report(journal, ["long", "quick", "new"], "HEAD~1"))
    assert len(lines) == 2  # a case that was not measured has no line
    assert "ratio  1.00 (1.00 to 1.00), 3 rounds" in lines[0]
    assert lines[1].endswith("ratio  0.50 (0.50 to 0.50), 3 rounds faster")
    SECONDS["new", "now"] = 1.0
    try:
        run_rounds(["new"], TREES, 1, 0.0, journal, Machine().measure)
        assert ratios(journal, "new", "now", "before") == []
        assert "before" not in next(report(journal, ["new"], "HEAD~1"))
    finally:
        del SECONDS["new", "now"]
