"""What a replica keeps in device memory, and how many tokens the rest can cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.hardware.types import Node
from simulator.results.estimate import MemoryLedger, StageMemory
from simulator.serving.adapters import kv_blocks_left
from simulator.serving.footprint import held_share, kv_bytes_per_token, part_memory, state_bytes
from simulator.serving.options import ServedModel
from simulator.serving.token_costs import Part, layers_of_stage
from simulator.strategies.serving_offload.streaming import RESIDENT
from simulator.strategies.sparsity.kept_context import ALL, KeptContext
from simulator.strategies.tensor.attention_split import attention_split
from simulator.workload.counting import parameters
from simulator.workload.framework import Framework
from simulator.workload.jobs import Deployment
from simulator.workload.model import LayerSpec
from simulator.workload.ops import DTYPE_BYTES, TensorClass, Tier
from simulator.workload.plan import Plan

__all__ = ["CacheSize", "cache_size"]

UNBOUNDED = float(1 << 40)
"""Tokens a cache holds that does not grow with the context."""


@dataclass(frozen=True)
class CacheSize:
    """The KV cache of one replica.

    Attributes
    ----------
    blocks, tokens
        Of the tightest stage, over all data-parallel ranks; 0 if the weights leave no room.
    bytes_per_token
        Keys and values of one token on one rank of the fullest stage [B]; where windows or budgets bound what a request
        holds, the mean over the traffic.
    ledger
        Memory per stage: weights, cache, workspace and what the engine takes.
    reason
        Why it does not fit, or an empty string.
    """

    blocks: int
    tokens: int
    bytes_per_token: float
    ledger: MemoryLedger
    reason: str = ""


def cache_size(deployment: Deployment, node: Node) -> CacheSize:
    """Weights, workspace and cache of one replica on ``node``.

    Parameters
    ----------
    deployment
        Model, plan, engine limits.
    node
        Its accelerators' memory.

    Notes
    -----
    Per pipeline stage, by what the framework's ``memory_utilization`` u is a share of. ``device``: cache =
    u · memory − weights − workspace of the largest iteration − reserve, as vLLM sizes it after a profiling run.
    ``static``: u · memory − weights, as long as workspace and reserve find room beside. ``free``: u · (memory − weights
    − workspace − reserve). Recurrent layers take the states of ``max_num_seqs`` sequences first. A draft model shares
    the last stage with its own weights and cache.
    """
    served = ServedModel.of(deployment, node)
    plan, framework = deployment.plan, deployment.framework
    # Ranks of data-parallel attention share the budget, as they share the sequences.
    budget = max(-(-deployment.max_num_batched_tokens // plan.data_parallel), 1)
    parts = part_memory(deployment.model, plan, framework, budget)
    reserve = _reserve(plan, framework)
    memory, share = node.accelerator.memory_usable, deployment.memory_utilization
    usable = memory * share if framework.memory_share == "device" else memory
    per_rank = -(-deployment.max_num_seqs // plan.data_parallel)
    stages: list[StageMemory] = []
    tokens: list[float] = []
    per_token_most = 0.0
    for stage, mine in enumerate(layers_of_stage(deployment.model, plan.pipeline_parallel)):
        weights, workspace = _stage(deployment, served, parts, mine, stage)
        per_token, states = _cache(deployment, mine, served.kept)
        if stage == plan.pipeline_parallel - 1:
            weights += served.draft_weights
            per_token += served.draft_kv_bytes
        per_token_most = max(per_token_most, per_token)
        room = usable - weights - workspace - reserve - states * per_rank
        room = _granted(framework.memory_share, room, share, memory * share - weights - states * per_rank)
        held_here = per_token * served.stream.cache
        tokens.append(room / held_here if held_here else (UNBOUNDED if room > 0 else 0.0))
        if served.stream.cache < 1.0:
            away = sum(s.peak for s in served.outside if s.stage == stage and s.tier is Tier.HOST)
            free = node.host_memory / min(plan.accelerators, node.accelerators) - away
            tokens[-1] = min(tokens[-1], max(0.0, free) / (per_token * (1.0 - served.stream.cache)))
        held = {
            TensorClass.PARAM.value: weights,
            TensorClass.KV.value: (max(0.0, room) if per_token else 0.0) + states * per_rank,
            TensorClass.WORKSPACE.value: workspace, "reserve": reserve,
        }  # fmt: skip
        stages.append(StageMemory(stage, Tier.HBM, held, usable))
    most = min(tokens)
    blocks = int(most // deployment.block_size) * plan.data_parallel if most > 0 else 0
    if served.adapters is not None and blocks:
        ranks = plan.accelerators // plan.data_parallel
        block_bytes = per_token_most * deployment.block_size * ranks
        running = min(deployment.max_num_seqs, max(1, int(most // _mean_length(deployment))))
        a = served.adapters
        blocks = kv_blocks_left(blocks, block_bytes, deployment.model, a.tenants, running, a.method)
    ledger = MemoryLedger((*stages, *served.outside))
    reason = ledger.reason()
    if not reason and blocks < 1:
        reason = "out of memory: the weights leave no room for a single block of KV cache"
    return CacheSize(blocks, blocks * deployment.block_size, per_token_most, ledger, reason)


def _reserve(plan: Plan, framework: Framework) -> float:
    """Memory of a rank that is neither weights, workspace nor cache [B]; a rank alone has no buffers to communicate."""
    known = framework.constants
    found = known.get("memory_reserve_alone") if plan.accelerators == 1 else None
    found = found or known.get("memory_reserve")
    return found.value if found else 0.0


def _mean_length(deployment: Deployment) -> float:
    table = deployment.requests
    return max(1.0, float(table.input_tokens.mean()) + float(table.output_tokens.mean()) / 2)


def _granted(share_of: str, room: float, share: float, static: float) -> float:
    """What the engine takes of ``room`` [B]; ``static``: its share of the device less what is there already."""
    if share_of == "static":
        return min(room, static)
    return room * share if share_of == "free" and room > 0 else room


def _stage(
    deployment: Deployment, served: ServedModel, parts: dict[Part, tuple[float, float]], mine: Sequence[LayerSpec],
    stage: int,
) -> tuple[float, float]:  # fmt: skip
    """Weights and workspace of one stage in device memory [B]."""
    plan, model = deployment.plan, deployment.model
    weights = sum(parts[layer][0] for layer in mine)
    workspace = max((parts[layer][1] for layer in mine), default=0.0)
    if served.stream is not RESIDENT:
        weights = weights * served.stream.resident + served.stream.buffered[stage]
    if stage == 0:
        beside = [*model.towers, *([model.encoder] if model.encoder is not None else [])]
        weights += parts["embedding"][0] + sum(2.0 * parameters(m) for m in beside) / plan.tensor_parallel
    if stage == plan.pipeline_parallel - 1:
        tied = model.tie_word_embeddings and plan.pipeline_parallel == 1
        weights += 0.0 if tied else parts["head"][0]
        drawn = -(-deployment.max_num_seqs // plan.data_parallel) * model.vocab_size  # every rank has all logits
        workspace = max(workspace, parts["head"][1], float(drawn * deployment.framework.sampler_bytes_per_logit))
    return weights, workspace


def _cache(deployment: Deployment, mine: Sequence[LayerSpec], kept: KeptContext = ALL) -> tuple[float, float]:
    """Bytes per token and bytes per sequence of one stage's cache on one rank."""
    width, (ranks, dealt) = DTYPE_BYTES[deployment.kv_dtype], attention_split(deployment.plan)
    hybrid = deployment.framework.hybrid_kv_manager
    # What reads its whole input at once keeps nothing for later.
    mixers = [layer.attention for layer in mine if layer.attention is not None and layer.attention.causal]
    share = {a: held_share(a, deployment.requests, hybrid, kept) for a in dict.fromkeys(mixers)}
    per_token = sum(kv_bytes_per_token(a, ranks, width, dealt) * share[a] for a in mixers)
    return per_token, sum(state_bytes(a, ranks) for a in mixers)
