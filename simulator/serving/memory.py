"""What a replica keeps in device memory, and how many tokens the rest can cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from simulator.hardware.types import Node
from simulator.results.estimate import MemoryLedger, StageMemory
from simulator.strategies.compile import compile_block
from simulator.strategies.peak import peak_workspace
from simulator.workload.framework import Framework
from simulator.workload.jobs import Deployment
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.model import AttentionSpec, LayerSpec, ModelSpec
from simulator.workload.ops import DTYPE_BYTES, Block, TensorClass, Tier
from simulator.workload.plan import Plan

__all__ = ["CacheSize", "cache_size"]


@dataclass(frozen=True)
class CacheSize:
    """The KV cache of one replica.

    Attributes
    ----------
    blocks, tokens
        Of the tightest stage; 0 if the weights leave no room.
    bytes_per_token
        Keys and values of one token on one rank of the fullest stage [B].
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


def kv_bytes_per_token(layer: AttentionSpec, ranks: int, width: float) -> float:
    """Cache of one token in one layer on one rank [B].

    Heads are split over tensor-parallel ranks and replicated once there are fewer heads than ranks; a latent cache is
    kept whole by every rank; recurrent mixers keep a state per sequence instead. Layers with a sliding window are
    counted in full, as engines without a hybrid cache manager allocate them.
    """
    if layer.kind == "linear":
        return 0.0
    if layer.kind == "latent":
        return (layer.kv_lora_rank + layer.qk_rope_head_dim) * width
    return max(1, -(-layer.num_key_value_heads // ranks)) * (layer.head_dim + layer.v_head_dim) * width


@lru_cache(maxsize=64)
def _parts(
    model: ModelSpec, plan: Plan, framework: Framework, tokens: int
) -> dict[LayerSpec | str, tuple[float, float]]:
    """(parameter bytes, workspace bytes) on one rank of every distinct part."""
    ctx = LoweringContext(model, 1, tokens, False, framework)
    blocks: dict[LayerSpec | str, Block] = {layer: lower_layer(layer, ctx) for layer, _ in model.layers}
    blocks["embedding"] = lower_embedding(ctx)
    blocks["head"] = lower_head(LoweringContext(model, 1, min(tokens, framework.max_num_seqs), False, framework))
    found = {}
    for part, block in blocks.items():
        compiled = compile_block(block, plan, framework, "serving")
        weights = sum(t.bytes(plan.mesh) for t in compiled.parameters)
        found[part] = (weights, peak_workspace(compiled.forward, plan.mesh, frozenset()))
    return found


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
    Cache = memory · utilization − weights − workspace of the largest iteration − reserve, per pipeline stage; as vLLM
    sizes it after a profiling run (``gpu_memory_utilization``).
    """
    model, plan, framework = deployment.model, deployment.plan, deployment.framework
    parts = _parts(model, plan, framework, deployment.max_num_batched_tokens)
    reserve = framework.constants.get("memory_reserve")
    usable = node.accelerator.memory_usable * deployment.memory_utilization
    width = DTYPE_BYTES[deployment.kv_dtype]
    layers = model.layer_list()
    share, rest = divmod(len(layers), plan.pipeline_parallel)
    stages: list[StageMemory] = []
    tokens: list[float] = []
    per_token_most = start = 0.0
    for stage in range(plan.pipeline_parallel):
        mine = layers[int(start) : int(start) + share + (stage < rest)]
        start += len(mine)
        weights = sum(parts[layer][0] for layer in mine)
        workspace = max((parts[layer][1] for layer in mine), default=0.0)
        if stage == 0:
            weights += parts["embedding"][0]
        if stage == plan.pipeline_parallel - 1:
            tied = model.tie_word_embeddings and plan.pipeline_parallel == 1
            weights += 0.0 if tied else parts["head"][0]
            workspace = max(workspace, parts["head"][1])
        per_token = sum(
            kv_bytes_per_token(a, plan.tensor_parallel, width) for layer in mine if (a := layer.attention) is not None
        )
        per_token_most = max(per_token_most, per_token)
        taken = reserve.value if reserve else 0.0
        room = usable - weights - workspace - taken
        tokens.append(room / per_token if per_token else float(1 << 40))
        stages.append(
            StageMemory(
                stage,
                Tier.HBM,
                {
                    TensorClass.PARAM.value: weights,
                    TensorClass.KV.value: max(0.0, room),
                    TensorClass.WORKSPACE.value: workspace,
                    "reserve": taken,
                },
                usable,
            )
        )
    blocks = int(min(tokens) // deployment.block_size) if min(tokens) > 0 else 0
    ledger = MemoryLedger(tuple(stages))
    reason = ledger.reason()
    if not reason and blocks < 1:
        reason = "out of memory: the weights leave no room for a single block of KV cache"
    return CacheSize(max(0, blocks), max(0, blocks) * deployment.block_size, per_token_most, ledger, reason)
