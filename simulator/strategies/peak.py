"""Peak of what Ops allocate and free among themselves: the liveness rule that passes, training and serving share."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.workload.ops import Mesh, Op, TensorClass

__all__ = ["peak_workspace"]


def peak_workspace(ops: Sequence[Op], mesh: Mesh, kept: frozenset[str]) -> float:
    """Peak bytes of tensors that ``ops`` write and that die before the end, by last use in program order.

    ``kept`` names tensors counted elsewhere (saved activations, parameters, gradient buffers).
    """
    last: dict[str, int] = {}
    for index, op in enumerate(ops):
        for tensor in (*op.reads, *op.writes):
            last[tensor.name] = index
    live: dict[str, float] = {}
    peak = 0.0
    for index, op in enumerate(ops):
        for tensor in op.writes:
            if tensor.cls is TensorClass.ACTIVATION and tensor.name not in kept:
                live[tensor.name] = max(live.get(tensor.name, 0.0), tensor.bytes(mesh))
            elif tensor.cls in (TensorClass.PARAM, TensorClass.WORKSPACE):  # gathered for this use only
                live[tensor.name] = tensor.bytes(mesh)
        peak = max(peak, sum(live.values()))
        for name in [n for n in live if last[n] == index]:
            del live[name]
    return peak
