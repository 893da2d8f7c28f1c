"""Step times of the two Megatron papers on their A100 clusters, predicted with one set of constants.

Published figures: Narayanan et al. 2021 (arXiv 2104.04473) table 1, as step times from the printed TFLOP/s and the
paper's FLOPs formula; Korthikanti et al. 2022 (arXiv 2205.05198) table 5, as printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.results.estimate import Estimate
from simulator.training.step import estimate_step
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan


@dataclass(frozen=True)
class Row:
    model: str
    tp: int
    pp: int
    chunks: int
    dp: int
    batch: int
    micro: int
    seconds: float
    full: bool = True
    mfu: float = math.nan

    @property
    def plan(self) -> Plan:
        return Plan(
            tensor_parallel=self.tp,
            pipeline_parallel=self.pp,
            virtual_stages=self.chunks,
            data_parallel=self.dp,
            sequence_parallel=not self.full,
            schedule="interleaved-1f1b" if self.chunks > 1 else "1f1b",
            recompute="full" if self.full else "selective",
            precision="fp16",
        )


def narayanan(model: str, tp: int, pp: int, chunks: int, dp: int, batch: int, micro: int, tflops: float) -> Row:
    """A row of table 1: step time = 96·B·s·l·h²·(1 + s/6h + V/16lh) / (GPUs · TFLOP/s)."""
    spec = load_model(model)
    layers, hidden, seq, vocab = spec.num_hidden_layers, spec.hidden_size, 2048, 51200
    flops = 96 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers * hidden))
    return Row(model, tp, pp, chunks, dp, batch, micro, flops / (tp * pp * dp * tflops * 1e12))


NARAYANAN = [
    narayanan("gpt-1.7b", 1, 1, 1, 32, 512, 16, 137),
    narayanan("gpt-3.6b", 2, 1, 1, 32, 512, 16, 138),
    narayanan("gpt-7.5b", 4, 1, 1, 32, 512, 16, 142),
    narayanan("gpt-18.4b", 8, 1, 1, 32, 1024, 8, 135),
    narayanan("gpt-39.1b", 8, 2, 1, 32, 1536, 4, 138),
    narayanan("gpt-76.1b", 8, 4, 3, 32, 1792, 2, 140),
    narayanan("gpt-145.6b", 8, 8, 2, 24, 2304, 2, 148),
    narayanan("gpt-310.1b", 8, 16, 2, 15, 2160, 1, 155),
    narayanan("gpt-529.6b", 8, 35, 3, 9, 2520, 1, 163),
    narayanan("gpt-1t", 8, 64, 1, 6, 3072, 1, 163),
]
KORTHIKANTI = [
    Row("gpt-22b", 8, 1, 1, 1, 4, 4, 1.42),
    Row("gpt-22b", 8, 1, 1, 1, 4, 4, 1.10, full=False, mfu=0.415),
    Row("gpt-174.6b", 8, 8, 3, 1, 64, 1, 18.13),
    Row("gpt-174.6b", 8, 8, 3, 1, 64, 1, 13.75, full=False, mfu=0.514),
    Row("gpt-529.6b", 8, 35, 3, 1, 280, 1, 49.05),
    Row("gpt-529.6b", 8, 35, 3, 1, 280, 1, 37.83, full=False, mfu=0.560),
    Row("gpt-1t", 8, 64, 1, 1, 512, 1, 94.42),
    Row("gpt-1t", 8, 64, 1, 1, 512, 1, 71.49, full=False, mfu=0.563),
]


def predicted(row: Row, framework: str) -> Estimate:
    node = load_node("dgx-a100-640")
    nodes = row.plan.accelerators // node.accelerators
    cluster = Cluster("selene", (NodeGroup(node, nodes),), Fabric("fat-tree", load_link("hdr200")))
    batch = Batch(row.batch, row.micro, 2048)
    job = TrainingJob("row", load_model(row.model), load_framework(framework), batch, row.plan)
    answer = estimate_step(job, cluster)
    assert answer.feasible, answer.reason
    assert answer.floor <= answer.seconds
    return answer


@pytest.mark.parametrize(
    ("rows", "framework", "worst", "mean"),
    [(NARAYANAN, "megatron-lm-2021", 0.20, 0.12), (KORTHIKANTI, "megatron-lm-2022", 0.10, 0.06)],
    ids=["Narayanan 2021 table 1", "Korthikanti 2022 table 5"],
)
def test_step_times_are_near_the_published_ones(
    rows: list[Row], framework: str, worst: float, mean: float, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = []
    with capsys.disabled():
        print(f"\n{'model':<12}{'plan':<72}{'predicted':>10}{'published':>10}{'error':>8}{'MFU':>7}{'published':>10}")
        for row in rows:
            answer = predicted(row, framework)
            errors.append(answer.seconds / row.seconds - 1)
            stated = "-" if math.isnan(row.mfu) else f"{row.mfu:.1%}"
            times = f"{answer.seconds:>9.2f}s{row.seconds:>9.2f}s{errors[-1]:>+8.1%}"
            print(f"{row.model:<12}{row.plan!s:<72}{times}{answer.metrics['mfu']:>7.1%}{stated:>10}")
    assert max(map(abs, errors)) <= worst
    assert sum(map(abs, errors)) / len(errors) <= mean
