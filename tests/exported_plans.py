"""Plans within what the engines that they are exported to can say."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

powers = st.sampled_from([1, 2, 4, 8])


@st.composite
def training_plans(draw: st.DrawFn) -> dict[str, Any]:
    """A job on 8 nodes of 8, its plan within what both training engines can say."""
    tp, pp = draw(powers), draw(st.sampled_from([1, 2, 4]))
    recompute = draw(st.sampled_from(["none", "selective", "full", "every-k"]))
    options = {"recompute_method": "block", "recompute_num_layers": 2} if recompute == "every-k" else {}
    plan = {
        "tensor_parallel": tp, "pipeline_parallel": pp, "data_parallel": 64 // (tp * pp),
        "sequence_parallel": draw(st.booleans()),
        "zero_stage": draw(st.sampled_from([0, 1, 2, 3] if pp == 1 else [0, 1])),
        "recompute": recompute, "precision": draw(st.sampled_from(["bf16", "fp16", "fp32"])),
        "offload": draw(st.sampled_from(["none", "zero-offload"])), "options": options,
    }  # fmt: skip
    batch = {"global_batch_size": 128, "micro_batch_size": draw(st.sampled_from([1, 2])), "sequence_length": 4096}
    job = {"training": "job", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "batch": batch, "plan": plan}
    return {"cluster": {"nodes": {"profile": "hgx-h200", "count": 8}}, "workloads": [{**job, "steps": 7}]}


@st.composite
def deployments(draw: st.DrawFn) -> dict[str, Any]:
    """A deployment on one node of 8, within what every serving engine can say."""
    deployment = {
        "plan": {"tensor_parallel": draw(powers), "precision": draw(st.sampled_from(["bf16", "fp16"]))},
        "batching": "chunked-prefill", "max_batched_tokens": draw(st.integers(512, 16384)),
        "max_num_seqs": draw(st.integers(1, 512)), "max_model_len": draw(st.integers(1024, 8192)),
        "block_size": draw(st.sampled_from([16, 32])), "kv_dtype": draw(st.sampled_from(["bf16", "fp8"])),
        "kv_cache": draw(st.sampled_from(["paged", "prefix-lru"])),
        "memory_utilization": draw(st.sampled_from([0.8, 0.9])), "replicas": draw(st.sampled_from([1, 2])),
    }  # fmt: skip
    requests = {"rate": "1 /s", "count": 20, "input_tokens": 100, "output_tokens": 10}
    job = {"serving": "job", "model": "llama-3-8b", "framework": "vllm-0.10", "requests": requests}
    return {"cluster": {"nodes": {"profile": "hgx-h200", "count": 2}}, "workloads": [{**job, "deployment": deployment}]}
