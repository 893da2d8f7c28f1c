"""Bytes that reside on one rank of every pipeline stage, from tensors that are allocated and freed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from simulator.cost.tiers import TierCost
from simulator.hardware.types import Node
from simulator.results.estimate import MemoryLedger, StageMemory
from simulator.strategies.peak import peak_workspace
from simulator.strategies.pipeline.orders import F
from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.training.stages import Chunk
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Collective, Mesh, Op, OpKind, Tensor, TensorClass, Tier

__all__ = ["ChunkMemory", "chunk_memory", "is_shared", "memory_ledger"]


@dataclass(frozen=True)
class ChunkMemory:
    """What one virtual stage needs.

    Attributes
    ----------
    activations
        Bytes of HBM one micro-batch holds from forward to backward.
    weight_gradient_activations
        The part that only the weight gradients still need once the input gradients are done.
    workspace
        Peak of everything that is allocated and freed inside one forward or backward, buffers of copies included.
    evicted
        Bytes one micro-batch holds in other tiers from forward to backward.
    staging
        Host buffers of copies that go through host memory on their way to NVMe.
    handed_over
        Bytes that the reductions of one forward hand to a communicator's stream.
    """

    activations: float
    weight_gradient_activations: float
    workspace: float
    evicted: Mapping[Tier, float] = field(default_factory=dict)
    staging: float = 0.0
    handed_over: float = 0.0


def chunk_memory(chunk: Chunk, mesh: Mesh) -> ChunkMemory:
    """Activation and workspace bytes of one virtual stage."""
    activations = weight_part = workspace = staging = buffers = handed = 0.0
    evicted: dict[Tier, float] = {}
    for block, count in chunk.blocks:
        held = [t for t in block.saved if t.tier is Tier.HBM]
        saved = frozenset(t.name for t in held)
        needed = {t.name for op in block.backward if op.phase.value == "weight_gradient" for t in op.reads}
        activations += count * sum(t.bytes(mesh) for t in held)
        weight_part += count * sum(t.bytes(mesh) for t in held if t.name in needed)
        for tensor in block.saved:
            if tensor.tier is not Tier.HBM:
                evicted[tensor.tier] = evicted.get(tensor.tier, 0.0) + count * tensor.bytes(mesh)
        handed += count * sum(op.reads[0].bytes(mesh) for op in block.forward if _reduces(op))
        buffers = max(buffers, sum(t.bytes(mesh) for t in block.states if t.cls is TensorClass.WORKSPACE))
        passes = (
            (block.forward, block.gather_forward, ()),
            (block.backward, block.gather_backward, block.reduce_each),
        )
        for ops, gathers, after in passes:
            inside = peak_workspace(ops, mesh, saved)
            # The parameters of this message's blocks, and of those that arrive while they compute.
            gathered = {t.name: (op, t) for op in gathers for t in op.writes if t.tier is Tier.HBM}
            inside += sum(
                min(count, op.wire.blocks * (1 + op.wire.prefetch)) * t.bytes(mesh) for op, t in gathered.values()
            )
            inside += _leaving(block, (*ops, *after), count, mesh)
            workspace = max(workspace, inside)
            staging = max(staging, _staged((*ops, *gathers, *after), count, mesh))
    return ChunkMemory(activations, weight_part, workspace + buffers, evicted, staging, handed)


def _reduces(op: Op) -> bool:
    """Whether a forward Op reduces partial sums over the tensor-parallel ranks."""
    return op.axis == "tp" and op.collective in (Collective.REDUCE_SCATTER, Collective.ALL_REDUCE)


def _leaving(block: Block, ops: Sequence[Op], count: int, mesh: Mesh) -> float:
    """HBM of tensors on their way out: activations of the layer before, gradients of this layer and the one before."""
    out = [t for op in ops if op.kind is OpKind.COPY and op.reads[0].tier is Tier.HBM for t in op.reads]
    gradients = sum(t.bytes(mesh) for t in out if t.cls is TensorClass.GRAD)
    others = sum(t.bytes(mesh) for t in out if t.cls is not TensorClass.GRAD)
    return gradients * min(count, 2) + others * min(count - 1, 1)


def _staged(ops: Sequence[Op], count: int, mesh: Mesh) -> float:
    """Host memory of what passes through it to or from NVMe, double-buffered."""
    through = [
        op for op in ops if op.kind is OpKind.COPY and {op.reads[0].tier, op.writes[0].tier} == {Tier.HOST, Tier.NVME}
    ]
    return min(count, 2) * sum(t.bytes(mesh) for op in through for t in op.reads)


def _states(chunks: Sequence[Chunk], mesh: Mesh, versions: float, replicas: int) -> dict[Tier, dict[str, float]]:
    """Parameter, gradient and optimizer bytes by tier; a tensor that several blocks of the rank share counts once."""
    kept = (TensorClass.PARAM, TensorClass.GRAD, TensorClass.OPTIM)
    totals: dict[Tier, dict[str, float]] = {Tier.HBM: {cls.value: 0.0 for cls in kept}}
    shared: set[str] = set()
    for chunk in chunks:
        for block, count in chunk.blocks:
            for tensor in block.states:
                if tensor.cls not in kept:
                    continue
                if is_shared(block, tensor):
                    if tensor.name in shared:
                        continue
                    shared.add(tensor.name)
                copies = replicas * (versions if tensor.cls is TensorClass.PARAM else 1)
                place = totals.setdefault(tensor.tier, {cls.value: 0.0 for cls in kept})
                place[tensor.cls.value] += copies * count * tensor.bytes(mesh)
    return totals


def _update_workspace(chunks: Sequence[Chunk], mesh: Mesh, framework: Framework) -> float:
    """Temporary bytes of the optimizer step on a rank: copies of gradients and intermediate results in fp32."""
    each = framework.constants.get("optimizer_workspace")
    if each is None:
        return 0.0
    moments = (
        count * tensor.elements(mesh)
        for chunk in chunks
        for block, count in chunk.blocks
        for tensor in block.states
        if tensor.cls is TensorClass.OPTIM and tensor.tier is Tier.HBM and tensor.name.endswith(".exp_avg")
    )
    return each.value * sum(moments)


class _Resident(NamedTuple):
    """States by tier and class, and what updating them takes beside: in HBM, and two blocks' that pass through [B]."""

    states: dict[Tier, dict[str, float]]
    update_workspace: float
    passing: float


