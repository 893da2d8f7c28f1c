"""Laws for every training strategy of the register: work is conserved, traffic adds up, orders are declared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.registry import strategies
from simulator.scenario.load import load_scenario
from simulator.strategies.compile import DEFAULTS, check_plan, communication_traits, passes_of
from simulator.strategies.protocols import PassStage
from simulator.training.messages import lent_by_rank
from simulator.training.overlapped_pairs import tasks_of_rank
from simulator.training.pipelined import PipelinedJob
from simulator.training.tables import communication_by_axis
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Op, OpKind, Phase, Tier
from simulator.workload.plan import Plan
from simulator.workload.work import work_of
from tests.properties.test_passes import applied, lowered, replicated, summary
from tests.unit.strategies.test_every_strategy_from_yaml import everything, job_for
from tests.unit.strategies.training_cases import layers, model

COMPUTE = (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION)
PADDED = {"switch": 1.25}
"""Rows of experts beyond those that were routed."""


@cache
def job(family: str, name: str, folder: Path) -> PipelinedJob:
    document: dict[str, Any] = {
        "cluster": {"nodes": {"profile": "dgx-h100", "count": 4}},
        "workloads": [{"training": "job", "framework": "megatron-core-0.8", **job_for(family, name)}],
    }
    path = folder / f"{family}-{name.replace('/', '-')}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    scenario = load_scenario(path)
    return PipelinedJob(scenario.training[0], scenario.cluster)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strategies")


def flops(ops: Iterable[Op], plan: Plan) -> dict[bool, float]:
    """Matrix products and attention: of experts, and of the rest."""
    found = {True: 0.0, False: 0.0}
    for op in ops:
        if op.kind in COMPUTE and op.phase is Phase.FORWARD and not replicated(op) and "lora" not in op.name:
            found[".expert_" in op.name] += op.flops(plan.mesh)
    return found


def forward(work: PipelinedJob) -> dict[bool, float]:
    """FLOPs of all forwards of a step, over all ranks."""
    total = {True: 0.0, False: 0.0}
    plan, program = work.plan, work.timeline.program
    copies = plan.tensor_parallel * plan.context_parallel * plan.data_parallel
    for rank in range(work.ranks):
        for task in tasks_of_rank(program, rank):
            if task.forward is None:
                continue
            for block, count in work.chunks[task.forward].blocks:
                for kind, mine in flops((*block.gather_forward, *block.forward), plan).items():
                    total[kind] += copies * task.times * count * mine
    return total


@pytest.mark.parametrize(("family", "name"), everything())
def test_every_strategy_computes_the_model_once(family: str, name: str, folder: Path) -> None:
    """What all ranks compute forward in a step is what one device would, experts' padding apart."""
    work = job(family, name, folder)
    batch = work.job.batch
    alone = TrainingJob("alone", work.job.model, work.framework, batch, Plan(precision=work.plan.precision))
    single = PipelinedJob(alone, work.cluster, settled=True)
    found, want = forward(work), forward(single)
    assert found[False] == pytest.approx(want[False], rel=1e-3)  # a vocabulary that does not divide is rounded up
    assert found[True] == pytest.approx(PADDED.get(name, 1.0) * want[True], rel=0.02 if name == "megablocks" else 1e-9)


@pytest.mark.parametrize(("family", "name"), everything())
def test_traffic_of_every_strategy_is_the_sum_over_its_axes(family: str, name: str, folder: Path) -> None:
    work = job(family, name, folder)
    links = work.traffic().by_link

    def by_axis(rank: int) -> list[float]:
        sent = communication_by_axis(work, rank).items()
        return [sum(moved for (*_, of), (moved, _) in sent if of == link) for link in ("scale_up", "scale_out")]

    found = [links.get(link, 0.0) for link in ("scale_up", "scale_out")]
    peers = work.plan.offload == "mpress"  # activations on their way to peers are copies, no messages
    assert peers or any(by_axis(rank) == pytest.approx(found, rel=1e-6, abs=1.0) for rank in range(work.ranks))


