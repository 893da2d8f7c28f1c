"""Figures of many variants show the numbers of their rows."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from simulator.errors import ConfigError
from simulator.plot import (
    SWEEP_FIGURES,
    cost_bars,
    explore,
    goodput_against_rate,
    mfu_against_scale,
    pareto,
    pictures,
    save,
    variant_bars,
)
from simulator.plot.compare import compare_parts, compare_tornado
from simulator.plot.pareto import frontier
from simulator.results.tables import Result
from simulator.scenario.compare import compare
from simulator.scenario.sweep_table import Sweep

RATE = "workloads.chat.requests.rate"


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def served(gpu: str, rate: float, tpot: float, **more: Any) -> dict[str, Any]:
    row = {
        "point": 0, "cluster.nodes.profile": gpu, RATE: f"{rate:g} /s", "status": "ok", "workload": "chat",
        "kind": "serving", "feasible": True, "reason": "", "accelerators": 8, "output_tokens_per_s_per_gpu": 10 * rate,
        "tpot_median": tpot, "tpot_p90": 1.5 * tpot, "slo_goodput": 0.9 * rate, "slo_attainment": 0.9, "slo_met": True,
        "unstable": False, "usd_per_million_tokens": 100 / rate, "usd_per_million_tokens_low": 50 / rate,
        "usd_per_million_tokens_high": 150 / rate, "arrival_rate": rate,
    }  # fmt: skip
    return row | more


def sweep_of(rows: list[dict[str, Any]], *axes: str, slo: dict[str, Any] | None = None) -> Sweep:
    document = {"workloads": [{"serving": "chat", "slo": slo or {}}]}
    return Sweep(axes, tuple(rows), tuple({a: r[a] for a in axes} for r in rows), "run", document=document)


ROWS = [served("a", r, 0.01 + r / 1000) for r in (2.0, 4.0, 8.0)] + [served("b", r, 0.02 + r / 500) for r in (4.0, 8.0)]
SWEEP = sweep_of(ROWS, "cluster.nodes.profile", RATE, slo={"tpot": "25 ms", "percentile": 90})


def marks(ax: Axes) -> np.ndarray:
    return np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])


def test_pareto_places_every_variant_at_its_speed_and_throughput() -> None:
    ax = pareto(SWEEP)
    wanted = [(1 / (1.5 * r["tpot_median"]), r["output_tokens_per_s_per_gpu"]) for r in ROWS]
    assert np.sort(marks(ax), axis=0) == pytest.approx(np.sort(np.array(wanted), axis=0))
    limit = next(line for line in ax.lines if str(line.get_label()).startswith("limit"))
    assert limit.get_xdata()[0] == pytest.approx(40.0)  # 1 / 25 ms, at the percentile of the limit
    assert "p90" in ax.get_xlabel()


def test_pareto_without_a_limit_takes_the_median() -> None:
    ax = pareto(sweep_of(ROWS, "cluster.nodes.profile", RATE))
    assert "median" in ax.get_xlabel()
    assert max(marks(ax)[:, 0]) == pytest.approx(1 / 0.012)


def test_variants_that_break_a_limit_are_hollow_and_not_on_the_frontier() -> None:
    broken = [r | {"slo_met": False} if r[RATE] == "8 /s" else r for r in ROWS]
    ax = pareto(sweep_of(broken, "cluster.nodes.profile", RATE))
    hollow = [c for c in ax.collections if not len(c.get_facecolor())]
    assert sum(len(c.get_offsets()) for c in hollow) == 2
    line = next(line for line in ax.lines if line.get_label() == "frontier")
    assert max(line.get_ydata()) == 40


def test_frontier_is_what_no_other_point_beats() -> None:
    draw = np.random.Generator(np.random.PCG64(3)).random((60, 2))
    kept = {(x, y) for x, y, _ in frontier([(x, y, None) for x, y in draw])}
    for x, y in draw:
        beaten = ((draw[:, 0] >= x) & (draw[:, 1] >= y) & ((draw[:, 0] > x) | (draw[:, 1] > y))).any()
        assert ((x, y) in kept) is not bool(beaten)


def test_goodput_is_per_gpu_and_falls_through_the_level_between_two_rates() -> None:
    shares = {2.0: 1.0, 4.0: 0.95, 8.0: 0.75}
    rows = [served("a", r, 0.01, slo_attainment=s, slo_goodput=s * r) for r, s in shares.items()]
    upper = goodput_against_rate(sweep_of(rows, RATE, slo={"ttft": "1 s", "percentile": 90}))
    drawn = next(line for line in upper.lines if line.get_marker() == "o")
    assert drawn.get_xdata().tolist() == [0.25, 0.5, 1.0]
    assert drawn.get_ydata() == pytest.approx([0.25, 0.475, 0.75])
    lower = next(a for a in upper.figure.axes if a is not upper)
    fall = next(line for line in lower.lines if line.get_linestyle() == "--")
    assert fall.get_xdata()[0] == pytest.approx(0.5 + 0.5 * 0.05 / 0.2)
    with pytest.raises(ConfigError, match="run at one rate"):
        goodput_against_rate(sweep_of(rows[:1], RATE))


def test_utilisation_against_scale_keeps_failures_in_sight() -> None:
    frame = pd.DataFrame(
        {
            "point": range(5), "cluster.nodes.count": [1, 2, 4, 1, 2], "plan.tp": [1, 1, 1, 8, 8], "workload": "job",
            "status": ["infeasible", "ok", "ok", "ok", "ok"], "feasible": [False, True, True, True, True],
            "accelerators": [8, 16, 32, 8, 16], "mfu": [np.nan, 0.5, 0.4, 0.3, 0.25],
        }
    )  # fmt: skip
    ax = mfu_against_scale(frame)
    lines = {str(line.get_label()): line.get_data() for line in ax.lines}
    assert [list(v) for v in lines["tp 1"]] == [[16, 32], [50, 40]]
    assert [list(v) for v in lines["tp 8"]] == [[8, 16], [30, 25]]
    assert list(lines["does not fit"][0]) == [8]


RECOMPUTE = [
    {
        "point": point, "plan.recompute": name, "workload": "job", "kind": "training", "status": status,
        "feasible": status == "ok", "accelerators": 64, "seconds": seconds, "seconds_low": 0.9 * seconds,
        "seconds_high": 1.2 * seconds, "memory_peak": peak * 2.0**30, "memory_capacity": 80 * 2.0**30, "mfu": 0.5,
    }
    for point, (name, status, seconds, peak) in enumerate(
        [("none", "infeasible", np.nan, 89.0), ("selective", "ok", 13.0, 59.0), ("full", "ok", 18.0, 47.0)]
    )
]  # fmt: skip


def test_words_along_an_axis_are_bars_in_their_order() -> None:
    first = variant_bars(pd.DataFrame(RECOMPUTE))
    panels = first.figure.axes
    assert [t.get_text() for t in first.get_yticklabels()] == ["none", "selective", "full"]
    assert [axes.get_xlabel() for axes in panels] == ["time of one step [s]", "memory peak [GiB]"]  # MFU is one for all
    time, memory = ([(round(p.get_y() + 0.31), p.get_width()) for p in axes.patches] for axes in panels)
    assert time == [(1, 13.0), (2, 18.0)] and memory == pytest.approx(np.array([(0, 89.0), (1, 59.0), (2, 47.0)]))
    assert [t.get_text() for t in first.texts if t.get_text().startswith("does")] == ["does not fit"]
    assert [line.get_xdata()[0] for line in panels[1].lines if line.get_linestyle() == "--"] == [80.0]
    assert [bool(p.get_hatch()) for p in panels[1].patches] == [True, False, False]


def test_figures_that_read_the_same_for_all_that_fit_have_no_panel() -> None:
    rows = [row | {"effective_time_ratio": 1.0 - 1e-9 * place} for place, row in enumerate(RECOMPUTE)]
    first = variant_bars(pd.DataFrame(rows))
    assert [axes.get_xlabel() for axes in first.figure.axes] == ["time of one step [s]", "memory peak [GiB]"]


@pytest.mark.parametrize(("peak", "place"), [(30.0, 30.0), (70.0, 80.0), (79.0, 80.0), (85.0, 85.0)])
def test_a_number_is_not_written_across_the_line_of_the_capacity(peak: float, place: float) -> None:
    rows = [row | {"memory_peak": peak * 2.0**30} if row["plan.recompute"] == "full" else row for row in RECOMPUTE]
    first = variant_bars(pd.DataFrame(rows), metrics=["memory_peak"])
    assert {t.get_text(): t.xy[0] for t in first.texts}[f"{peak:.3g}"] == pytest.approx(place)


def test_one_size_is_no_scale() -> None:
    with pytest.raises(ConfigError, match="64 accelerators alone"):
        mfu_against_scale(pd.DataFrame(RECOMPUTE))
    with pytest.raises(ConfigError, match="one variant"):
        variant_bars(pd.DataFrame(RECOMPUTE[:1]))
    with pytest.raises(ConfigError, match="changes nothing of it"):
        variant_bars(pd.DataFrame([RECOMPUTE[1], RECOMPUTE[1] | {"plan.recompute": "full"}]))


def test_a_point_is_as_good_as_the_worst_of_its_workloads() -> None:
    states = [(0, "ok"), (0, "infeasible"), (1, "ok"), (1, "ok"), (2, "infeasible"), (2, "error")]
    rows = [{"point": point, "status": status} for point, status in states]
    assert sweep_of(rows).states == {"ok": 1, "infeasible": 1, "error": 1}


def test_what_workloads_share_is_drawn_once() -> None:
    result = Result({})
    drawn = [each for name, each in pictures(result, ["a", "b"]) if name == "feeder_power"]
    assert drawn == [None]
    assert [each for _, each in pictures(result, ["a"], asked=True, only="feeder_power")] == ["a"]
    assert [each for _, each in pictures(result, ["a", "b"], only="memory_bars")] == ["a", "b"]


def test_costs_are_sorted_with_the_range_of_their_prices() -> None:
    ax = cost_bars(SWEEP)
    widths = [p.get_width() for p in ax.patches]
    assert widths == sorted(widths) == pytest.approx([12.5, 12.5, 25, 25, 50])
    whisker = ax.collections[0].get_segments()[0][:, 0]
    assert whisker.tolist() == pytest.approx([6.25, 18.75])


def test_a_frame_draws_like_its_sweep() -> None:
    for figure in (pareto, cost_bars):
        assert figure(SWEEP.frame()).get_xlabel().split("[")[1] == figure(SWEEP).get_xlabel().split("[")[1]


def test_figures_say_which_kind_of_source_they_need(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="no figure of a sweep"):
        save(SWEEP, "memory_bars", tmp_path / "x.png")
    with pytest.raises(ConfigError, match="is it of the right kind and depth"):
        mfu_against_scale(SWEEP)
    assert list(SWEEP_FIGURES) == [
        "variant_bars", "pareto", "goodput_against_rate", "mfu_against_scale", "cost_bars", "tco_bars"
    ]  # fmt: skip


def test_the_mouse_is_told_every_variant_and_its_figures() -> None:
    pytest.importorskip("plotly")
    broken = [r | {"slo_met": False} if r[RATE] == "8 /s" else r for r in ROWS]
    figure = explore(sweep_of(broken, "cluster.nodes.profile", RATE), x="usd_per_million_tokens")
    told = [text for trace in figure.data for text in trace.text]
    assert len(told) == len(ROWS) and len(set(told)) == len(told)
    assert all("usd per million tokens: " in text and "output tokens per s per gpu: " in text for text in told)
    symbols = [symbol for trace in figure.data for symbol in trace.marker.symbol]
    assert symbols.count("circle-open") == sum(not row.get("slo_met", True) for row in broken)
    assert figure.layout.xaxis.title.text.endswith("[USD]")
    with pytest.raises(ConfigError, match="unknown column 'tpot_p9'"):
        explore(SWEEP, x="tpot_p9")


def test_figures_of_a_comparison_show_its_tables() -> None:
    vary = ["workloads.finetune.plan.recompute=selective,full"]
    found = compare(["quickstart"], vary, depth="step", workload="finetune")
    parts = compare_parts(found)
    widths = {bars.get_label(): sum(p.get_width() for p in bars) for bars in parts.containers}
    assert parts.get_xlabel() == "time [s]"
    assert list(widths.values()) == pytest.approx([r.of("finetune")["seconds"] for r in found.results])
    swings = compare_tornado(found)
    labels = [label.get_text() for label in swings.get_yticklabels()]
    shown = dict(zip(labels, (bar.get_width() for bar in swings.patches), strict=True))
    assert shown == {f"{r['constant']}  (shared)": pytest.approx(100 * r["swing"]) for r in found.tornado[: len(shown)]}
    with pytest.raises(ConfigError, match="no parts of 'power'"):
        compare_parts(found, "power")
    same = compare(["quickstart", "quickstart"], depth="step", workload="finetune")
    with pytest.raises(ConfigError, match="no constant moves"):
        compare_tornado(same)
