"""Figures show the numbers of their tables: heights, ends and areas are read back from what was drawn."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from simulator.errors import ConfigError
from simulator.plot import (
    FIGURES,
    feeder_power,
    latency_cdf,
    memory_bars,
    pipeline_gantt,
    queue_and_kv,
    step_waterfall,
    traffic_bars,
)
from simulator.results.storage import load_result, save_result
from simulator.results.tables import Result

GIB = 2.0**30


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def note_of(ax: Axes) -> str:
    return " ".join(t.get_text() for t in ax.texts)


def rectangles(ax: Axes) -> np.ndarray:
    """[task, (left, right, stage)] of everything a Gantt chart draws but what it calls not recorded."""
    drawn = [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_label() != "not recorded"]
    corners = np.concatenate([[p.vertices[:4] for p in c.get_paths()] for c in drawn])
    return np.stack([corners[:, :, 0].min(1), corners[:, :, 0].max(1), corners[:, :, 1].mean(1)], axis=1)


# -- memory --------------------------------------------------------------------------------------------------------


def test_memory_bars_are_as_high_as_the_ledger(one_f_one_b: Result) -> None:
    ax = memory_bars(one_f_one_b)
    top = [max(p.get_y() + p.get_height() for p in ax.patches if abs(p.get_center()[0] - x) < 0.1) for x in range(8)]
    peaks = one_f_one_b.memory.groupby("stage")["bytes"].sum() / GIB
    assert top == pytest.approx(peaks.tolist())
    assert ax.get_ylabel() == "bytes [GiB]"


def test_memory_bars_draw_the_capacity_of_every_stage() -> None:
    rows = [("j", s, "hbm", "param", 1.0 * GIB, c * GIB, True) for s, c in ((0, 40), (1, 80))]
    frame = pd.DataFrame(rows, columns=["workload", "stage", "tier", "class", "bytes", "capacity", "fits"])
    lines = [line.get_ydata() for line in memory_bars(frame).lines]
    assert [list(y) for y in lines] == [[40, 40], [80, 80]]


def test_many_stages_are_grouped_and_the_fullest_is_never_hidden(trillion: Result) -> None:
    ax = memory_bars(trillion)
    peaks = trillion.memory.groupby("stage")["bytes"].sum() / GIB
    assert len(peaks) == 64
    assert len(ax.get_xticks()) == 16
    assert max(p.get_y() + p.get_height() for p in ax.patches) == pytest.approx(peaks.max())
    assert "fullest stage of its group" in note_of(ax)


def test_equal_neighbours_are_one_bar() -> None:
    rows = [("j", s, "hbm", "param", (2 if s == 0 else 1) * GIB, 80 * GIB, True) for s in range(40)]
    frame = pd.DataFrame(rows, columns=["workload", "stage", "tier", "class", "bytes", "capacity", "fits"])
    assert [t.get_text() for t in memory_bars(frame).get_xticklabels()] == ["0", "1–39"]


def test_a_tier_without_bytes_is_named(one_f_one_b: Result) -> None:
    with pytest.raises(ConfigError, match="nothing on the tier 'host', it has hbm"):
        memory_bars(one_f_one_b, tier="host")


# -- step ----------------------------------------------------------------------------------------------------------


def test_waterfall_is_contiguous_up_to_the_step_time(interleaved: Result) -> None:
    ax = step_waterfall(interleaved)
    last = max(p.get_y() for p in ax.patches)
    parts = [p for p in ax.patches if p.get_y() < last]
    ends = [p.get_x() + p.get_width() for p in parts]
    assert [p.get_x() for p in parts] == pytest.approx([0.0, *ends[:-1]])
    summary = interleaved.of("gpt3-175b")
    assert ends[-1] == pytest.approx(summary["seconds"], rel=1e-9)
    whole = [p.get_width() / summary["seconds"] for p in ax.patches if p.get_y() == last]
    shares = [summary[f"share_{t}"] for t in ("measured", "fitted", "borrowed", "datasheet", "assumed")]
    assert whole == pytest.approx([share for share in shares if share])
    assert sum(whole) == pytest.approx(1.0)


def test_waterfall_marks_floor_and_interval(interleaved: Result) -> None:
    summary = interleaved.of("gpt3-175b")
    ax = step_waterfall(interleaved)
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == pytest.approx([summary["floor_seconds"]])
    whisker = ax.collections[0].get_segments()[0][:, 0]
    assert whisker.tolist() == pytest.approx([summary["seconds_low"], summary["seconds_high"]])
    assert f"{summary['floor_seconds'] / summary['seconds']:.0%} of the speed of light" in note_of(ax)


def test_traffic_uses_bars_from_zero_unless_sizes_differ_hundredfold() -> None:
    def drawn(*sizes: float) -> Axes:
        links = ["hbm", "scale_up"][: len(sizes)]
        return traffic_bars(pd.DataFrame({"workload": ["j"] * len(sizes), "link": links, "bytes": sizes}))

    near = drawn(4 * GIB, 1 * GIB)
    assert near.get_xscale() == "linear"
    assert [p.get_width() for p in near.patches] == [4, 1]
    far = drawn(4096 * GIB, 1 * GIB)
    assert far.get_xscale() == "log"
    assert not far.patches  # the length of a bar would mean nothing
    assert [line.get_xdata()[0] for line in far.lines] == [4096, 1]


# -- pipeline ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one_f_one_b", "interleaved"])
def test_gantt_draws_every_task_of_its_window_once(name: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(name)
    whole = result.ops["start"].max() + 10
    boxes = rectangles(pipeline_gantt(result, window=(0, whole)))
    rows = result.ops.dropna(subset="start")
    assert len(boxes) == len(rows)
    assert (boxes[:, 1] - boxes[:, 0]).sum() == pytest.approx(rows["duration"].sum())
    for stage in range(8):
        mine = boxes[boxes[:, 2] == stage]
        mine = mine[mine[:, 0].argsort()]
        assert (mine[1:, 0] >= mine[:-1, 1] - 1e-9).all()


def test_gantt_of_1f1b_starts_with_the_closed_form(one_f_one_b: Result) -> None:
    """Stage s of p runs p − s forwards before its first backward (Narayanan et al. 2021, figure 4)."""
    rows = one_f_one_b.ops.query("kind == 'pipeline'")
    for stage, tasks in rows.groupby("stage"):
        phases = tasks.sort_values("start")["phase"].tolist()
        assert phases.index("backward") == 8 - stage


def test_a_long_step_is_cut_and_the_note_says_where(interleaved: Result, trillion: Result) -> None:
    for result, total in ((interleaved, 64), (trillion, 512)):
        ax = pipeline_gantt(result)
        low, high = ax.get_xlim()
        assert low == 0
        assert high < result.of(result.summary["workload"][0])["seconds"]
        assert f"of {total}" in note_of(ax)
    assert "all 24 micro-batches" in note_of(pipeline_gantt(interleaved_free(24)))


def interleaved_free(microbatches: int) -> pd.DataFrame:
    rows = [
        (
            "j",
            0,
            "compute",
            f"{k}{m}.0",
            "forward" if k == "F" else "backward",
            "pipeline",
            m,
            0,
            2.0 * m + (k == "B"),
            1.0,
        )
        for m in range(microbatches)
        for k in "FB"
    ]
    names = ["workload", "stage", "stream", "name", "phase", "kind", "microbatch", "chunk", "start", "duration"]
    return pd.DataFrame(rows, columns=names)


def test_tasks_that_overlap_share_the_height_of_their_stage() -> None:
    frame = interleaved_free(3)
    frame.loc[[2, 3], "start"] = 2.0  # forward and backward of micro-batch 1 run together
    (ax,) = pipeline_gantt(frame).figure.axes
    boxes = [p.get_extents() for c in ax.collections for p in c.get_paths()]
    assert sorted(round(b.height, 2) for b in boxes) == [0.42, 0.42, 0.84, 0.84, 0.84, 0.84]
    halves = sorted((b for b in boxes if b.height < 0.5), key=lambda b: b.y0)
    assert halves[0].y1 <= halves[1].y0 + 1e-9


def test_a_window_without_tasks_is_an_error_that_names_the_end(one_f_one_b: Result) -> None:
    with pytest.raises(ConfigError, match="the step ends at"):
        pipeline_gantt(one_f_one_b, window=(1e6, 2e6))


def test_unrecorded_tasks_are_hatched(trillion: Result) -> None:
    ax = pipeline_gantt(trillion, window=(0.0, 200.0))
    hatched = [c for c in ax.collections if c.get_label() == "not recorded"]
    assert [len(c.get_paths()) for c in hatched] == [64]
    assert "not recorded" in note_of(ax)


# -- serving -------------------------------------------------------------------------------------------------------


def requests(ttft: np.ndarray) -> pd.DataFrame:
    n = len(ttft)
    frame = pd.DataFrame({"workload": ["chat"] * n, "ttft": ttft, "tpot": np.full(n, 0.02), "finish": np.ones(n)})
    return frame.assign(e2e=frame["ttft"] + 1.0)


def test_cdf_passes_through_the_quantiles() -> None:
    ttft = np.random.Generator(np.random.PCG64(1)).lognormal(-2, 1, 1001)
    ax = latency_cdf(requests(ttft), slo={"ttft": float(np.sort(ttft)[750])})
    curve = next(line for line in ax.lines if line.get_label() == "TTFT")
    x, y = curve.get_data()
    for share in (0.1, 0.5, 0.9, 0.99):
        assert np.interp(share, y, x) == pytest.approx(np.quantile(ttft, share), rel=1e-3)
    assert any("75.0% within" in str(line.get_label()) for line in ax.lines)


def test_requests_without_an_end_are_left_out() -> None:
    frame = requests(np.array([0.1, 0.2, 0.3]))
    frame.loc[2, ["finish", "ttft", "tpot", "e2e"]] = np.nan
    assert "latencies of 2 requests" in latency_cdf(frame).get_title("left")
    with pytest.raises(ConfigError, match="no request of 'chat' was completed"):
        latency_cdf(frame.assign(finish=np.nan))


def test_cdf_takes_limits_from_the_scenario(served: Result) -> None:
    ax = latency_cdf(served)
    dashed = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert sorted(dashed) == pytest.approx([0.03, 0.3])
    level = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert level == [0.9]


def test_cdf_of_a_sketch_is_within_its_error(served: Result) -> None:
    from simulator.results.sketch import QuantileSketch

    sketches = {}
    for metric in ("ttft", "tpot", "e2e"):
        sketches[f"chat.{metric}"] = sketch = QuantileSketch(0.01)
        sketch.add(served.requests[metric].dropna().to_numpy())
    tables = {k: v for k, v in served.tables.items() if k != "requests"}
    curves = []
    for result in (served, Result(tables, served.document, sketches=sketches)):
        line = next(line for line in latency_cdf(result).lines if line.get_label() == "E2E")
        curves.append(np.interp((0.25, 0.5, 0.9), line.get_ydata(), line.get_xdata()))
    assert curves[1] == pytest.approx(curves[0], rel=0.03)


def test_queue_adds_up_replicas() -> None:
    times = [0.0, 10.0, 20.0, 0.0, 5.0, 20.0]
    frame = pd.DataFrame({
        "workload": ["chat"] * 6, "resource": ["replica"] * 6, "replica": [0, 0, 0, 1, 1, 1], "time": times,
        "running": [1, 5, 0, 2, 4, 0], "waiting": [0, 3, 0, 0, 0, 0], "kv_occupancy": [0.1, 0.5, 0.0, 0.2, 0.4, 0.0],
    })  # fmt: skip
    ax = queue_and_kv(frame)
    at = {line.get_label(): lambda t, line=line: np.interp(t, *line.get_data()) for line in ax.lines}
    assert [at["running"](t) for t in (2.0, 7.0, 15.0)] == [3, 5, 9]
    assert [at["waiting"](t) for t in (2.0, 15.0)] == [0, 3]
    lower = next(a for a in ax.figure.axes if a is not ax)
    mean = lower.lines[0]
    assert [np.interp(t, *mean.get_data()) for t in (2.0, 7.0, 15.0)] == pytest.approx([15, 25, 45])
    assert lower.get_xlabel() == "time [s]"


def test_feeders_are_drawn_as_shares_of_their_limits() -> None:
    frame = pd.DataFrame({
        "time": [0.0, 0.0, 60.0, 60.0], "until": [60.0, 60.0, 80.0, 80.0], "feeder": ["rack0", "rack1"] * 2,
        "power": [50.0, 90.0, 100.0, 40.0], "limit": [100.0] * 4, "clock": [1.0, 1.0, 0.8, 1.0],
    })  # fmt: skip
    ax = feeder_power(frame)
    drawn = {patch.get_label(): patch.get_data()[0].tolist() for patch in ax.patches}
    assert drawn == {"rack0": [50.0, 100.0], "rack1": [90.0, 40.0]}
    # One of two feeders in the last 20 of 80 s.
    assert ax.get_title("left") == "clocks lowered 12% of the time, above the limit 0%"
    with pytest.raises(ConfigError, match="no feeders"):
        feeder_power(frame[:0])


def test_feeders_that_never_differ_are_one_line() -> None:
    frame = pd.DataFrame({
        "time": [0.0] * 3, "until": [60.0] * 3, "feeder": ["rack0", "rack1", "row"],
        "power": [50.0, 50.0, 150.0], "limit": [100.0, 100.0, 200.0], "clock": [1.0] * 3,
    })  # fmt: skip
    drawn = {patch.get_label(): patch.get_data()[0].tolist() for patch in feeder_power(frame).patches}
    assert drawn == {"rack0, rack1": [50.0], "row": [75.0]}


def test_shares_are_written_only_inside_what_they_name(served: Result) -> None:
    for workload in ("finetune", "chat"):
        ax = step_waterfall(served, workload)
        ax.figure.canvas.draw()
        (whole,) = [t for t in ax.get_yticklabels() if t.get_text() == "whole"]
        boxes = [p.get_window_extent() for p in ax.patches if p.get_y() < whole.get_position()[1] < p.get_y() + 0.7]
        texts = [t for t in ax.texts if t.get_text().startswith(("measured", "fitted", "assumed"))]
        assert texts
        for text in texts:
            own = text.get_window_extent()
            assert any(box.x0 <= own.x0 and own.x1 <= box.x1 for box in boxes), text.get_text()


def test_numbers_of_micro_batches_are_written_where_the_longest_fits() -> None:
    rows = {"start": [], "duration": [], "microbatch": [], "phase": []}  # type: dict[str, list[Any]]
    for number in range(12):
        for phase, length in (("forward", 0.006), ("backward", 0.03)):
            at = (rows["start"][-1] + rows["duration"][-1]) if rows["start"] else 0.0
            for key, value in zip(rows, (at, length, number, phase), strict=True):
                rows[key].append(value)
    rest = {"workload": "j", "stage": 0, "chunk": 0, "kind": "pipeline", "name": "task", "stream": "compute"}
    ax = pipeline_gantt(pd.DataFrame({**rows, **rest}), window=(0.0, 0.43))
    shown = sorted(int(t.get_text()) for t in ax.texts if t.get_text().isdigit())
    assert shown == list(range(12))  # a digit would fit into a forward, two do not


# -- all -----------------------------------------------------------------------------------------------------------


def test_every_figure_of_a_saved_run_is_that_of_the_run(served: Result, tmp_path: Any) -> None:
    loaded = load_result(save_result(served, tmp_path / "run"))
    for name, figure in FIGURES.items():
        if name in ("failures_and_goodput", "feeder_power"):  # nothing fails here, and power is not short
            continue
        drawn = []
        for result in (served, loaded):
            ax = figure(result)
            drawn.append(([line.get_xydata().tolist() for line in ax.lines], note_of(ax), ax.get_title("left")))
            plt.close("all")
        assert drawn[0] == drawn[1], name


def test_workloads_are_chosen_by_name(served: Result) -> None:
    assert memory_bars(served).get_title("left").startswith("finetune")
    assert memory_bars(served, "chat").get_title("left").startswith("chat")
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        memory_bars(served, "chet")
    with pytest.raises(ConfigError, match="no table 'requests' of 'finetune'"):
        latency_cdf(served, "finetune")
