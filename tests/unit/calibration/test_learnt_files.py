"""*I have one node*: what own runs teach is kept in files that later scenarios name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.calibration.user_logs import fit_logs
from simulator.cli import main
from simulator.constants import Constant, ConstantSet, Learnt, Trust
from simulator.cost.sensitivity import Z80, interval
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Cluster, Fabric, Node, NodeGroup
from simulator.training.step import estimate_step
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan


def _job(framework: str, batch: int, sequence: int, shards: int = 8) -> TrainingJob:
    plan = Plan().with_(data_parallel=shards, zero_stage=3)
    return TrainingJob("x", load_model("gpt3-125m"), load_framework(framework), Batch(batch, 4, sequence), plan)


def _cluster(node: Node, count: int = 1) -> Cluster:
    return Cluster("c", (NodeGroup(node, count),), Fabric("single-switch", node.nic))


def test_runs_on_one_node_narrow_the_interval_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine is the model with GEMMs at 0.8 of their share: its logs predict other runs of it, on more nodes."""
    shipped = load_node("dgx-a100-640")
    key = "a100-sxm-80gb.gemm.bf16.compute"
    slow = replace(shipped, accelerator=replace(shipped.accelerator, learnt={key: Learnt(0.8, 0.01, "truth")}))
    lines = ["model,global_batch_size,micro_batch_size,sequence_length,dp,zero_stage,step_time,peak_memory"]
    for batch, sequence in ((64, 2048), (64, 1024)):
        made = estimate_step(_job("fsdp", batch, sequence), _cluster(slow))
        peak = made.memory.worst.peak + 5e8
        lines.append(f"gpt3-125m,{batch},4,{sequence},8,3,{made.seconds},{peak}")
    log, mine, node = tmp_path / "runs.csv", tmp_path / "mine.yaml", tmp_path / "my-node.yaml"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ["fit", str(log), "--node", "dgx-a100-640", "--framework", "fsdp", "--out", str(mine)]
    assert main([*arguments, "--out-node", str(node)]) == 0
    assert "wrote" in capsys.readouterr().out

    truth = estimate_step(_job("fsdp", 256, 2048, 16), _cluster(slow, 2)).seconds
    before = estimate_step(_job("fsdp", 256, 2048, 16), _cluster(shipped, 2))
    after = estimate_step(_job(str(mine), 256, 2048, 16), _cluster(load_node(node), 2))
    assert abs(after.seconds / truth - 1) < 0.4 * abs(before.seconds / truth - 1)
    assert before.interval is not None and after.interval is not None
    widths = [(e.interval.high - e.interval.low) / e.seconds for e in (before, after) if e.interval is not None]
    assert widths[1] < 0.6 * widths[0]
    assert after.interval.low <= truth <= after.interval.high
    assert load_node(node).accelerator.name == "a100-sxm-80gb"  # what was measured on it still holds


def test_memory_of_the_runs_is_learnt(tmp_path: Path) -> None:
    node = load_node("dgx-a100-640")
    made = estimate_step(_job("fsdp", 64, 2048), _cluster(node))
    assert made.memory is not None
    peak = made.memory.worst.peak + 2e9
    log = tmp_path / "runs.csv"
    log.write_text(
        "model,global_batch_size,micro_batch_size,sequence_length,dp,zero_stage,step_time,peak_memory\n"
        f"gpt3-125m,64,4,2048,8,3,{made.seconds},{peak}\n",
        encoding="utf-8",
    )
    found = fit_logs([log], "dgx-a100-640", "fsdp")
    ((_, measured, before, after),) = found.memory
    assert measured == pytest.approx(peak) and abs(after / peak - 1) < 0.5 * abs(before / peak - 1)


def test_constants_that_were_learnt_together_move_together() -> None:
    """t = a + b with errors of correlation r: its relative sigma is √(a²s² + b²s² + 2·r·a·b·s²)/t."""

    def width(r: float) -> float:
        pairs = {"a": (("b", r),) if r else (), "b": ()}
        known = ConstantSet({i: Constant(i, 1.0, "s", 0.01, Trust.FITTED, "", c) for i, c in pairs.items()})
        found = interval(lambda s: s.get("a", 1.0) + s.get("b", 1.0), known, ["a", "b"])
        return (found.high - found.low) / 2 / 2.0

    for r in (0.0, 0.5, -0.5, -0.98):
        assert width(r) == pytest.approx(Z80 * 0.01 * math.sqrt(2 + 2 * r) / 2, rel=0.02)


def test_what_is_wrong_in_an_overlay_is_said(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "name: odd\nbased_on: dgx-a999\nlearnt:\n  x.y: {factor: 0, sigma: 0.1, correlations: {z: 2}}\nsize: 3\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as error:
        load_node(path)
    text = str(error.value)
    for part in ("dgx-a999", "must be above 0", "between -1 and 1", "'sources' is missing", "unknown key 'size'"):
        assert part in text