def _resident(chunks: Sequence[Chunk], mesh: Mesh, versions: float, replicas: int, framework: Framework) -> _Resident:
    return _Resident(
        _states(chunks, mesh, versions, replicas), _update_workspace(chunks, mesh, framework),
        _passing_states(chunks, mesh),
    )  # fmt: skip


def is_shared(block: Block, tensor: Tensor) -> bool:
    """The token embedding, which a tied head and modules for multi-token prediction read as well."""
    return block.name in ("embedding", "head", "prediction") and tensor.name.startswith("embedding.weight")


def memory_ledger(
    timeline: PipelineTimeline, chunks_of_rank: Sequence[Sequence[Chunk]], memory: Sequence[ChunkMemory],
    meshes: Sequence[Mesh], nodes: Sequence[Node], framework: Framework, versions: Sequence[float],
    evicted: Mapping[Tier, Sequence[float]] | None = None, accelerators: int = 0, replicas: int = 1,
    updates_on_device: bool = False,
) -> MemoryLedger:  # fmt: skip
    """Peak of every pipeline rank on every tier it uses.

    Parameters
    ----------
    timeline
        Gives the activations in flight; made from orders alone it is already exact, because what a rank holds
        depends on the order of its own tasks only.
    meshes, nodes
        Axis sizes and node type of every rank, for sizes and capacity.
    versions
        Weight versions each rank keeps.
    evicted
        Peak of evicted activations by tier and rank [B].
    accelerators
        Accelerators of the job: those of a node share its host memory and drives; 0 = whole nodes.
    replicas
        Copies of all states that each rank keeps.
    updates_on_device
        Whether optimizer states on drives pass through HBM instead of host memory when they are updated.

    Notes
    -----
    Host memory and drives are shared equally by the accelerators of a node. The peer tier is the room that the stages
    without evictions leave in their HBM, shared by the stages that evict.

    The allocator's loss is a share of what is allocated and, where the host runs ahead of the device
    (``holds_handed_over``), what forwards handed to a communicator's stream: freed, but not to be reused before the
    device gets there (PyTorch's ``Tensor.record_stream``). It is that of one forward, or of the forwards at the start
    of a step but for two: the last one runs after the wait for the first gradient, and in the room of another.
    """
    reserve = framework.constants.get("memory_reserve")
    fragmentation = framework.constants.get("fragmentation")
    stages, peers = list[StageMemory](), dict[int, float]()
    known = dict[Hashable, _Resident]()  # ranks with equal chunks hold the same
    for rank, (chunks, mesh) in enumerate(zip(chunks_of_rank, meshes, strict=True)):
        held = (tuple(c.content for c in chunks), id(mesh), versions[rank])
        if held not in known:
            known[held] = _resident(chunks, mesh, versions[rank], replicas, framework)
        states = {tier: dict(by_class) for tier, by_class in known[held].states.items()}
        by_class = states.pop(Tier.HBM)
        by_class[TensorClass.ACTIVATION.value] = float(timeline.activations.peak[rank])
        inside = max((memory[c.position].workspace for c in chunks), default=0.0)
        passing = known[held].passing
        # The update begins when the last activations are gone, and takes their room first.
        needed = known[held].update_workspace + passing * updates_on_device
        beyond = needed - by_class[TensorClass.ACTIVATION.value]
        by_class[TensorClass.WORKSPACE.value] = max(inside, beyond)
        allocated = sum(by_class.values())
        share = fragmentation.value if fragmentation else 0.0
        by_class["fragmentation"] = allocated * share + _held(timeline, rank, chunks, memory, framework)
        by_class["reserve"] = reserve.value if reserve else 0.0
        stages.append(StageMemory(rank, Tier.HBM, by_class, nodes[rank].accelerator.memory_usable))
        for tier, peaks in (evicted or {}).items():
            if tier is Tier.PEER:
                peers[rank] = float(peaks[rank])
            elif peaks[rank]:
                states.setdefault(tier, {})[TensorClass.ACTIVATION.value] = float(peaks[rank])
        staged = max((memory[c.position].staging for c in chunks), default=0.0) + passing * (not updates_on_device)
        if staged:
            states.setdefault(Tier.HOST, {})[TensorClass.WORKSPACE.value] = staged
        if states:
            tiers = TierCost(nodes[rank], accelerators)
            capacity = {Tier.HOST: tiers.host_memory, Tier.NVME: tiers.nvme_capacity}
            stages += [StageMemory(rank, tier, held, capacity[tier]) for tier, held in states.items()]
    return MemoryLedger((*stages, *_peer_stages(stages, peers)))


