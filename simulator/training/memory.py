"""Bytes that reside on one rank of every pipeline stage, from tensors that are allocated and freed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.hardware.types import Node
from simulator.results.estimate import MemoryLedger, StageMemory
from simulator.strategies.peak import peak_workspace
from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.training.stages import Chunk
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Mesh, Tensor, TensorClass, Tier

__all__ = ["ChunkMemory", "chunk_memory", "memory_ledger"]


@dataclass(frozen=True)
class ChunkMemory:
    """What one virtual stage needs.

    Attributes
    ----------
    activations
        Bytes one micro-batch holds from forward to backward.
    weight_gradient_activations
        The part that only the weight gradients still need once the input gradients are done.
    workspace
        Peak of everything that is allocated and freed inside one forward or backward.
    """

    activations: float
    weight_gradient_activations: float
    workspace: float


def chunk_memory(chunk: Chunk, mesh: Mesh) -> ChunkMemory:
    """Activation and workspace bytes of one virtual stage."""
    activations = weight_part = workspace = 0.0
    for block, count in chunk.blocks:
        saved = frozenset(t.name for t in block.saved)
        needed = {t.name for op in block.backward if op.phase.value == "weight_gradient" for t in op.reads}
        activations += count * sum(t.bytes(mesh) for t in block.saved)
        weight_part += count * sum(t.bytes(mesh) for t in block.saved if t.name in needed)
        for ops, gathers in ((block.forward, block.gather_forward), (block.backward, block.gather_backward)):
            inside = peak_workspace(ops, mesh, saved)
            # The parameters of this message's blocks, and of those that arrive while they compute.
            inside += sum(min(count, op.wire.blocks * (1 + op.wire.prefetch)) * t.bytes(mesh) for op in gathers for t in op.writes)
            workspace = max(workspace, inside)
    return ChunkMemory(activations, weight_part, workspace)


def _states(chunks: Sequence[Chunk], mesh: Mesh, versions: int) -> dict[str, float]:
    """Parameter, gradient and optimizer bytes; a tensor that several blocks of the rank share counts once."""
    totals = {cls.value: 0.0 for cls in (TensorClass.PARAM, TensorClass.GRAD, TensorClass.OPTIM)}
    shared: set[str] = set()
    for chunk in chunks:
        for block, count in chunk.blocks:
            for tensor in block.states:
                if _is_shared(block, tensor):
                    if tensor.name in shared:
                        continue
                    shared.add(tensor.name)
                copies = versions if tensor.cls is TensorClass.PARAM else 1
                totals[tensor.cls.value] += copies * count * tensor.bytes(mesh)
    return totals


def _is_shared(block: Block, tensor: Tensor) -> bool:
    """The token embedding, which a tied head reads as well."""
    return block.name in ("embedding", "head") and tensor.name.startswith("embedding.weight")


def memory_ledger(
    timeline: PipelineTimeline, chunks_of_rank: Sequence[Sequence[Chunk]], memory: Sequence[ChunkMemory], mesh: Mesh,
    nodes: Sequence[Node], framework: Framework, versions: Sequence[int],
) -> MemoryLedger:  # fmt: skip
    """Peak of every pipeline rank: states, activations in flight, workspace, and what the framework takes.

    Parameters
    ----------
    timeline
        Gives the activations in flight; made from orders alone it is already exact, because what a rank holds
        depends on the order of its own tasks only.
    nodes
        Node type of every rank, for the capacity.
    versions
        Weight versions each rank keeps.
    """
    reserve = framework.constants.get("memory_reserve")
    fragmentation = framework.constants.get("fragmentation")
    stages = []
    for rank, chunks in enumerate(chunks_of_rank):
        by_class = _states(chunks, mesh, versions[rank])
        by_class[TensorClass.ACTIVATION.value] = float(timeline.activations.peak[rank])
        by_class[TensorClass.WORKSPACE.value] = max((memory[c.position].workspace for c in chunks), default=0.0)
        allocated = sum(by_class.values())
        by_class["fragmentation"] = allocated * (fragmentation.value if fragmentation else 0.0)
        by_class["reserve"] = reserve.value if reserve else 0.0
        stages.append(StageMemory(rank, Tier.HBM, by_class, nodes[rank].accelerator.memory_usable))
    return MemoryLedger(tuple(stages))
