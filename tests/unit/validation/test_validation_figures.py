"""The two pictures of a validation name what they show in full."""

from __future__ import annotations

from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from simulator.validation.figures import error_plot, scatter_plot
from simulator.validation.rows import RowRecord

LONG = "Revisiting Reliability in Large-Scale ML Research Clusters (Kokolis et al.)"


NUMBERS = count()


def row(kind: str, source: str, predicted: float, published: float) -> RowRecord:
    """A record with an answer, all else empty."""
    values: dict[str, Any] = {f.name: "" for f in fields(RowRecord)}
    numbers = {"predicted": predicted, "published": published, "error": predicted / published - 1}
    mine = {"kind": kind, "source": source, "configuration": str(next(NUMBERS))}
    return RowRecord(**{**values, **mine, **numbers})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that was saved."""
    found: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *arguments: Any, **more: Any) -> None:
        found.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", kept)
    return found


def test_the_error_plot_names_kinds_once_and_sources_whole(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [row("training_memory", "b", 2.0, 1.0), row("training_step_time", LONG, 1.1, 1.0)]
    rows.append(row("training_step_time", LONG, 0.5, 1.0))
    assert error_plot(rows, tmp_path / "errors.png")
    (axis,) = figures[0].axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["training step time", f"{LONG} (2)", "training memory", "b (1)"]
    dots = {float(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "o"}
    assert set(dots) == {1.0, 3.0}
    assert dots[3.0] == 1.0  # twice the published value lies one doubling to the right


def test_the_scatter_names_four_sources_and_counts_the_others(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [row("training_step_time", name, 1.0, 1.0) for name in (*"fedccbbbaaaa", *[LONG] * 5)]
    assert scatter_plot(rows, tmp_path / "scatter.png")
    (axis,) = figures[0].axes
    labels = [text.get_text().replace("\n", " ") for text in axis.get_legend().get_texts()]
    assert labels == [LONG, "a", "b", "c", "3 more"]


def test_nothing_to_draw_draws_nothing(tmp_path: Path, figures: list[Figure]) -> None:
    assert not error_plot([], tmp_path / "errors.png")
    assert not scatter_plot([], tmp_path / "scatter.png")
    assert not figures
