"""Fast evaluation of many plans of one job: lower bounds from shared blocks, full runs for those that matter.

Layers are identical and most plans share their Ops, so compiled and priced blocks are remembered by the fields of a
plan that matter to them. A bound is the longest of the ranks' work with the fill before and the drain after it, which
for equal stages and free transfers *is* the time of a flushed schedule, (m + p − 1)(F + B) for 1F1B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simulator.cost.device import DeviceCost
from simulator.cost.host import HostCost
from simulator.cost.network import NetworkCost
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.results.estimate import Estimate
from simulator.strategies.planner.problem import LayerCosts, PlanBound
from simulator.strategies.protocols import PipelineSchedule, ScheduleTraits
from simulator.strategies.rank_layout import RankLayout
from simulator.training.block_time import BlockPricer
from simulator.training.memory import chunk_memory
from simulator.training.plan_fabric import Slow, fabric_slow
from simulator.training.stages import Chunk, compiled_layers, layers_per_stage
from simulator.training.step import check_job, estimate_step
from simulator.training.update import optimizer_time
from simulator.units import format_quantity
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Tier
from simulator.workload.plan import Plan

__all__ = ["PlanEvaluator", "pipeline_bound"]

Floats = NDArray[np.float64]

MEMORY = 512
"""Priced sets of blocks that are kept; a search over 20,000 plans of GPT-3 needs about 300."""


@dataclass(frozen=True)
class _Work:
    """Per block in model order: seconds and bytes of one micro-batch; ``layer`` marks transformer layers."""

    forward: Floats
    backward: Floats
    activations: Floats
    layer: NDArray[np.bool_]
    workspace: float


@dataclass(frozen=True)
class _States:
    """Per block in model order: bytes of states, seconds of their update and of their exchange."""

    bytes: Floats
    update: Floats
    sync: Floats


class PlanEvaluator:
    """Evaluates plans of one job. Callable for planners; offers bounds and layer costs as well.

    The option ``micro_batch_size`` of a plan overrides the batch's.

    Parameters
    ----------
    model, framework, cluster, batch
        The job without its plan.
    """

    def __init__(self, model: ModelSpec, framework: Framework, cluster: Cluster, batch: Batch) -> None:
        self.model, self.framework, self.cluster, self.batch = model, framework, cluster, batch
        self.node = cluster.groups[0].node
        self.uniform = len({g.node.name for g in cluster.groups}) == 1
        self._costs = {
            node.name: (node, DeviceCost(node.accelerator, framework, cluster.factors, recorded=True),
                        NetworkCost(node, cluster.fabric, framework, cluster.factors))
            for node in {g.node.name: g.node for g in cluster.groups}.values()
        }  # fmt: skip
        self._work = lru_cache(MEMORY)(self._price_work)
        self._states = lru_cache(MEMORY)(self._price_states)
        self._slow = lru_cache(MEMORY)(lambda plan: fabric_slow(self.job(plan), cluster))

    def job(self, plan: Plan) -> TrainingJob:
        """The job under ``plan``."""
        size = plan.option("micro_batch_size")
        batch = replace(self.batch, micro_batch_size=size) if isinstance(size, int) else self.batch
        return TrainingJob("plan", self.model, self.framework, batch, plan)

    def __call__(self, plan: Plan) -> Estimate:
        """Full estimate of one step, without interval and without objects for traces."""
        return replace(estimate_step(self.job(plan), self.cluster, with_interval=False), details={})

    def bound(self, plan: Plan) -> PlanBound:
        """Lower bound of the step [s], or why the plan cannot work; exact about memory for 1F1B and GPipe."""
        job = self.job(plan)
        if reasons := check_job(job, self.cluster):
            return PlanBound(math.inf, "; ".join(reasons))
        if (
            plan.stages
            or not self.uniform
            or plan.option("expert") is not None
            or not _alike(plan.recompute, plan.offload)
        ):
            return PlanBound(0.0)
        work = self._work(_work_key(plan), job.batch.micro_batch_size, self.node.name)
        states = self._states(_state_key(plan), self.node.name)
        ranks, chunks = plan.pipeline_parallel, plan.virtual_stages
        traits = _traits(plan.schedule) if ranks * chunks > 1 else None
        owner = _owners(plan.schedule, ranks, chunks)
        if owner is None:
            return PlanBound(0.0)
        microbatches = job.batch.microbatches(plan)
        blocks = self._blocks(_work_key(plan), job.batch.micro_batch_size)
        counts = layers_per_stage(plan, self.framework, blocks, len(owner))
        chunk_of_block = _chunk_of_blocks(work.layer, counts)
        if reason := self._too_much(plan, work, states, chunk_of_block, owner, microbatches):
            return PlanBound(math.inf, reason)
        forward: Floats = np.bincount(chunk_of_block, work.forward, len(owner)).astype(np.float64)
        backward: Floats = np.bincount(chunk_of_block, work.backward, len(owner)).astype(np.float64)
        seconds = pipeline_bound(forward, backward, owner, ranks, microbatches, traits)
        update = np.bincount(owner[chunk_of_block], states.update, ranks)
        host = HostCost(self.framework, self.cluster.factors).step(0)  # at least
        return PlanBound((seconds + float(update.max()) + host) * (1 - 1e-9))

    def layers(self, plan: Plan, kind: str = "", ends: bool = False) -> list[LayerCosts]:
        """Costs of the transformer layers in model order, with messages as slow as the links of the cluster make them.

        Parameters
        ----------
        kind
            Name of the node type they run on; the first of the cluster by default.
        ends
            Count what comes before the first layer and after the last one to those layers.
        """
        node, slow = kind or self.node.name, self._slow(plan)
        work = self._work(_work_key(plan), self.job(plan).batch.micro_batch_size, node, slow)
        states = self._states(_state_key(plan), node, slow)
        columns = (work.forward + work.backward, states.bytes, work.activations, states.sync)
        of_layer = np.maximum(np.cumsum(work.layer) - 1, 0)
        kept = np.ones_like(work.layer) if ends else work.layer
        summed = [np.bincount(of_layer[kept], column[kept]) for column in columns]
        return [LayerCosts(*map(float, row)) for row in zip(*summed, strict=True)]

    # -- memory ------------------------------------------------------------------------------------------------------

    def _too_much(
        self,
        plan: Plan,
        work: _Work,
        states: _States,
        chunk_of_block: NDArray[np.int64],
        owner: NDArray[np.int64],
        microbatches: int,
    ) -> str:
        """Why some rank cannot hold at least what it must, or nothing."""
        ranks = plan.pipeline_parallel
        rank_of_block = owner[chunk_of_block]
        held = np.bincount(rank_of_block, states.bytes, ranks)
        by_chunk = np.bincount(chunk_of_block, work.activations, len(owner))
        flights = _in_flight(plan.schedule, ranks, plan.virtual_stages, microbatches)
        least = np.array([by_chunk[owner == r].min() for r in range(ranks)])
        share = self.framework.constants.get("fragmentation")
        reserve = self.framework.constants.get("memory_reserve")
        needed = (held + flights * least + work.workspace) * (1 + (share.value if share else 0.0))
        worst = float(needed.max()) + (reserve.value if reserve else 0.0)
        room = self.node.accelerator.memory_usable
        if worst <= room:
            return ""
        return f"out of memory: at least {format_quantity(worst, 'data')} needed of {format_quantity(room, 'data')}"

    # -- shared prices -----------------------------------------------------------------------------------------------

    def _blocks(self, plan: Plan, micro_batch: int) -> Sequence[Block]:
        batch = replace(self.batch, micro_batch_size=micro_batch)
        return compiled_layers(TrainingJob("blocks", self.model, self.framework, batch, plan))

    def _pricer(self, plan: Plan, kind: str, slow: Slow) -> BlockPricer:
        node, device, network = self._costs[kind]
        if slow:
            network = NetworkCost(node, self.cluster.fabric, self.framework, self.cluster.factors, slow=dict(slow))
        return BlockPricer(device, network, RankLayout(plan, node), self.framework, self.cluster.factors)

    def _price_work(self, plan: Plan, micro_batch: int, kind: str, slow: Slow = ()) -> _Work:
        blocks, pricer = self._blocks(plan, micro_batch), self._pricer(plan, kind, slow)
        one = {id(b): b for b in blocks}
        forward = {k: pricer.forward(b).seconds for k, b in one.items()}
        backward = {k: pricer.backward(b).seconds for k, b in one.items()}
        memory = {k: chunk_memory(Chunk(0, ((b, 1),)), plan.mesh) for k, b in one.items()}
        return _Work(
            np.array([forward[id(b)] for b in blocks]),
            np.array([backward[id(b)] for b in blocks]),
            np.array([memory[id(b)].activations for b in blocks]),
            np.array([b.takes_place for b in blocks]),
            min(memory[id(b)].workspace for b in blocks if b.name == "layer"),
        )

    def _price_states(self, plan: Plan, kind: str, slow: Slow = ()) -> _States:
        blocks, pricer = self._blocks(plan, 1), self._pricer(plan, kind, slow)
        one = {id(b): b for b in blocks}
        held: dict[int, float] = {}
        for key, block in one.items():
            tied = block.name in ("head", "prediction")  # they share the embedding's table where both are on one rank
            mine = (t for t in block.states if t.tier is Tier.HBM and not (tied and t.name.startswith("embedding.")))
            held[key] = sum(t.bytes(plan.mesh) for t in mine)
        exchange = {k: [pricer.price(op) for op in (*b.reduce, *b.publish)] for k, b in one.items()}
        sync = {k: sum(p.priced.seconds / p.op.wire.every for p in ops) for k, ops in exchange.items()}
        # One pass updates all that a rank holds: what a block adds to it is the bound, the launch comes once.
        update = {k: self._update(b, 2, pricer) - self._update(b, 1, pricer) for k, b in one.items()}
        layers = [b.takes_place for b in blocks]
        seconds = [update[id(b)] if layer else 0.0 for b, layer in zip(blocks, layers, strict=True)]
        return _States(*(np.array(c) for c in ([held[id(b)] for b in blocks], seconds, [sync[id(b)] for b in blocks])))

    @staticmethod
    def _update(block: Block, count: int, pricer: BlockPricer) -> float:
        return optimizer_time([Chunk(0, ((block, count),))], pricer).seconds


def pipeline_bound(
    forward: Floats,
    backward: Floats,
    owner: NDArray[np.int64],
    ranks: int,
    microbatches: int,
    traits: ScheduleTraits | None,
) -> float:
    """Lower bound of a pipeline's time [s]; exact for equal stages, free transfers and a schedule without stalls.

    Parameters
    ----------
    forward, backward
        Seconds of one micro-batch [virtual stage].
    owner
        Rank that holds each virtual stage.
    traits
        Of the schedule; None for a single rank.

    Notes
    -----
    Rank i cannot begin before the virtual stages in front of its first one have passed one micro-batch forward, and
    after its last backward, which is of that same stage, the stages in front must still pass it backward. Split
    backwards can fill the drain with weight gradients, asynchronous schedules have neither fill nor drain.
    """
    busy = microbatches * np.bincount(owner, forward + backward, ranks)
    if traits is None or not traits.flush or traits.weight_copies > 1 or traits.items_per_microbatch > 1:
        copies = traits.weight_copies if traits else 1
        return float(busy.max()) / copies
    first = np.array([int(np.flatnonzero(owner == r)[0]) for r in range(ranks)])
    fill = np.concatenate(([0.0], np.cumsum(forward)))[first]
    drain = 0.0 if traits.splits_backward else np.concatenate(([0.0], np.cumsum(backward)))[first]
    return float((fill + busy + drain).max())


def _work_key(plan: Plan) -> Plan:
    """The plan without what does not change a block's Ops in forward and backward."""
    per_microbatch = plan.zero_stage >= 2 or any(n not in ("micro_batch_size",) for n, _ in plan.options)
    free = per_microbatch or plan.expert_parallel > 1
    options = tuple(o for o in plan.options if o[0] != "micro_batch_size")
    return replace(
        plan,
        pipeline_parallel=1,
        virtual_stages=1,
        schedule="1f1b",
        options=options,
        data_parallel=plan.data_parallel if free else 1,
        zero_stage=plan.zero_stage if free else 0,
    )