def _held(
    timeline: PipelineTimeline, rank: int, chunks: Sequence[Chunk], memory: Sequence[ChunkMemory], framework: Framework
) -> float:
    """Bytes that wait for the device after forwards that the host launched ahead of it."""
    if framework.holds_handed_over == "no":
        return 0.0
    forwards = 1
    if framework.holds_handed_over == "warm-up":
        order = timeline.program.order
        mine = order.kind[int(order.offsets[rank]) : int(order.offsets[rank + 1])]
        others = np.flatnonzero(mine != F)
        forwards = max(0, (int(others[0]) if others.size else len(mine)) - 2)
    return forwards * sum(memory[c.position].handed_over for c in chunks) / max(len(chunks), 1)


def _passing_states(chunks: Sequence[Chunk], mesh: Mesh) -> float:
    """Bytes of two blocks' optimizer states that live on NVMe: one is updated while the next comes in."""
    blocks = [block for chunk in chunks for block, _ in chunk.blocks]
    optimizer = [
        sum(t.bytes(mesh) for t in b.states if t.cls is TensorClass.OPTIM and t.tier is Tier.NVME) for b in blocks
    ]
    return 2 * max(optimizer, default=0.0)


def _peer_stages(stages: Sequence[StageMemory], peers: Mapping[int, float]) -> list[StageMemory]:
    """What evicting ranks put into the free HBM of the others."""
    evicting = {rank: size for rank, size in peers.items() if size > 0}
    if not evicting:
        return []
    room = sum(max(0.0, s.capacity - s.peak) for s in stages if s.tier is Tier.HBM and s.stage not in evicting)
    share = room / sum(evicting.values())
    return [
        StageMemory(r, Tier.PEER, {TensorClass.ACTIVATION.value: size}, share * size) for r, size in evicting.items()
    ]
