"""Plans whose stages differ: equal stages are the plain plan, work is conserved, boundaries cost what they must."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.strategies.pipeline.partition import partition_layers
from simulator.training.pipelined import PipelinedJob
from simulator.training.plan_evaluator import pipeline_bound
from simulator.training.step import check_job, estimate_step
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.ops import OpKind, Phase
from simulator.workload.plan import Plan
from simulator.workload.stage import LayerGroup, Stage
from tests.unit.strategies.training_cases import FRAMEWORK, RANKS, cluster, model

LAYERS = 24


def job(plan: Plan, batch: int = 16) -> TrainingJob:
    return TrainingJob("test", model("gpt3-1.3b"), FRAMEWORK, Batch(batch, 1, 1024), plan)


def mixed() -> Cluster:
    """Eight H100 and eight A100 on a 200 Gb/s network."""
    groups = (NodeGroup(load_node("dgx-h100"), 1), NodeGroup(load_node("dgx-a100-640"), 1))
    return Cluster("mixed", groups, Fabric("single-switch", load_link("hdr200")))


def flops(pipeline: PipelinedJob) -> float:
    """FLOPs of matrix products and attention in one micro-batch, over all ranks, without recomputation."""
    kinds = (OpKind.GEMM, OpKind.ATTENTION)
    total = 0.0
    for chunk in pipeline.chunks:
        rank = pipeline.rank_of_position[chunk.position]
        for block, count in chunk.blocks:
            every = (*block.forward, *block.backward)
            ops = [op for op in every if op.phase is not Phase.RECOMPUTE and op.kind in kinds]
            total += len(pipeline.seats[rank]) * count * sum(op.flops(pipeline.mesh(rank)) for op in ops)
    return total


def stages_of(draw: st.DrawFn) -> tuple[Stage, ...]:
    """Stages of random sizes on sixteen accelerators."""
    sizes = draw(st.sampled_from([(8, 8), (8, 4, 4), (4, 8, 4), (4, 4, 8), (8, 4, 2, 2), (2, 2, 4, 8), (16,)]))
    cuts = draw(st.lists(st.integers(1, LAYERS - 1), min_size=len(sizes) - 1, max_size=len(sizes) - 1, unique=True))
    ends = [0, *sorted(cuts), LAYERS]
    found = []
    for size, first, past in zip(sizes, ends, ends[1:], strict=False):
        tp = draw(st.sampled_from([t for t in (1, 2, 4, 8) if t <= size]))
        found.append(
            Stage(
                (past - first,), tensor_parallel=tp, data_parallel=size // tp,
                sequence_parallel=draw(st.booleans()) and tp > 1, zero_stage=draw(st.sampled_from([0, 1])),
                recompute=draw(st.sampled_from([None, "full", "selective"])),
            )
        )  # fmt: skip
    return tuple(found)


unequal = st.composite(stages_of)()


def of(stages: tuple[Stage, ...], schedule: str = "1f1b") -> Plan:
    widest = max(stage.data_parallel or 1 for stage in stages)
    return Plan(pipeline_parallel=len(stages), data_parallel=widest, schedule=schedule, stages=stages)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([(1, 2, 8), (2, 2, 4), (2, 4, 2), (4, 4, 1), (8, 2, 1), (1, 1, 16)]),
    st.sampled_from(["1f1b", "gpipe", "zb-h1", "interleaved-1f1b", "dualpipe"]),
    st.sampled_from([(0, "none"), (1, "selective"), (1, "full")]), st.booleans(),
)  # fmt: skip
def test_equal_stages_are_bit_for_bit_the_plan_without_them(
    degrees: tuple[int, int, int], schedule: str, states: tuple[int, str], split: bool
) -> None:
    tp, pp, dp = degrees
    chunks = 2 if schedule == "interleaved-1f1b" and pp > 1 else 1
    if schedule in ("interleaved-1f1b", "dualpipe") and pp == 1:
        schedule = "1f1b"
    plain = Plan(
        tp, 1, pp, dp, sequence_parallel=split and tp > 1, virtual_stages=chunks, schedule=schedule,
        zero_stage=states[0], recompute=states[1],
    )  # fmt: skip
    sizes = partition_layers(LAYERS, pp, chunks)
    own = {"tensor_parallel": tp, "data_parallel": dp, "zero_stage": states[0]} if split else {}
    stages = tuple(Stage(tuple(sizes[c * pp + r] for c in range(chunks)), **own) for r in range(pp))
    made = [estimate_step(job(p), cluster(), with_interval=False) for p in (plain, replace(plain, stages=stages))]
    first, second = ({k: v for k, v in vars(e).items() if k != "details"} for e in made)
    assert first == second or math.isnan(made[0].seconds)
    assert made[0].reason == made[1].reason
    if made[0].feasible:
        runs = [e.details["timeline"] for e in made]
        assert (runs[0].start == runs[1].start).all() and (runs[0].end == runs[1].end).all()


@settings(max_examples=20, deadline=None)
@given(unequal)
def test_work_is_conserved_however_stages_differ(stages: tuple[Stage, ...]) -> None:
    plan = of(stages)
    assert plan.accelerators == RANKS
    one = PipelinedJob(job(Plan(data_parallel=16)), cluster())
    pipeline = PipelinedJob(job(plan), cluster())
    if not check_job(job(plan), cluster()):
        per_step = pipeline.microbatches * flops(pipeline)
        assert per_step == pytest.approx(one.microbatches * flops(one), rel=1e-4)  # the vocabulary is padded
        states = sum(
            len(pipeline.seats[s.stage]) * s.by_class["param"] / pipeline.plan.stage_plans[s.stage].data_parallel
            for s in pipeline.memory().stages
        )
        whole = one.memory().stages[0].by_class["param"]
        # Tensor ranks keep copies of norms and biases; the tied embedding is on the first and the last stage.
        assert whole * (1 - 1e-9) <= states <= whole * 1.13


@settings(max_examples=12, deadline=None)
@given(unequal)
def test_bound_step_and_memory_of_unequal_stages_agree(stages: tuple[Stage, ...]) -> None:
    made = estimate_step(job(of(stages)), cluster(), with_interval=False)
    if not made.feasible:
        assert made.reason
        return
    pipeline = made.details["pipeline"]
    forward, backward = (np.array([t.seconds for t in ts]) for ts in (pipeline.forward_times, pipeline.backward_times))
    owner = np.arange(pipeline.ranks)
    traits = pipeline.traits if pipeline.ranks > 1 else None
    bound = pipeline_bound(forward, backward, owner, pipeline.ranks, pipeline.microbatches, traits)
    assert made.floor <= bound <= pipeline.pipeline_seconds * (1 + 1e-9)
    assert pipeline.pipeline_seconds <= made.seconds


def test_two_stages_on_unlike_nodes_move_at_the_pace_of_the_slower_one() -> None:
    """Σ + (m−1)·max of the two stages, and the best cut is where they take the same time."""
    found, work = {}, {}
    for fast in range(1, LAYERS):
        stages = (
            Stage((fast,), data_parallel=8, accelerator="dgx-h100"),
            Stage((LAYERS - fast,), data_parallel=8, accelerator="a100-sxm-80gb"),
        )
        plan = Plan(pipeline_parallel=2, data_parallel=8, zero_stage=1, stages=stages)
        pipeline = PipelinedJob(job(plan, 256), mixed())
        assert [n.name for n in pipeline.node_of_rank] == ["dgx-h100", "dgx-a100-640"]
        times = [f.seconds + b.seconds for f, b in zip(pipeline.forward_times, pipeline.backward_times, strict=True)]
        found[fast], work[fast] = pipeline.pipeline_seconds, times
        assert found[fast] == pytest.approx(sum(times) + (pipeline.microbatches - 1) * max(times), rel=0.02)
    best = min(found, key=found.__getitem__)
    assert best == min(work, key=lambda fast: max(work[fast]))
    assert work[best - 1][0] < work[best - 1][1] and work[best + 1][0] > work[best + 1][1]


def test_a_stage_that_names_its_nodes_may_come_first_or_last() -> None:
    """The order of nodes in the cluster does not matter to a plan that names them."""
    stages = (Stage((8,), accelerator="dgx-a100-640"), Stage((16,), accelerator="dgx-h100"))
    plan = Plan(pipeline_parallel=2, data_parallel=8, stages=stages)
    turned = replace(mixed(), groups=mixed().groups[::-1])
    a, b = (estimate_step(job(plan), c, with_interval=False) for c in (mixed(), turned))
    assert a.seconds == b.seconds
    assert PipelinedJob(job(plan), mixed()).seats[0].tolist() == list(range(8, 16))


def test_more_ranks_on_one_side_send_less_each() -> None:
    """What crosses is one activation: T/N bytes from each of N ranks in slices, and the same T comes in."""
    stages = (
        Stage((12,), tensor_parallel=2, data_parallel=4, sequence_parallel=True),
        Stage((12,), tensor_parallel=4, data_parallel=2, sequence_parallel=True),
    )
    pipeline = PipelinedJob(job(of(stages)), cluster())
    (boundary,) = pipeline.boundaries
    whole = 4 * 1024 * model("gpt3-1.3b").hidden_size * 2  # four sequences of a micro-batch in bf16
    assert boundary.sent * 8 == boundary.returned * 8 == whole
    assert boundary.forward == boundary.backward
    narrow = (replace(stages[0]), replace(stages[1], tensor_parallel=2))
    (slower,) = PipelinedJob(job(of(narrow)), cluster()).boundaries
    assert slower.sent * 8 == slower.returned * 4 == whole
    assert slower.forward > boundary.forward  # four ranks take in what eight did


def test_resharding_in_slices_beats_sending_everything_to_every_rank() -> None:
    """Cross-mesh resharding: tensor ranks that need the same get slices, not copies; the last hop is inside a node."""
    stages = (Stage((12,), data_parallel=8), Stage((12,), tensor_parallel=8, data_parallel=1))
    base = of(stages).with_(communication="cross-mesh-resharding")
    ways = {
        way: PipelinedJob(job(base.with_(resharding=way)), cluster()).boundaries[0]
        for way in ("broadcast", "send_recv")
    }
    assert ways["send_recv"].sent == 8 * ways["broadcast"].sent
    assert ways["send_recv"].forward > 2 * ways["broadcast"].forward


def test_gradients_are_reduced_in_the_stages_own_groups() -> None:
    stages = (Stage((12,), data_parallel=8), Stage((12,), tensor_parallel=8, data_parallel=1))
    pipeline = PipelinedJob(job(of(stages)), cluster())
    reduced = [
        {op.axis for chunk in chunks for block, _ in chunk.blocks for op in block.reduce}
        for chunks in pipeline.chunks_of_rank
    ]
    assert reduced[0] == {"dpcp"}
    assert pipeline.mesh(0)["dpcp"] == 8
    assert pipeline.mesh(1)["dpcp"] == 1


def test_layers_of_a_stage_that_differ_are_counted_one_by_one() -> None:
    """Recomputing k of n layers costs k times what recomputing one costs, and frees k times as much."""
    made = []
    for count in range(4):
        groups = (LayerGroup(count, recompute="full"),) if count else ()
        plan = Plan(pipeline_parallel=2, data_parallel=8, stages=(Stage((12,), groups=groups), Stage((12,))))
        pipeline = PipelinedJob(job(plan), cluster())
        made.append((pipeline.backward_times[0].seconds, pipeline.chunk_memories[0].activations))
    for column in (0, 1):
        steps = [b[column] - a[column] for a, b in pairwise(made)]
        assert steps == pytest.approx([steps[0]] * 3)
    assert made[1][0] > made[0][0]
    assert made[1][1] < made[0][1]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Stage((12,)), Stage((10,))), "22 layers, which are not the 24 of the model; 14 layers in stage 0 would"),
        ((Stage((12,), data_parallel=8), Stage((12,), data_parallel=3)), "use data_parallel 2 or 4"),
        ((Stage((12,)), Stage((12,), accelerator="dgx-h10")), "did you mean"),
        ((Stage((12,)), Stage((12,), tensor_parallel=3)), "stage 1: "),
        ((Stage((12,)), Stage((12,), groups=(LayerGroup(13),))), "more than its 12 layers"),
        ((Stage((12,), (1,)), Stage((12,), (0,))), "use mixed-pipe"),
        ((Stage((12,)), Stage((12,), recompute="checkmate")), "name what each stage does"),
    ],
)
def test_stages_that_do_not_work_say_why_and_what_would(stages: tuple[Stage, ...], said: str) -> None:
    plan = Plan(pipeline_parallel=2, data_parallel=8, stages=stages)
    made = estimate_step(job(plan), mixed())
    assert not made.feasible
    assert said in made.reason


def test_parts_of_the_model_may_sit_anywhere_under_the_mixed_pipe() -> None:
    """A steady pipeline moves at the pace of the busiest rank, whatever parts that rank holds."""
    stages = (Stage((6, 6), (0, 3)), Stage((12,), (1,)), Stage((6, 6), (2, 5)), Stage((12,), (4,)))
    stages = tuple(replace(s, layers=tuple(n // 2 for n in s.layers)) for s in stages)
    plan = Plan(pipeline_parallel=4, virtual_stages=2, data_parallel=4, schedule="mixed-pipe", stages=stages)
    pipeline = PipelinedJob(job(plan, 256), cluster())
    assert [c.layer_count for c in pipeline.chunks] == [3, 6, 3, 3, 6, 3]
    load = [
        sum(pipeline.forward_times[p].seconds + pipeline.backward_times[p].seconds for p in mine)
        for mine in pipeline.positions
    ]
    assert pipeline.microbatches * max(load) <= pipeline.pipeline_seconds * (1 + 1e-9)
    assert pipeline.pipeline_seconds <= 1.15 * pipeline.microbatches * max(load)
