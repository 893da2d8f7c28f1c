"""Bytes of the parts of a served model: weights and workspace of its layers, cache of its mixers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from simulator.serving.token_costs import Part, layers_of_stage, served_block
from simulator.strategies.peak import peak_workspace
from simulator.strategies.sparsity.kept_context import KeptContext
from simulator.workload.counting import index_bytes
from simulator.workload.framework import Framework
from simulator.workload.model import AttentionSpec, ModelSpec
from simulator.workload.ops import Tensor
from simulator.workload.plan import Plan
from simulator.workload.requests.table import RequestTable

__all__ = ["held_share", "kv_bytes_per_token", "part_memory", "stage_weights", "state_bytes"]

ROUTED = 3
"""Dimensions of the weights of experts."""


def kv_bytes_per_token(layer: AttentionSpec, ranks: int, width: float, sequences: int = 1) -> float:
    """Cache of one token in one layer on one rank [B].

    Heads are split over tensor-parallel ranks and replicated once there are fewer heads than ranks; a latent cache is
    kept whole by every rank, as an indexer's keys are; recurrent mixers keep a state per sequence instead
    (:func:`state_bytes`). Where sequences are dealt out over ranks (``sequences`` of them), it is the mean over those.
    """
    if layer.kind == "linear":
        return 0.0
    if layer.kind == "latent":
        return ((layer.kv_lora_rank + layer.qk_rope_head_dim) * width + index_bytes(layer)) / sequences
    return max(1, -(-layer.num_key_value_heads // ranks)) * (layer.head_dim + layer.v_head_dim) * width / sequences


def state_bytes(layer: AttentionSpec, ranks: int) -> float:
    """State of one sequence in one recurrent layer on one rank [B]: head_dim × state_size per head in fp32, and the
    inputs of its convolution in 16 bit."""
    if layer.kind != "linear":
        return 0.0
    heads = max(1, layer.num_attention_heads // ranks)
    channels = heads * layer.v_head_dim
    return 4.0 * channels * (layer.state_size or layer.head_dim) + 2.0 * channels * layer.conv_kernel


def held_share(layer: AttentionSpec, requests: RequestTable, hybrid: bool, kept: KeptContext) -> float:
    """Share of the traffic's tokens that a layer's cache holds when every request has its full length.

    Engines with a hybrid cache manager keep a window's tokens only; others allocate sliding layers in full.
    """
    window = layer.sliding_window if hybrid and layer.kind == "sliding" else 0
    if not window and not kept.evicts:
        return 1.0
    lengths = (requests.input_tokens + requests.output_tokens).astype(np.float64)
    held = lengths
    if kept.evicts:
        held = held * kept.ratio
        held = np.minimum(held, kept.cap) if kept.cap else held
    held = np.minimum(held, window) if window else held
    return float(held.sum() / lengths.sum()) if lengths.sum() else 1.0


@lru_cache(maxsize=64)
def part_memory(model: ModelSpec, plan: Plan, framework: Framework, tokens: int) -> dict[Part, tuple[float, float]]:
    """(parameter bytes, workspace bytes) on one rank of every distinct part."""
    found: dict[Part, tuple[float, float]] = {}
    distinct: list[Part] = [*dict.fromkeys(layer for layer, _ in model.layers), "embedding", "head"]
    for part in distinct:
        rows = min(tokens, framework.max_num_seqs) if part == "head" else tokens
        compiled = served_block(part, model, plan, framework, rows)
        # What is kept may be more than what one pass reads: contextual sparsity skips weights, it does not drop them.
        weights = sum(_stored(t, plan, framework) for t in compiled.states or compiled.parameters)
        found[part] = (weights, peak_workspace(compiled.forward, plan.mesh, frozenset()))
    return found


def _stored(tensor: Tensor, plan: Plan, framework: Framework) -> float:
    """Bytes of a weight on one rank; rows of MXFP4 experts [experts, inner, outer] as long as the kernels' layout."""
    found, multiple = tensor.bytes(plan.mesh), framework.expert_row_multiple
    if not multiple or tensor.dtype != "mxfp4" or len(tensor.dims) < ROUTED:
        return found
    inner = tensor.local(tensor.dims[-2], plan.mesh)
    return found * (-(-inner // multiple) * multiple) / inner


def stage_weights(model: ModelSpec, plan: Plan, framework: Framework) -> list[float]:
    """Bytes of the layers of each pipeline stage on one rank, embedding and head apart [B]."""
    parts = part_memory(model, plan, framework, 1)
    return [sum(parts[layer][0] for layer in layers) for layers in layers_of_stage(model, plan.pipeline_parallel)]
