"""Figures leave matplotlib's settings alone, read on any ground, and keep apart what colour-blind readers see."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from simulator.errors import ConfigError
from simulator.plot import FIGURES, memory_bars, save
from simulator.plot.memory import CLASSES
from simulator.plot.source import scale_of
from simulator.plot.style import INK, colour_of, ink_on
from simulator.results.tables import Result

SEEN_BY = {
    "everyone": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
"""Linear RGB as seen: Machado, Oliveira & Fernandes 2009, IEEE TVCG 15(6), table of severity 1.0."""

TOGETHER = {
    "memory": CLASSES,
    "step": ("forward", "tensor_parallel", "backward", "recompute", "bubble", "data_parallel", "optimizer", "host"),
    "pipeline": ("forward", "backward", "input_gradient", "weight_gradient", "evict", "load"),
    "latency": ("ttft", "tpot", "e2e"),
    "links": ("hbm", "scale_up", "scale_out"),
}

DRAWN = [name for name in FIGURES if name not in ("failures_and_goodput", "feeder_power")]
"""Nothing fails in the shared result, and power is not short."""


def lab(colour: str, matrix: object) -> np.ndarray:
    """CIELAB (D65) of a colour seen through ``matrix``."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in to_xyz @ seen / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("reader", SEEN_BY)
@pytest.mark.parametrize("figure", TOGETHER)
def test_colours_of_one_figure_differ_clearly(reader: str, figure: str) -> None:
    for a, b in itertools.combinations(TOGETHER[figure], 2):
        assert np.linalg.norm(lab(colour_of(a), SEEN_BY[reader]) - lab(colour_of(b), SEEN_BY[reader])) > 12, (a, b)


def test_settings_of_the_user_stay_as_they_are(served: Result) -> None:
    before = dict(plt.rcParams)
    for name in DRAWN:
        FIGURES[name](served)
    assert dict(plt.rcParams) == before
    plt.close("all")


def test_dark_notebooks_get_dark_ink_on_a_white_card(served: Result) -> None:
    with plt.style.context("dark_background"):
        for name in DRAWN:
            ax = FIGURES[name](served)
            ax.figure.canvas.draw()
            ticks = [t for a in ax.figure.axes for t in (*a.get_xticklabels(), *a.get_yticklabels())]
            assert {to_hex(t.get_color()) for t in ticks} == {INK}
            assert {to_hex(t.get_color()) for t in ax.get_legend().get_texts()} == {INK} if ax.get_legend() else True
            assert to_hex(ax.figure.get_facecolor()) == "#ffffff"
    plt.close("all")


def test_axes_of_the_caller_keep_their_ink(served: Result) -> None:
    with plt.style.context("dark_background"):
        _, mine = plt.subplots()
        assert memory_bars(served, ax=mine) is mine
        assert to_hex(mine.title.get_color()) in ("#ffffff", INK)
        assert {to_hex(t.get_color()) for t in mine.get_xticklabels()} == {"#ffffff"}
    plt.close("all")


@pytest.mark.parametrize(
    ("largest", "unit"), [(3e-7, "ns"), (0.02, "ms"), (20.0, "s"), (1200.0, "min"), (4e4, "h"), (1e6, "d")]
)
def test_axes_use_readable_units(largest: float, unit: str) -> None:
    scale = scale_of("time", "seconds", largest)
    assert scale.label == f"seconds [{unit}]"
    assert 1 <= scale.factor * largest < 1000


def test_ink_reads_on_its_ground() -> None:
    assert ink_on("#0072B2") == "white"
    assert ink_on("#F0E442") == "black"


def test_save_writes_the_formats_it_names(served: Result, tmp_path: Path) -> None:
    signs = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for kind, sign in signs.items():
        path = save(served, "memory_bars", tmp_path / "new" / f"memory.{kind}", "chat")
        assert path.read_bytes().startswith(sign)
    assert not plt.get_fignums()


def test_save_refuses_what_it_cannot_draw(served: Result, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'memory_bars'"):
        save(served, "memory_bar", tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"end it in \.png"):
        save(served, "memory_bars", tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())
