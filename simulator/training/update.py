"""The update at the end of a step: clipping and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from simulator.training.block_time import BlockPricer, PhaseTime
from simulator.training.stages import Chunk
from simulator.workload.ops import Block, OpKind, TensorClass, Work

__all__ = ["optimizer_time"]


def optimizer_time(chunks: Sequence[Chunk], pricer: BlockPricer) -> PhaseTime:
    """Clipping and Adam over the states a rank owns: memory-bound passes over them.

    Clipping reads every gradient once; the update reads gradient and states and writes states and parameter.
    Kernels are fused over many tensors (multi-tensor apply), so a rank launches one of each per block.
    """
    mesh, device = pricer.mesh, pricer.device
    total = PhaseTime()
    for chunk in chunks:
        for block, count in chunk.blocks:
            by_class = {cls: 0.0 for cls in TensorClass}
            for tensor in block.states:
                by_class[tensor.cls] += tensor.bytes(mesh)
            optim = by_class[TensorClass.OPTIM]
            if not optim:
                continue
            # The shard of a gradient or parameter that matches the optimizer shard is all that is touched.
            share = _owned_share(block, pricer)
            gradient, parameter = by_class[TensorClass.GRAD] * share[0], by_class[TensorClass.PARAM] * share[1]
            works = (
                Work(OpKind.ELEMENTWISE, "fp32", flops=gradient / 2, bytes=gradient),
                Work(OpKind.ELEMENTWISE, "fp32", flops=optim, bytes=gradient + 2 * optim + parameter),
            )
            prices = [device.price(w) for w in works]
            total = total + PhaseTime(
                sum(p.seconds for p in prices) * count,
                sum(p.floor for p in prices) * count,
                {"optimizer": sum(p.seconds for p in prices) * count},
                {"hbm": sum(w.bytes for w in works) * count},
                {prices[0].trust: sum(p.seconds for p in prices) * count},
                0.0,
                frozenset(i for p in prices for i in p.constants),
            )
    return total


def _owned_share(block: Block, pricer: BlockPricer) -> tuple[float, float]:
    """Share of the resident gradients and parameters whose optimizer states live on this rank."""
    mesh = pricer.mesh
    optim = sum(t.elements(mesh) for t in block.states if t.name.endswith(".exp_avg"))
    gradient = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.GRAD)
    parameter = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.PARAM)
    return min(1.0, optim / gradient if gradient else 0.0), min(1.0, optim / parameter if parameter else 0.0)
