"""The keys that ``options`` of a plan may have: what the chosen strategies take besides their names."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.errors import did_you_mean
from simulator.workload.plan import Plan

__all__ = ["PLAN_OPTIONS", "unknown_options"]

PLAN_OPTIONS: dict[str, str] = {
    "account_for_embedding_in_pipeline_split": "stages: count the embedding as a layer",
    "account_for_loss_in_pipeline_split": "stages: count the head as a layer",
    "activation_share": "planned recompute and swaps: share of the saved bytes that may stay",
    "attention_over": "weight-stationary-2d: heads or sequences",
    "backprop_ratio": "optimus-cc: bytes of a gradient between stages over the plain tensor",
    "bucket_size": "buckets, lina: bytes that leave together",
    "capacity_factor": "gshard, switch: rows per expert over the mean",
    "chunk_size": "patrickstar: elements of a chunk",
    "client_spread": "fedavg: deviation of the logarithm of the clients' computing times",
    "clients": "fedavg: population a round is drawn from",
    "communication": "strategies of gradients on their way, joined by +",
    "compression_ratio": "compression: bytes over the plain gradient",
    "context": "strategy of context parallelism",
    "context_split": "ring: zig-zag or contiguous",
    "copies": "autotm: asynchronous or synchronous",
    "credit_size": "bytescheduler: bytes in flight",
    "deferred_layers": "out-of-order-backprop: layers whose weight gradients wait",
    "delayed_update": "host optimizers: update one step late under the next step",
    "density": "top-k: share of the gradient that is sent",
    "dispatch_precision": "node-limited: type of dispatched rows",
    "dropout": "fedavg: share of the invited clients that never report",
    "expert": "strategy of expert parallelism",
    "expert_block": "megablocks: rows of a block",
    "expert_group": "tutel: ranks of the inner all-to-all",
    "expert_slots": "flexmoe, smartmoe: expert slots of a rank",
    "expert_tensor_parallel": "expert parallelism: 1 gives tensor-parallel ranks whole experts",
    "flash_share": "g10: share of the swapped bytes that goes to flash",
    "fsdp_prefetch": "fsdp: units gathered ahead",
    "fsdp_unit": "fsdp: layers of a unit",
    "fused_pieces": "coconet: pieces of reduction and update in one kernel",
    "fusion": "strategy of fused kernels, in serving",
    "gradient_group": "paro, amsp: ranks that share gradients",
    "hot_share": "in-network: share of the gradient that switches aggregate",
    "local_group": "local-steps, diloco: ranks that stay synchronous",
    "local_steps": "local-steps, diloco, fedavg: steps between meetings",
    "lora_rank": "lora, qlora: rank of the adapters",
    "lora_targets": "lora, qlora: all or attention",
    "micro_batch_size": "planners: size that replaces the batch's",
    "microbatches": "angel-ptm: micro-batches of a step (decided)",
    "node_limit": "node-limited: nodes a token may go to",
    "offload_activations": "state offload: tier of saved activations",
    "offload_compression": "flashneuron: bytes over the plain activations",
    "offload_gradients": "state offload: tier of gradients",
    "offload_optimizer": "state offload: tier of optimizer states",
    "offload_parameters": "state offload: tier of parameters",
    "offload_prefetch": "offload: layers fetched ahead",
    "offload_resident": "state offload: keep a layer's states in HBM",
    "offload_share": "activation offload: share of the saved bytes that leaves",
    "offload_tensors": "planned swaps: pairs of tensor and action",
    "offload_tier": "zero-infinity: host or nvme",
    "optimizer_group": "paro, amsp: ranks that share optimizer states",
    "over_selection": "fedavg: clients invited over clients awaited",
    "parameter_group": "paro, amsp: ranks that share parameters",
    "peft": "strategy of parameter-efficient fine-tuning",
    "pipelines": "avgpipe: copies of the model per rank",
    "prefetch_hit_ratio": "deepum: share of the fetches that come ahead of use",
    "quantized_bits": "compression: bits of a value",
    "quantized_gradients": "zero++: gradients in 4 bits",
    "quantized_weights": "zero++: gathers in 8 bits",
    "random_share": "cocktail-sgd: share kept by random sparsification",
    "recompute_group": "recompute inside a layer: what is run again",
    "recompute_modules": "selective: core_attn, layernorm, mla_up_proj, mlp_act, moe_act, joined by +",
    "recompute_method": "every-k: uniform or block",
    "recompute_num_layers": "every-k: layers of a group",
    "recompute_repeats": "revolve: forwards of a layer",
    "recompute_role": "revolve: place of a layer in its chain",
    "recompute_slots": "revolve: checkpoints that fit",
    "recompute_tensors": "planned recompute: pairs of tensor and action",
    "recomputed_layers": "per-stage: layers that are run again, by stage",
    "replan_every": "smartmoe, flexmoe: steps between changes",
    "reshard_after_forward": "fsdp: drop gathered parameters after the forward",
    "resharding": "cross-mesh-resharding: how a message is sent between meshes",
    "resident_layers": "stronghold, mobius: layers in device memory",
    "routing": "expert parallelism: uniform, zipf(s) or a list of loads",
    "secondary_group": "zero++, fsdp: ranks that share the secondary copy",
    "secondary_shard": "zero++: keep a secondary copy",
    "server_links": "fedavg: client links that the server's is worth",
    "servers": "parameter-server, byteps: machines that aggregate",
    "shard_gradients": "fsdp: micro-batches of a chunk after which a pipeline reduces gradients to shards",
    "shard_group": "hsdp, mics: ranks that share one copy of the states",
    "sharding": "strategy of sharded states",
    "stage_layers": "mobius: layers of a stage",
    "stage_share": "optimus-cc: share of the stages that compress",
    "tensor": "strategy of tensor parallelism",
    "tensor_depth": "grids: ranks of one layer of the grid",
    "tensor_rows": "grids: ranks of one row; serving layouts: ranks that cut the stream, or gather weights",
    "tensor_slices": "async-tensor-parallel, domino: slices of a collective",
    "token_slices": "terapipe: pieces of a micro-batch",
    "top_share": "cocktail-sgd: share kept of the largest values",
    "unique_rows": "embrace: share of the embedding's rows a batch touches",
    "warmup_share": "1-bit-adam: share of the steps without compression",
}
"""Name → which strategies read it, and what it is."""


def unknown_options(plan: Plan) -> Iterator[tuple[str, str]]:
    """Name and message of each option that no strategy reads."""
    for name, _ in plan.options:
        if name not in PLAN_OPTIONS:
            near = did_you_mean(name, PLAN_OPTIONS)
            yield name, f"no strategy takes the option '{name}'{f', {near}' if near else ''}"
