"""Which Ops of a served layer are one expert block to the engine: its library runs them as it likes.

Dispatch, both grouped GEMMs, the activation between them and the weighted sum are known by the format of the experts'
weights, because that is what a library has kernels for: ``bf16``, ``fp8`` (one scale per tensor), ``fp8_block`` (one
per block of elements), ``fp4``. Weights that are widened on the way (mxfp4, int4) are no such block: tables of their
kernels differ by a factor of 4 between engines and versions, so they stay priced Op by Op.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from simulator.workload.operators import EXPERTS, SCALES
from simulator.workload.ops import Block, Op, OpKind, TensorClass

__all__ = ["as_expert_blocks"]

FORMATS = ("bf16", "fp8", "fp4")

PARTS = ("dispatch", "expert_up", "expert_act", "expert_down", "combine")
"""Last parts of the names of the Ops of a block."""


def as_expert_blocks(block: Block) -> Block:
    """The block with the Ops of its routed experts tagged by the format of their weights."""
    formats = dict(_formats(block.forward))
    if not formats:
        return block

    def tagged(op: Op) -> Op:
        mixture, _, part = op.name.rpartition(".")
        known = formats.get(mixture)
        return replace(op, tags={**op.tags, EXPERTS: known}) if known and part in PARTS else op

    return block.map(tagged)


def _formats(ops: Iterable[Op]) -> Iterable[tuple[str, str]]:
    """Names of mixtures and the format of their experts' weights, where products are taken in it."""
    for op in ops:
        if op.kind is OpKind.GROUPED_GEMM and op.name.endswith(".expert_up"):
            stored = {t.dtype for t in op.reads if t.cls in (TensorClass.PARAM, TensorClass.WORKSPACE)}
            if op.dtype in FORMATS and stored <= {op.dtype, "bf16"} and op.dtype in stored:
                scaled = op.dtype == "fp8" and op.tags.get(SCALES) == "block"
                yield op.name.rpartition(".")[0], "fp8_block" if scaled else op.dtype
