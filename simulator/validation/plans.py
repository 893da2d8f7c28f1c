"""Plans, precision and frameworks from the words of measurement files. One rule per word, none per record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simulator.validation.models import IncompleteError
from simulator.validation.records import whole
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.plan import Plan

__all__ = ["FRAMEWORKS", "framework_of", "plan_of", "precision_of"]

FRAMEWORKS = (
    (r"mlperf|nemo|megatron-bridge|nemotron", "nemo-24.07"),
    (r"moe-modelzoo|moe zoo|megatron.?core|aceso|megascale|simumax|moonlight", "megatron-core-0.8"),
    (r"zero.?bubble|megatron.*2023", "megatron-lm-2023"),
    (r"korthikanti|megatron.*2022", "megatron-lm-2022"),
    (r"megatron.*2020", "megatron-lm-2020"),
    (r"narayanan|megatron.*(2021|sc21)|fp8-lm", "megatron-lm-2021"),
    (r"mosaic|llm-foundry", "llm-foundry-0.3"),
    (r"internevo|internlm", "internevo"),
    (r"fms|ibm", "fms-fsdp"),
    (r"torchtitan|llama.?3|imec|rapid", "torchtitan-0.1"),
    (r"nanotron.2024", "nanotron-2024"),
    (r"nanotron|picotron", "nanotron"),
    (r"megatron(?!.deepspeed)", "megatron-core-0.8"),
    (r"deepspeed|colossal|zero|vtrain|bloom|bigscience|mt-nlg|neox|patrickstar", "deepspeed-2022"),
)
"""Words in the name of a source → the framework that ran; the first match counts."""

DEFAULT_FRAMEWORK = "fsdp"

SCHEDULES = (
    (r"zb.?2p", "zb-2p"),
    (r"zb.?1p", "zb-1p"),
    (r"zb.?h1", "zb-h1"),
    (r"zb.?h2", "zb-h2"),
    (r"zb.?v", "zb-v"),
    (r"interleaved|1f1b-i", "interleaved-1f1b"),
    (r"1f1b|none|^$", "1f1b"),
    (r"gpipe", "gpipe"),
    (r"dualpipev", "dualpipev"),
    (r"dualpipe", "dualpipe"),
    (r"chimera", "chimera"),
)


TWO_CHUNKS = ("zb-v", "dualpipev")
"""Schedules whose V gives each rank two chunks of the model."""


def framework_of(source: str, record: Mapping[str, Any]) -> tuple[Framework, list[str]]:
    """The framework preset of a source, adapted to what the record itself states, and what was assumed.

    ``flash_attention`` decides between kernels, a gradient reduction in fp32 ("DEFAULT" mixed precision of FSDP)
    a fused loss ("fused cross-entropy") and overlaps ("no communication overlap", "TP communication overlap on") are
    taken from the record's words.
    """
    words = str(record.get("notes", "")).lower()
    other = (
        "deepspeed-2021" if "deepspeed zero-3 of early 2021" in words else ""
    )  # the paper's baseline, not its system
    name = other or next((f for pattern, f in FRAMEWORKS if re.search(pattern, source, re.IGNORECASE)), "")
    assumed = [f"framework {name or DEFAULT_FRAMEWORK} from the name of the source"]
    framework = load_framework(name or DEFAULT_FRAMEWORK)
    flash = record.get("flash_attention")
    if flash is False and framework.attention_kernel != "unfused":
        framework = replace(framework, attention_kernel="unfused")
    elif flash and framework.attention_kernel == "unfused":
        framework = replace(framework, attention_kernel="flash-2")
    elif flash is None:
        assumed.append(f"attention kernel {framework.attention_kernel}")
    if "DEFAULT" in str(record.get("precision", "")):
        framework = replace(framework, gradient_dtype="fp32")
    if "no communication overlap" in words:
        framework = replace(framework, overlap_grad_reduce=False, overlap_param_gather=False, overlap_p2p=False)
        framework = replace(framework, overlaps_linear_backward=False)
    if "fused cross-entropy" in words:
        framework = replace(framework, fused_cross_entropy=True)
    if "tp communication overlap on" in words:
        framework = replace(framework, tensor_parallel_overlap=True)
    return framework, assumed


def precision_of(words: str) -> str:
    """``nvfp4``, ``fp8``, ``fp16``, ``bf16`` or ``fp32``; ``bf16`` where nothing is said.

    Raises
    ------
    IncompleteError
        For formats that no pass trains in.
    """
    text = words.lower()
    if found := re.search(r"mxfp[46]|(?<!nv)fp[46]|tf32|int[48]", text):
        raise IncompleteError(f"training in {found[0]} is not modelled")
    if "bf16/fp16" in text:
        return "bf16"
    return next((p for p in ("nvfp4", "fp8", "bf16", "fp16", "fp32") if p in text), "bf16")


def plan_of(record: Mapping[str, Any], framework: Framework) -> tuple[Plan, list[str]]:
    """Plan of a record with ``parallelism``, ``recompute``, ``offload`` and ``precision``, and what was assumed."""
    layout = record["parallelism"]
    assumed: list[str] = []
    axes = ("tp", "pp", "dp", "cp", "ep")
    degrees = dict(zip(axes, whole(layout, *axes, default=1), strict=True))
    [chunks] = whole(layout, "vpp", default=0)
    schedule = _schedule(str(layout.get("schedule") or "none"))
    ends = bool(re.search(r"place of one layer|L\+2|one layer fewer", str(layout.get("pipeline_layout") or "")))
    ends = ends or _ends_must_take_places(
        int(record["model"].get("layers") or 0), degrees["pp"] * max(chunks, 1), assumed
    )
    if schedule == "interleaved-1f1b" and not chunks:
        chunks = _chunks(record, degrees["pp"], ends, assumed)
    if chunks > 1 and schedule == "1f1b":
        schedule = "interleaved-1f1b"
    elif chunks == 1 and schedule == "interleaved-1f1b":
        schedule, assumed = "1f1b", [*assumed, "one virtual stage: nothing is interleaved"]
    if schedule in TWO_CHUNKS and chunks <= 1:
        chunks = 2
    if schedule == "interleaved-1f1b" and re.search(r"1f1b overlap", str(record.get("notes") or "")):
        schedule = "interleaved-1f1b-overlapped"  # forward beside backward, to hide the all-to-all of experts
    if degrees["pp"] > 1 and not layout.get("schedule"):
        assumed.append(f"schedule {schedule}")
    sequence = layout.get("sp")
    if sequence is None and degrees["tp"] > 1:
        assumed.append("no sequence parallelism")
    words = layout.get("zero_stage")
    if words is None and (least := _offloading_stage(str(record.get("offload") or "none"))):
        words = least
        assumed.append(f"ZeRO stage {least}, the least that offloads so")
    options, stage = _sharding(words, _per_node(record), degrees["dp"], degrees["pp"], framework)
    if degrees["pp"] > 1 and options.get("sharding") in ("fsdp", "hsdp") and "reshard_after_forward" not in options:
        options |= {"reshard_after_forward": False}
        assumed.append("parameters stay gathered under the pipeline (as in Llama 3, arXiv 2407.21783 §3.3.2)")
    if degrees["pp"] > 1 and ends:
        options |= {"account_for_embedding_in_pipeline_split": True, "account_for_loss_in_pipeline_split": True}
    options |= _experts(record, degrees)
    recompute = _recompute(record, options, assumed)
    return Plan(
        tensor_parallel=degrees["tp"],
        pipeline_parallel=degrees["pp"],
        data_parallel=degrees["dp"],
        context_parallel=degrees["cp"],
        expert_parallel=degrees["ep"],
        sequence_parallel=bool(sequence) and degrees["tp"] > 1,
        virtual_stages=max(chunks, 1),
        schedule=schedule,
        zero_stage=stage,
        recompute=recompute,
        precision=precision_of(str(record.get("precision", ""))),
        offload=_offload(str(record.get("offload") or "none"), options),
        options=tuple(sorted(options.items())),
    ), assumed


def _schedule(words: str) -> str:
    """Registered schedule of a name in a record.

    Raises
    ------
    IncompleteError
        If no such schedule is known.
    """
    found = next((s for p, s in SCHEDULES if re.search(p, words.lower())), "")
    if not found:
        raise IncompleteError(f"pipeline schedule '{words}' not known")
    return found


def _per_node(record: Mapping[str, Any]) -> int:
    """Accelerators of a node, eight where the record does not say."""
    return whole(record["hardware"], "gpus_per_node", default=8)[0]


def _chunks(record: Mapping[str, Any], ranks: int, ends: bool, assumed: list[str]) -> int:
    """Virtual stages of a rank, where the record does not count them.

    Where embedding and head take a layer's place, they fill the first and the last chunk alone (Llama 3, arXiv
    2407.21783 §3.3.2), so every chunk has room for one layer. Else the fewest that Megatron allows: chunks of a rank
    hold equally many layers (``num_layers_per_virtual_pipeline_stage``, megatron/arguments.py).
    """
    layers = int(record["model"]["layers"]) + 2 * ends
    if per_chunk := record.get("layers_per_virtual_stage"):
        return layers // ranks // int(per_chunk)
    held, rest = divmod(layers, ranks)
    fewest = next((n for n in range(2, held + 1) if held % n == 0), 2) if not rest else 2
    chunks = held if ends and not rest else fewest
    assumed.append(f"{chunks} virtual stages")
    return chunks


def _ends_must_take_places(layers: int, places: int, assumed: list[str]) -> bool:
    """Whether embedding and head must take a layer's place each, for interleaved chunks to hold equally many.

    Megatron refuses others (megatron/arguments.py); 126 layers of Llama 3.1 405B on 8 stages of 8 chunks are 128 places
    (``account_for_embedding_in_pipeline_split`` and ``account_for_loss_in_pipeline_split``).
    """
    if places < 2 or not layers % places or (layers + 2) % places:
        return False
    assumed.append("embedding and head take a layer's place each, as layers do not divide")
    return True


def _sharding(
    words: object, per_node: int, replicas: int, ranks: int, framework: Framework
) -> tuple[dict[str, object], int]:
    """Options and ZeRO stage of a ``zero_stage`` that is a number or a sentence; ``ranks`` of the pipeline."""
    text = str(words if words is not None else framework.distributed_optimizer_default)
    if "HSDP" in text or "replicate across" in text:
        return {"sharding": "hsdp", "shard_group": min(per_node, replicas)}, 3
    if re.search(r"shard_grad_op", text, re.IGNORECASE):
        return {"sharding": "fsdp", "reshard_after_forward": False}, 3
    if match := re.search(r"over (\d+) ranks", text):
        return {"sharding": "amsp", "parameter_group": 1, "gradient_group": 1, "optimizer_group": int(match[1])}, 1
    if "not resharded" in text or "ZeRO-2" in text:  # parameters are gathered once per step and stay
        # The micro-batches that follow each other on a chunk of an interleaved pipeline share one reduction.
        kept = {"shard_gradients": ranks} if "gradients sharded" in text and ranks > 1 else {}
        return {"sharding": "fsdp", "reshard_after_forward": False, **kept}, 3
    match = re.search(r"(?<!fsdp)\d", text.lower())
    stage = int(match[0]) if match else 3 if re.search(r"fsdp|full.?shard", text.lower()) else 0
    if stage < 3:
        return {}, stage
    if framework.gathers_by_parameter:
        return {}, stage
    exposed = {} if framework.overlap_param_gather else {"fsdp_prefetch": 0}
    return {"sharding": "fsdp", **exposed}, stage


def _offloading_stage(words: str) -> int:
    """ZeRO stage that an offload needs at least; 0 where any will do.

    DeepSpeed moves shards of parameters in stage 3 and those of the optimizer in stage 2.
    """
    return {"zero-infinity": 3, "zero-offload": 2}.get(_offload(words, {}), 0)


def _experts(record: Mapping[str, Any], degrees: Mapping[str, int]) -> dict[str, object]:
    """Options of expert parallelism: whole experts on tensor-parallel ranks, and DeepEP's dispatcher.

    DeepEP sends a token once to every node that holds one of its experts and forwards it there over NVLink
    (DeepSeek-V3, arXiv 2412.19437 §3.2.2).
    """
    found: dict[str, object] = {}
    folded = int(record["parallelism"].get("etp") or 0) == 1 and min(degrees["tp"], degrees["ep"]) > 1
    if folded:
        found["expert_tensor_parallel"] = 1
    inside = _per_node(record) // (1 if folded else degrees["tp"])
    if "DeepEP" in str(record.get("notes", "")) and degrees["ep"] > inside > 1 and degrees["ep"] % inside == 0:
        found |= {"expert": "node-limited", "expert_group": inside, "node_limit": degrees["ep"] // inside}
    return found


def _recompute(record: Mapping[str, Any], options: dict[str, object], assumed: list[str]) -> str:
    words = record.get("recompute")
    if words is None:
        assumed.append("no recomputation")
        return "none"
    text = str(words).lower()
    if "fraction of blocks" in text:
        measured, layers = record.get("measured", {}), int(record["model"]["layers"])
        if measured.get("hfu") and measured.get("mfu"):  # a full recomputation adds a third of the model FLOPs
            share = min(1.0, 3 * (measured["hfu"] / measured["mfu"] - 1))
            options |= {"recompute_method": "block", "recompute_num_layers": max(1, round(share * layers))}
            assumed.append(f"{share:.0%} of the blocks recomputed, from HFU/MFU")
            return "every-k"
        return "full"
    if text.startswith("full"):
        return "full"
    if text.startswith("none"):
        return "none"
    if "norm" in text or ("act" in text and "core attention" not in text):
        return "elementwise"
    return "selective"


def _offload(words: str, options: dict[str, object]) -> str:
    text = words.lower()
    if text in ("none", ""):
        return "none"
    if "chunk" in text:
        return "patrickstar"
    if "activation" in text:
        return "activation-offload"
    if "nvme" in text or "parameter" in text:
        if "nvme" in text:
            options["offload_tier"] = "nvme"
        return "zero-infinity"
    return "zero-offload"
