"""Explanations add up to what they explain, and their formulas to published and closed forms."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import simulator as sim
from simulator.errors import ConfigError
from simulator.report.explain import TOPICS, Row, explain, print_topic, to_json
from simulator.results.storage import load_result, save_result
from simulator.results.tables import Result

LLAMA_8B = 8_030_261_248
"""Parameters of Llama-3.1-8B: Hugging Face model card, safetensors index."""

ONE_GPU = ("workloads.0.plan.tp=1", "workloads.0.plan.sp=false")


@pytest.fixture(scope="module")
def run() -> Result:
    return sim.run("quickstart", ["workloads.chat.requests.count=200", "workloads.0.steps=2"])


@pytest.fixture(scope="module")
def pipelined() -> Result:
    changes = ("plan.schedule=1f1b", "plan.virtual_stages=1")
    return sim.estimate("gpt3-175b-selene", [f"workloads.0.{c}" for c in changes])


def section(rows: list[Row], start: str) -> dict[str, Row]:
    return {row.item: row for row in rows if row.section.startswith(start)}


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", ["finetune", "chat"])
def test_classes_add_up_to_the_peak_and_headroom_to_the_capacity(run: Result, workload: str) -> None:
    rows = section(explain(run, "memory", workload), "stage 0")
    peak, headroom = rows.pop("peak"), rows.pop("headroom")
    assert sum(r.value for r in rows.values()) == pytest.approx(peak.value)
    assert peak.share + headroom.share == pytest.approx(1)
    assert peak.value == pytest.approx(run.of(workload)["memory_peak"] if workload == "finetune" else peak.value)


def test_formulas_give_the_published_parameters_and_mixed_precision_bytes() -> None:
    """Mixed precision Adam: 2 B parameter, 4 B fp32 gradient, 12 B of states (Rajbhandari et al. 2020, 3.1)."""
    rows = section(explain(sim.estimate("quickstart", ONE_GPU), "memory", "finetune"), "stage 0")
    for kind, width in (("param", 2), ("grad", 4), ("optim", 12)):
        assert rows[kind].note.startswith(f"{width} B × {LLAMA_8B:,} parameters")
        assert rows[kind].value == width * LLAMA_8B


def test_sharded_states_name_their_axes() -> None:
    halves = ("workloads.0.plan.tp=2", "workloads.0.plan.dp=2", "workloads.0.plan.zero_stage=1")
    note = section(explain(sim.estimate("quickstart", halves), "memory", "finetune"), "stage 0")["optim"].note
    assert "over dpcp 2 and tp 2" in note


def test_activations_in_flight_of_1f1b(pipelined: Result) -> None:
    """Stage s of p holds the activations of p − s micro-batches (Narayanan et al. 2021, section 2.2.1)."""
    rows = explain(pipelined, "memory")
    for stage in range(8):
        note = section(rows, f"stage {stage} ")["activation"].note
        assert int(re.match(r"\d+", note)[0]) == 8 - stage


def test_levers_are_what_the_changed_scenario_answers() -> None:
    small = ("workloads.0.plan.pp=16", "workloads.0.plan.dp=24")
    result = sim.estimate("gpt-1t-selene", small)
    assert not result.feasible
    levers = section(explain(result, "memory"), "what would make it fit")
    assert levers["zero_stage: 1"].note.startswith("fits")
    assert levers["sequence_parallel: true"].note.startswith("still")
    for change in ("zero_stage=1", "sequence_parallel=true"):
        changed = sim.estimate("gpt-1t-selene", [*small, f"workloads.0.plan.{change}"])
        lever = levers[change.replace("=", ": ")]
        assert changed.feasible == lever.note.startswith("fits")
        assert changed.memory.groupby("stage")["bytes"].sum().max() == pytest.approx(lever.value)


def test_changes_that_only_fit_together_are_found() -> None:
    result = sim.estimate("quickstart", ONE_GPU)
    rows = [r for r in explain(result, "memory", "finetune") if r.section.startswith("what would")]
    assert rows[0].note.startswith("fits")
    assert all(r.note.startswith("still") for r in rows[1:])
    changes = [f"workloads.0.plan.{c.partition(' on ')[0].replace(': ', '=')}" for c in rows[0].item.split(" + ")]
    assert sim.estimate("quickstart", [*ONE_GPU, *changes]).feasible


def test_a_plan_that_fits_needs_no_levers(run: Result) -> None:
    assert not section(explain(run, "memory"), "what would")


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", ["finetune", "chat"])
def test_parts_add_up_to_the_whole(run: Result, workload: str) -> None:
    rows = section(explain(run, "time", workload), "where the time")
    floor, whole = rows.pop("roofline floor"), rows.pop("whole")
    assert sum(r.value for r in rows.values()) == pytest.approx(whole.value)
    assert sum(r.share for r in rows.values()) == pytest.approx(1)
    assert 0 < floor.share < 1
    assert floor.value == pytest.approx(run.of(workload)["floor_seconds"])


def test_largest_operations_are_ranked_and_complete(run: Result) -> None:
    rows = list(section(explain(run, "time", "finetune"), "largest operations").values())
    assert [r.value for r in rows[:-1]] == sorted((r.value for r in rows[:-1]), reverse=True)
    ops = run.ops[run.ops["start"].isna()]
    assert sum(r.value for r in rows) == pytest.approx((ops["count"] * ops["duration"]).sum())
    assert "compute bound" in rows[0].note
    assert "TFLOP/s" in rows[0].note


# -- traffic -------------------------------------------------------------------------------------------------------


def test_collectives_by_axis_add_up_to_the_links(run: Result) -> None:
    rows = explain(run, "traffic", "finetune")
    links, axes = section(rows, "bytes of one accelerator"), section(rows, "communication")
    sent = sum(links[name].value for name in ("scale_up", "scale_out") if name in links)
    assert sum(r.value for r in axes.values()) == pytest.approx(sent)
    assert sum(r.share for r in axes.values()) == pytest.approx(1)


def test_pipeline_messages_of_the_first_stage_are_one_boundary_a_microbatch(pipelined: Result) -> None:
    """The busiest rank is the first stage: it sends activations, b·s·h·2 bytes over t ranks (Korthikanti et al. 2022),
    and no gradients of them."""
    row = section(explain(pipelined, "traffic"), "communication")["pp send_recv"]
    assert row.value == 64 * (1 * 2048 * 12288 * 2 / 8)


def test_hbm_time_is_bytes_over_bandwidth(pipelined: Result) -> None:
    rows = explain(pipelined, "traffic")
    moved, busy = section(rows, "bytes of one")["hbm"], section(rows, "time on each link")["hbm"]
    assert moved.value / busy.value == pytest.approx(2.039e12, rel=1e-3)  # A100 80GB SXM datasheet


# -- source --------------------------------------------------------------------------------------------------------


def test_sources_are_ranked_with_value_and_origin(run: Result) -> None:
    rows = explain(run, "source", "finetune")
    constants = list(section(rows, "constants").values())
    influence = [abs(r.share) for r in constants[:-1]]
    assert influence == sorted(influence, reverse=True)
    assert all(r.value == r.value and "sigma" in r.note for r in constants[:-1])
    assert sum(r.share for r in section(rows, "share of the time").values()) == pytest.approx(1)
    ends = section(rows, "80 %")
    assert ends["p10"].value < run.of("finetune")["seconds"] < ends["p90"].value


# -- all -----------------------------------------------------------------------------------------------------------


def test_a_loaded_run_is_explained_like_the_run_itself(run: Result, tmp_path: Path) -> None:
    loaded = load_result(save_result(run, tmp_path / "run"))
    assert not loaded.details
    for topic in TOPICS:
        assert to_json(explain(loaded, topic)) == to_json(explain(run, topic))


def test_rows_are_strict_json_and_print(run: Result) -> None:
    for topic in TOPICS:
        rows = explain(run, topic)
        assert json.loads(json.dumps(to_json(rows), allow_nan=False))
        out = Console(file=io.StringIO(), width=500)
        print_topic(run, "finetune", topic, out)
        text = out.file.getvalue()
        assert all(r.item in text for r in rows if r.workload == "finetune")


def test_many_stages_print_as_one_table_with_the_tightest_explained(pipelined: Result) -> None:
    out = Console(file=io.StringIO(), width=300)
    print_topic(pipelined, "gpt3-175b", "memory", out)
    text = out.file.getvalue()
    assert "stage 0 hbm, share of capacity, the tightest of" in text
    assert text.count("micro-batch, chunk") == 1


def test_unknown_names_are_answered_with_near_ones(run: Result) -> None:
    with pytest.raises(ConfigError, match="did you mean 'memory'"):
        explain(run, "memery")
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        explain(run, "time", "chatt")


def test_an_infeasible_workload_says_why_instead_of_times() -> None:
    result = sim.estimate("quickstart", ONE_GPU)
    (row,) = explain(result, "time", "finetune")
    assert "out of memory" in row.note
