"""A job on its pipeline: compiled chunks on ranks, their times, their memory, and the run of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulator.constants import ConstantSet, Trust, both
from simulator.cost.device import DeviceCost
from simulator.cost.network import NetworkCost
from simulator.hardware.types import Cluster, Node
from simulator.results.estimate import MemoryLedger, Traffic
from simulator.strategies.compile import plan_notes
from simulator.strategies.pipeline.choice import schedule_of
from simulator.strategies.pipeline.one_f_one_b import one_f_one_b_order
from simulator.strategies.protocols import Action
from simulator.strategies.rank_layout import RankLayout
from simulator.training.block_time import BlockPricer, PhaseTime, combine
from simulator.training.decisions import settle
from simulator.training.drained_queues import after_wait, begins_empty
from simulator.training.layer_plans import varied_layers
from simulator.training.link_phases import Narrow, narrow_links, narrow_notes
from simulator.training.memory import ChunkMemory, chunk_memory
from simulator.training.messages import Boundary, boundaries
from simulator.training.overlapped_pairs import overlapped_pair, tasks_of_rank, work_time
from simulator.training.pipeline import run_program
from simulator.training.pipeline_costs import job_costs, pipeline_seconds
from simulator.training.pipeline_memory import pipeline_memory
from simulator.training.pipeline_program import Layout, lay_out, with_costs
from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.training.seats import first_seat, nodes_of_stages, seats_of_stages
from simulator.training.second_order import second_order
from simulator.training.shard_host import slices_at_end
from simulator.training.stages import Chunk, compiled_layers, cut_into_chunks, layers_per_stage, too_many_stages
from simulator.training.step_end import gather_delay, reduction_end, sending_traits
from simulator.training.step_run import StepRun
from simulator.training.step_traffic import step_bytes
from simulator.training.update import optimizer_time
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Mesh, TensorClass

__all__ = ["PipelinedJob"]


class PipelinedJob:
    """Everything about one job that does not change between steps; results are computed on demand.

    Parameters
    ----------
    job, cluster
        What runs where.
    scale
        Factors on constants by id, for intervals.
    settled
        Take the plan as it is, even where a strategy would still decide something from prices.
    slow
        How many times longer messages between scale-up domains take than behind switches that never block, by mesh
        axis. By default what the links of the job's own placement make of it when nobody else uses them.
    """

    def __init__(
        self,
        job: TrainingJob,
        cluster: Cluster,
        scale: Mapping[str, float] | None = None,
        settled: bool = False,
        slow: Mapping[str, float] | None = None,
    ) -> None:
        self._slow = slow
        job = job if settled else settle(job, cluster)
        self.job, self.cluster, self.scale = job, cluster, dict(scale or {})
        self.plan, self.framework = job.plan, job.framework
        self.microbatches = job.batch.microbatches(job.plan)
        self.schedule = schedule_of(job.plan)
        self.traits = self.schedule.traits()
        self.ranks = job.plan.pipeline_parallel
        self._times: dict[tuple[object, ...], PhaseTime] = {}
        self._base: PipelinedJob | None = None
        self.sending = sending_traits(job)

    def moved(self, scale: Mapping[str, float]) -> PipelinedJob:
        """The same pipeline with the constants in ``scale`` multiplied: what does not rest on them keeps its time."""
        other = PipelinedJob(self.job, self.cluster, both(self.scale, scale), settled=True, slow=self.slow)
        pricers = {id(p): p.moved(scale) for p in dict.fromkeys(self.pricers)}
        shape = {name: getattr(self, name) for name in ("positions", "chunks", "seats", "node_of_rank")}
        vars(other).update(shape, pricers=[pricers[id(p)] for p in self.pricers], _base=self)
        return other

    @staticmethod
    def check_schedule(job: TrainingJob) -> str:
        """Why the schedule does not work for these sizes, or an empty string."""
        plan, schedule = job.plan, schedule_of(job.plan)
        if plan.pipeline_parallel == 1 and plan.virtual_stages == 1:
            return ""
        reason = schedule.check(plan.pipeline_parallel, job.batch.microbatches(plan), plan.virtual_stages)
        return reason or too_many_stages(job.model, plan)

    @cached_property
    def factors(self) -> dict[str, float]:
        """Factors on constants by id: those of the cluster, and ``scale`` on top."""
        return both(self.cluster.factors, self.scale)

    # -- shape -----------------------------------------------------------------------------------------------------

    @cached_property
    def orders(self) -> Sequence[Sequence[Action]]:
        """Tasks of every rank; a single rank just alternates forward and backward."""
        if self.ranks == 1 and self.plan.virtual_stages == 1:
            return one_f_one_b_order(1, self.microbatches)
        return self.schedule.order(self.ranks, self.microbatches, self.plan.virtual_stages)

    @cached_property
    def layout(self) -> Layout:
        """The tasks of a step with all they wait for, whatever they cost."""
        return lay_out(self.orders, self.traits, self.microbatches * self.traits.items_per_microbatch)

    @cached_property
    def positions(self) -> list[list[int]]:
        """Virtual stages that each rank holds, by chunk."""
        if self.ranks == 1 and self.plan.virtual_stages == 1:
            return [[0]]
        if any(stage.places for stage in self.plan.stages):
            return [list(stage.places) for stage in self.plan.stages]
        chunks = range(max(self.plan.virtual_stages, self.traits.weight_copies))
        found = []
        for rank in range(self.ranks):
            where = [self.traits.virtual_stage(rank, c, self.ranks, len(chunks)) for c in chunks]
            found.append(list(dict.fromkeys(where)))
        return found

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """Virtual stages in model order."""
        stages = 1 + max(p for where in self.positions for p in where)
        blocks = compiled_layers(self.job.of_stage(0))
        sizes = layers_per_stage(self.plan, self.framework, blocks, stages, self.positions)
        return cut_into_chunks(varied_layers(self.job, sizes, [self.rank_of_position[p] for p in range(stages)]), sizes)

    @cached_property
    def chunks_of_rank(self) -> list[list[Chunk]]:
        """Chunks that each rank holds, in order of use."""
        return [[self.chunks[p] for p in where] for where in self.positions]

    @cached_property
    def node_of_rank(self) -> list[Node]:
        """Node type of each pipeline rank: the slowest of those its ranks sit on."""
        return nodes_of_stages(self.seats, self.cluster)

    @cached_property
    def seats(self) -> list[NDArray[np.int64]]:
        """Accelerators of the cluster that each pipeline rank sits on, in the order of its ranks."""
        return seats_of_stages(self.plan, self.cluster)

    # -- prices ----------------------------------------------------------------------------------------------------

    @cached_property
    def slow(self) -> Mapping[str, float]:
        """How many times longer messages between scale-up domains take, by mesh axis."""
        return {axis: held.slow for axis, held in self.narrow.items()} if self._slow is None else self._slow

    @cached_property
    def narrow(self) -> Mapping[str, Narrow]:
        """Links of its placement that are too narrow for what it sends, by mesh axis; none where ``slow`` was given."""
        return narrow_links(PipelinedJob(self.job, self.cluster, self.scale, True, {})) if self._slow is None else {}

    @cached_property
    def pricers(self) -> list[BlockPricer]:
        """Pricer of every pipeline rank; ranks with the same plan on the same places of equal nodes share one."""
        made: dict[tuple[str, int, int], BlockPricer] = {}
        costs: dict[str, tuple[DeviceCost, NetworkCost]] = {}
        found = []
        for node, seats, plan in zip(self.node_of_rank, self.seats, self.plan.stage_plans, strict=True):
            key = (node.name, id(plan), first_seat(seats, self.cluster))
            if key not in made:
                if node.name not in costs:
                    device = DeviceCost(node.accelerator, self.framework, self.factors, recorded=True)
                    network = NetworkCost(node, self.cluster.fabric, self.framework, self.factors, slow=self.slow)
                    costs[node.name] = (device, network)
                made[key] = BlockPricer(*costs[node.name], RankLayout(plan, node, key[2]), self.framework, self.factors)
            found.append(made[key])
        return found

    def pricer(self, rank: int) -> BlockPricer:
        """Pricer of a pipeline rank."""
        return self.pricers[rank]

    def mesh(self, rank: int) -> Mesh:
        """Axis sizes of a pipeline rank."""
        return self.pricers[rank].mesh

    @cached_property
    def constants(self) -> ConstantSet:
        """Every constant that was used, of devices, networks and framework."""
        merged = ConstantSet()
        for pricer in dict.fromkeys(self.pricers):
            for used in (pricer.device.constants, pricer.network.constants, pricer.tiers.constants):
                merged.entries.update(used.entries)
        host = self.pricer(0).host
        for constant in (*self.framework.constants.values(), *host.constants, *host.step_constants):
            merged.entries[constant.id] = constant
        return merged

    @cached_property
    def rank_of_position(self) -> dict[int, int]:
        """The first rank that holds each virtual stage."""
        return {p: rank for rank in reversed(range(self.ranks)) for p in self.positions[rank]}

    @cached_property
    def forward_times(self) -> list[PhaseTime]:
        """Forward of one micro-batch by virtual stage."""
        return self.chunk_times("forward")

    @cached_property
    def backward_times(self) -> list[PhaseTime]:
        """Whole backward of one micro-batch by virtual stage."""
        return self.chunk_times("backward")

    def chunk_times(self, phase: str) -> list[PhaseTime]:
        """One pass of one micro-batch by virtual stage; ``phase`` is ``forward``, ``backward``, or half a backward."""
        return [self._chunk_time(c, phase) for c in self.chunks]

    def _chunk_time(self, chunk: Chunk, phase: str) -> PhaseTime:
        """Time of one pass through a chunk; chunks of equal content on equal nodes are priced once."""
        rank = self.rank_of_position[chunk.position]
        pricer = self.pricer(rank)
        empty = begins_empty(pricer, phase, chunk.position, len(self.chunks))
        key = (phase, chunk.content, id(pricer), empty)
        if key not in self._times:
            price = getattr(pricer, phase)
            found = combine((price(block), count) for block, count in chunk.blocks)
            self._times[key] = after_wait(found, pricer, chunk.blocks, phase) if empty else found
        return self._times[key]

    def pair_time(self, forward: int, backward: int, split: bool = False) -> PhaseTime:
        """A forward of one virtual stage mutually overlapped with the backward of another."""
        there, back = self.chunks[forward], self.chunks[backward]
        rank = self.rank_of_position[forward]
        key = ("pair", split, there.content, back.content, id(self.pricer(rank)))
        if key not in self._times:
            found = self._base.pair_time(forward, backward, split) if self._base is not None else None
            if found is None or not self.pricer(rank).unmoved(found.constants):
                found = overlapped_pair(self.pricer(rank), there.blocks, back.blocks, split)
            self._times[key] = found
        return self._times[key]

    def update_time(self, rank: int, beside: float = 0.0) -> PhaseTime:
        """Clipping and optimizer of a rank, see :func:`~simulator.training.update.optimizer_time`."""
        chunks = self.chunks_of_rank[rank]
        key = (beside, tuple(c.content for c in chunks), id(self.pricer(rank)))
        if key not in self._times:
            found = self._base.update_time(rank) if self._base is not None and not beside else None
            if found is None or not self.pricer(rank).unmoved(found.constants):
                found = optimizer_time(chunks, self.pricer(rank), beside)
            self._times[key] = found
        return self._times[key]

    @cached_property
    def chunk_memories(self) -> list[ChunkMemory]:
        """What every virtual stage needs, in model order."""
        found = {c.content: c for c in self.chunks}
        needed = {key: chunk_memory(c, self.mesh(self.rank_of_position[c.position])) for key, c in found.items()}
        return [needed[c.content] for c in self.chunks]

    @cached_property
    def boundaries(self) -> list[Boundary]:
        """What passes between every virtual stage and the next."""
        return boundaries(self)

    @cached_property
    def p2p_seconds(self) -> float:
        """Sending one micro-batch's activation to the next stage, over the slowest boundary [s]."""
        return max((max(b.forward, b.backward) for b in self.boundaries), default=0.0)

    # -- memory and bounds -------------------------------------------------------------------------------------------

    def memory(self) -> MemoryLedger:
        """Peak of every rank. Depends on the order of each rank's tasks only, so nothing has to be run."""
        return self._memory

    @cached_property
    def _memory(self) -> MemoryLedger:
        return pipeline_memory(self)

    def floor(self) -> float:
        """Roofline bound of the step [s]: the computation of the busiest rank, nothing else."""
        by_rank = [
            self._microbatches_of_each
            * sum(self.forward_times[p].floor + self.backward_times[p].floor for p in self.positions[rank])
            + self.update_time(rank).floor
            for rank in range(self.ranks)
        ]
        return max(by_rank)

    @property
    def _microbatches_of_each(self) -> float:
        """Micro-batches that a rank runs through each virtual stage it holds: a bidirectional pair halves them."""
        return self.microbatches / self.traits.weight_copies

    def work_of(self, rank: int) -> list[int]:
        """Virtual stages whose micro-batches a rank executes; a bidirectional pair shares them."""
        return self.positions[rank][: max(1, len(self.positions[rank]) // self.traits.weight_copies)]

    # -- the run -------------------------------------------------------------------------------------------------------

    @cached_property
    def timeline(self) -> PipelineTimeline:
        """The pipeline of one step."""
        return run_program(with_costs(self.layout, job_costs(self)))

    @cached_property
    def pipeline_seconds(self) -> float:
        """How long a step keeps the pipeline, see :func:`~simulator.training.pipeline_costs.pipeline_seconds` [s]."""
        return pipeline_seconds(self)

    def run(self) -> StepRun:
        """Execute one step."""
        timeline, piped = self.timeline, self.pipeline_seconds
        busiest = int(np.argmax(timeline.busy))
        update = max((self.update_time(r, piped) for r in range(self.ranks)), key=lambda t: t.seconds)
        updates = self.traits.updates(self.microbatches)
        reduced = self.traits.reductions(self.microbatches) * (reduction_end(self, update.seconds) - timeline.makespan)
        delay = max(gather_delay(self, rank) for rank in range(self.ranks))
        host = self.host_per_step
        second = second_order(self, timeline)
        optimizer = updates * update.seconds + (second.precondition if second else 0.0)
        parts = dict(work_time(self, tasks_of_rank(timeline.program, busiest)).parts)
        scale = float(timeline.busy[busiest]) / max(sum(parts.values()), 1e-300)
        parts = {k: v * scale for k, v in parts.items()}
        parts["bubble"] = piped - float(timeline.busy[busiest])
        parts["data_parallel"] = parts.get("data_parallel", 0.0) + reduced + delay
        parts["optimizer"] = parts.get("optimizer", 0.0) + optimizer
        parts["host"] = parts.get("host", 0.0) + host
        return StepRun(piped + reduced + optimizer + delay + host, parts, timeline, busiest, second)

    @cached_property
    def host_per_step(self) -> float:
        """Host time of a step beside the launches of its layers [s], of the rank with the most parameter tensors."""
        host, (parameters, slices) = self.pricer(0).host, self._counted
        return host.step(parameters) + host.slices(slices)

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """Parameter tensors and slices at the end of a step of the ranks that have most of them."""
        if self._base is not None:
            return self._base._counted
        distinct = {tuple(c.content for c in chunks): chunks for chunks in self.chunks_of_rank}.values()
        held = [
            sum(count * sum(t.cls is TensorClass.PARAM for t in b.states) for c in chunks for b, count in c.blocks)
            for chunks in distinct
        ]
        layout = self.pricer(0).layout
        return max(held), max(slices_at_end(chunks, self.framework, layout) for chunks in distinct)

    # -- summaries -----------------------------------------------------------------------------------------------

    def step_time(self, rank: int) -> PhaseTime:
        """Computation and traffic of one rank over a step, pipeline messages and update included."""
        times = [
            (t[p], self._microbatches_of_each)
            for p in self.positions[rank]
            for t in (self.forward_times, self.backward_times)
        ]
        return combine([*times, (self.update_time(rank), self.traits.updates(self.microbatches))])

    def traffic(self) -> Traffic:
        """Bytes per accelerator and step by link class, of the rank that moves most."""
        return step_bytes(self)

    def trust_shares(self) -> dict[str, float]:
        """Share of the computation and communication time by trust of the constants behind it."""
        total: dict[Trust, float] = {}
        for rank in range(self.ranks):
            for trust, seconds in self.step_time(rank).trust.items():
                total[trust] = total.get(trust, 0.0) + seconds
        whole = sum(total.values())
        return {trust.value: total[trust] / whole for trust in Trust if trust in total} if whole else {}

    def warnings(self) -> tuple[str, ...]:
        """What was assumed."""
        found = [*plan_notes(self.plan), *narrow_notes(self)]
        devices = {n.accelerator.name: n.accelerator for n in self.node_of_rank}
        found += [
            f"{a.name}: no measured kernels, cost curves are borrowed or from the datasheet"
            for a in devices.values()
            if not a.efficiency
        ]
        return tuple(found)
