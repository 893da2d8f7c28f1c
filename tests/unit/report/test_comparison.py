"""A comparison on the terminal: every variant can be read off, however many there are and however long their names."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from simulator.report.comparison import print_comparison
from simulator.report.grids import change_text
from simulator.scenario.compare import compare

STEP = "quickstart"
RECOMPUTE = "workloads.finetune.plan.recompute"


def printed(vary: dict[str, list[object]], width: int) -> list[str]:
    console = Console(width=width, record=True, file=StringIO())
    print_comparison(compare([STEP], vary, depth="step", workload="finetune"), console)
    return console.export_text().splitlines()


def test_long_names_become_letters_with_a_line_each() -> None:
    lines = printed({RECOMPUTE: ["none", "selective", "full"], "workloads.finetune.plan.tp": [2, 4]}, 200)
    start = lines.index(next(line for line in lines if line.startswith("variants")))
    legend = [line.split() for line in lines[start + 2 : start + 8]]
    assert [row[0] for row in legend] == list("ABCDEF")
    assert {frozenset(row[1:]) for row in legend} == {
        frozenset((r, t)) for r in ("none", "selective", "full") for t in ("2", "4")
    }
    heads = lines[next(i for i, line in enumerate(lines) if line.startswith("figures")) + 1].split()
    assert " ".join(heads) == "A B vs A C vs A D vs A E vs A F vs A"


def test_short_names_stay() -> None:
    lines = printed({"workloads.finetune.plan.tp": [2, 4]}, 100)
    assert "tp 2 tp 4 vs tp 2" in [" ".join(line.split()) for line in lines]


@pytest.mark.parametrize(
    ("first", "other", "text"),
    [
        (1.0, 1.0, "="),
        (1.0, 1.5, "+50.0 %"),
        (2.0, 1.0, "-50.0 %"),
        (1.0, 1.0 + 1e-9, "="),
        (0.0, 1.0, "new"),
        (None, 1.0, ""),
    ],
)
def test_changes(first: float, other: float, text: str) -> None:
    assert change_text(first, other) == text