def test_what_bpipe_lends_is_traffic_of_both_partners(folder: Path) -> None:
    """What the executor evicts and loads crosses the link between the partners: as much there as back."""
    work, plain = job("pipeline", "bpipe", folder), job("pipeline", "1f1b", folder)
    lent = [lent_by_rank(work, rank) for rank in range(work.ranks)]
    moved = [one.size if one else 0.0 for one in lent]
    assert sum(moved) == pytest.approx(float(work.timeline.swap_bytes.sum()))
    assert moved == pytest.approx(moved[::-1])  # the first lends to the last and gets it back
    assert moved[0] > 0
    for rank in range(work.ranks):
        axes = [communication_by_axis(w, rank)["pp", "send_recv", "scale_out"][0] for w in (work, plain)]
        assert axes[0] - axes[1] == pytest.approx(moved[rank])


def test_the_peak_that_is_told_is_the_devices_own(folder: Path) -> None:
    """MPress fills its peers' spare memory: the fullest tier is not the device, the peak of the summary is."""
    work = job("offload", "mpress", folder)
    ledger = work.memory()
    assert ledger.worst.tier is Tier.PEER
    assert ledger.fullest.tier is Tier.HBM
    assert ledger.fullest.peak == max(s.peak for s in ledger.stages if s.tier is Tier.HBM)


COMMUNICATION = [r.name for r in strategies("training", "communication")]
STEPS = {"local_steps": 4}


def sent(plan: Plan) -> tuple[object, object]:
    block = layers(plan)[0]
    ops = sorted((op.name, op.axis, repr(work_of(op, plan.mesh)), repr(op.wire)) for op in block.reduce)
    return ops, sorted((t.name, t.bytes(plan.mesh)) for t in block.states)


@pytest.mark.parametrize("pair", list(itertools.combinations(COMMUNICATION, 2)), ids="+".join)
def test_communication_strategies_commute_or_are_refused(pair: tuple[str, str]) -> None:
    plans = [Plan(data_parallel=16).with_(communication="+".join(names), **STEPS) for names in (pair, pair[::-1])]
    reasons = [check_plan(model(), plan) for plan in plans]
    assert bool(reasons[0]) == bool(reasons[1])
    if not reasons[0]:
        assert sent(plans[0]) == sent(plans[1])
        assert communication_traits(plans[0]) == communication_traits(plans[1])


GRID: dict[str, dict[str, Any]] = {
    "summa-2d": {"tensor_parallel": 4, "tensor_rows": 2},
    "tesseract-2.5d": {"tensor_parallel": 8, "tensor_rows": 2, "tensor_depth": 2},
    "3d": {"tensor_parallel": 8, "tensor_rows": 2, "tensor_depth": 2},
}


CUTTING = ("domino", "summa-2d")


def partitions() -> list[tuple[str, str, str]]:
    names = {f: [r.name for r in strategies("training", f)] for f in ("tensor", "context", "expert")}
    return [
        *((tensor, context, "") for tensor in names["tensor"] for context in names["context"]),
        *(("megatron-1d", context, expert) for context in names["context"] for expert in names["expert"]),
    ]


@pytest.mark.parametrize(("tensor", "context", "expert"), partitions())
def test_partitions_commute_or_declare_their_order(tensor: str, context: str, expert: str) -> None:
    """Every tensor, context and expert strategy, but for the declared order: tensor, then context, then experts.

    Experts always come after tensors, contexts only where Ops are cut into parts that they would not find again.
    """
    spec = mixture(expert) if expert else model("llama-3.1-8b")
    plan = Plan(**({"tensor_parallel": 2} | {k: v for k, v in GRID.get(tensor, {}).items() if k == "tensor_parallel"}))
    plan = plan.with_(context_parallel=2, data_parallel=2, tensor=tensor, context=context)
    plan = plan.with_(**{k: v for k, v in GRID.get(tensor, {}).items() if k != "tensor_parallel"})
    if expert:
        plan = plan.with_(expert_parallel=2, expert=expert, expert_group=2)
    if check_plan(spec, plan):
        pytest.skip("refused: " + "; ".join(check_plan(spec, plan)))
    names = [p.name for p in passes_of(plan) if p.stage is PassStage.PARTITION]
    block = lowered(spec)[1]
    want = summary(applied(block, plan), plan)
    for order in itertools.permutations(range(len(names))):
        place = [order.index(names.index(name)) for name in (tensor, context, expert) if name]
        if place[0] > place[-1] if expert else tensor in CUTTING and place[0] > place[1]:
            continue
        assert summary(applied(block, plan, order), plan) == want


def mixture(expert: str) -> Any:
    return model("llama4-scout" if expert == "switch" else "mixtral-8x7b")


def test_defaults_are_registered() -> None:
    for family, name in DEFAULTS.items():
        assert name in {r.name for r in strategies("training", family)}