def _state_key(plan: Plan) -> Plan:
    """The plan without what does not change a block's states."""
    options = tuple(o for o in plan.options if o[0] != "micro_batch_size")
    return replace(
        plan,
        pipeline_parallel=1,
        virtual_stages=1,
        schedule="1f1b",
        sequence_parallel=False,
        recompute="none",
        options=options,
    )


@lru_cache(64)
def _alike(recompute: str, offload: str) -> bool:
    """Whether all layers have the same Ops and stay on the device, whatever their stage."""
    strategy = lookup("recompute", recompute)
    return offload == "none" and not (hasattr(strategy, "layer_options") or hasattr(strategy, "decide"))


@lru_cache(64)
def _traits(schedule: str) -> ScheduleTraits:
    return cast(PipelineSchedule, lookup("pipeline", schedule)()).traits()


@lru_cache(1024)
def _owners(schedule: str, ranks: int, chunks: int) -> NDArray[np.int64] | None:
    """Rank of each virtual stage; None where several ranks hold copies of one."""
    if ranks * chunks == 1:
        return np.zeros(1, dtype=np.int64)
    traits = _traits(schedule)
    if traits.weight_copies > 1:
        return None
    owner = np.full(ranks * chunks, -1, dtype=np.int64)
    for rank in range(ranks):
        for chunk in range(chunks):
            owner[traits.virtual_stage(rank, chunk, ranks, chunks)] = rank
    return owner if (owner >= 0).all() else None


def _in_flight(schedule: str, ranks: int, chunks: int, microbatches: int) -> NDArray[np.int64]:
    """Micro-batches (of one chunk) that each rank holds at its peak, at least; exact for the schedules named."""
    rank = np.arange(ranks)
    if ranks * chunks == 1:
        return np.ones(1, dtype=np.int64)
    if schedule == "1f1b":
        return np.minimum(microbatches, ranks - rank)
    if schedule == "gpipe":
        return np.full(ranks, microbatches)
    if schedule == "interleaved-1f1b":
        return np.minimum(microbatches * chunks, 2 * (ranks - 1 - rank) + (chunks - 1) * ranks + 1)
    return np.ones(ranks, dtype=np.int64)


def _chunk_of_blocks(layer: NDArray[np.bool_], counts: Sequence[int]) -> NDArray[np.int64]:
    """Virtual stage of every block: other blocks stay with the layer they follow, the first ones with the first, those
    after the last layer with the last."""
    of_layer = np.repeat(np.arange(len(counts)), counts)
    found: NDArray[np.int64] = of_layer[np.maximum(np.cumsum(layer) - 1, 0)]
    found[int(np.flatnonzero(layer)[-1]) + 1 :] = len(counts) - 1
    return found
