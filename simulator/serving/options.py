"""What a deployment's options make of its model: who drafts, what is attended, where the weights are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from simulator.errors import ConfigError, did_you_mean
from simulator.hardware.types import Node
from simulator.registry import lookup, record_of
from simulator.results.estimate import StageMemory
from simulator.serving.adapters import Tenants, tenants_of
from simulator.serving.footprint import kv_bytes_per_token, part_memory, stage_weights
from simulator.serving.setup import POLICY_OPTIONS, policy_problems
from simulator.serving.speculative import draft_plan
from simulator.serving.token_costs import layers_of_stage
from simulator.strategies.adapters.methods import AdapterMethod
from simulator.strategies.batch_overlap.halves import BatchOverlap
from simulator.strategies.decode_attention.kernels import DecodeAttention, Grid
from simulator.strategies.serving_offload.streaming import RESIDENT, WeightStream
from simulator.strategies.settings import settings_of
from simulator.strategies.sparsity.kept_context import ALL, KeptContext
from simulator.strategies.speculation.base import Speculation
from simulator.workload.counting import layer_parameters, mlp_parameters
from simulator.workload.jobs import Deployment
from simulator.workload.model import ModelSpec
from simulator.workload.ops import DTYPE_BYTES, TensorClass, Tier
from simulator.workload.plan import Plan

__all__ = ["FAMILIES", "ServedModel", "option_problems", "quality_notes"]

FAMILIES = {
    "speculation": "speculation", "sparse_attention": "sparse_attention", "offload": "serving_offload",
    "adapters": "adapters", "decode_attention": "decode_attention", "batch_overlap": "batch_overlap",
}  # fmt: skip
"""Keys of a deployment that name a strategy, with its family; they come among the deployment's ``options``."""


def _chosen(deployment: Deployment) -> dict[str, Any]:
    """The strategy objects of the deployment's options, by key."""
    options = dict(deployment.options)
    found = {}
    for key, family in FAMILIES.items():
        if key in options:
            settings = settings_of(f"deployment.{key}", options[key])
            made = lookup(family, settings.method)
            found[key] = Adapters(made(), tenants_of(settings)) if key == "adapters" else made(settings)
    return found


def option_problems(deployment: Deployment, node: Node | None = None) -> list[tuple[str, str]]:
    """Everything that is wrong with a deployment's options, on ``node`` where it is known: (key, message)."""
    found: list[tuple[str, str]] = []
    known = (*FAMILIES, *POLICY_OPTIONS)
    for key, value in deployment.options:
        if key in POLICY_OPTIONS:
            found += [(key, message) for message in policy_problems(replace(deployment, options=((key, value),)))]
            continue
        if key not in FAMILIES:
            hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
            found.append((key, f"unknown key '{key}', {hint}"))
            continue
        try:
            alone = replace(deployment, options=((key, value),))
            strategy = _chosen(alone)[key]
            if key == "speculation":
                strategy.draft(deployment.model)
            elif key == "sparse_attention":
                _ = strategy.kept
            elif key == "decode_attention":
                _ = strategy.grid
            elif key == "batch_overlap":
                found += [(key, message) for message in _overlap_problems(deployment, strategy)]
            if node is not None:
                ServedModel.of(alone, node)
        except ConfigError as error:
            found += [(key, issue.message) for issue in error.issues] or [(key, str(error))]
    return found


def _overlap_problems(deployment: Deployment, overlap: BatchOverlap) -> list[str]:
    """Why a batch cannot run as halves that hide each other's messages."""
    for prompts in (True, False):
        overlap.compute_share(prompts)
    found = []
    if deployment.plan.expert_parallel == 1:
        found.append("there are no messages between experts to hide: it needs expert_parallel of more than 1")
    if any(key == "speculation" for key, _ in deployment.options):
        found.append("halves of a batch and drafts are not modelled together; leave one of them out")
    return found


def quality_notes(deployment: Deployment) -> tuple[str, ...]:
    """Declared quality cost of every strategy that may change answers."""
    plan = deployment.plan
    # Adapters are the tenants' own models: the backbone's answers are no measure of theirs. Kernels are exact.
    classes = [
        type(s) for s in _chosen(deployment).values() if not isinstance(s, Adapters | DecodeAttention | BatchOverlap)
    ]
    if plan.precision not in ("bf16", "fp16"):
        classes.append(lookup("quantization", plan.precision))
    if (sparsity := plan.option("sparsity")) is not None:
        classes.append(lookup("sparsity", str(sparsity)))
    if deployment.early_exit:
        classes.append(lookup("cascade", "early-exit"))
    notes = []
    for cls in classes:
        name, declared = record_of(cls).name, getattr(cls, "quality", "")
        notes.append(
            f"{name}: quality: {declared}" if declared else f"{name}: quality cost not declared in a source read"
        )
    if DTYPE_BYTES[deployment.kv_dtype] < 2:
        notes.append(f"kv_dtype {deployment.kv_dtype}: quality cost not declared in a source read")
    return tuple(notes)


@dataclass(frozen=True)
class Adapters:
    """Who brings low-rank adapters, and how they run beside the backbone."""

    method: AdapterMethod
    tenants: Tenants


@dataclass(frozen=True)
class ServedModel:
    """A model with its options resolved on a node.

    Attributes
    ----------
    speculation
        Who drafts, or ``None``.
    kept
        Which part of the context is attended and held.
    stream
        Weights that arrive in every iteration.
    draft_weights, draft_kv_bytes
        Weights of the draft on one rank [B], and its cache per token [B].
    outside
        Memory of slower tiers.
    adapters
        Low-rank adapters beside the backbone, or ``None``.
    grid
        Thread blocks of the decode attention kernel, where one is named.
    overlap
        How a batch runs as halves beside each other, or ``None``.
    plan
        The deployment's, with the neurons that an offload strategy picks.
    """

    speculation: Speculation | None = None
    kept: KeptContext = ALL
    stream: WeightStream = RESIDENT
    draft_weights: float = 0.0
    draft_kv_bytes: float = 0.0
    outside: tuple[StageMemory, ...] = ()
    adapters: Adapters | None = None
    plan: Plan = field(default_factory=Plan)
    grid: Grid | None = None
    overlap: BatchOverlap | None = None

    @classmethod
    def of(cls, deployment: Deployment, node: Node) -> ServedModel:
        """Resolve a deployment's options.

        Raises
        ------
        ConfigError
            If an option is wrong (see :func:`option_problems`).
        """
        chosen = _chosen(deployment)
        speculation = chosen.get("speculation")
        kept = chosen["sparse_attention"].kept if "sparse_attention" in chosen else ALL
        grid = chosen["decode_attention"].grid if "decode_attention" in chosen else None
        stream, outside = _stream(deployment, node, chosen.get("offload"))
        weights, per_token = _draft(deployment, speculation)
        plan = deployment.plan
        density = chosen["offload"].density if "offload" in chosen else 1.0
        if density < 1.0:
            if plan.option("sparsity") is not None:
                raise ConfigError("deployment.offload: it picks neurons itself, leave 'sparsity' out")
            picked = {**dict(plan.options), "sparsity": "deja-vu", "sparsity_density": density}
            plan = replace(plan, options=tuple(sorted(picked.items())))
        beside = chosen.get("adapters"), plan, grid, chosen.get("batch_overlap")
        return cls(speculation, kept, stream, weights, per_token, outside, *beside)


def _stream(deployment: Deployment, node: Node, offload: Any) -> tuple[WeightStream, tuple[StageMemory, ...]]:
    if offload is None:
        return RESIDENT, ()
    plan = deployment.plan
    weights = stage_weights(deployment.model, plan, deployment.framework)
    layers = [len(mine) for mine in layers_of_stage(deployment.model, plan.pipeline_parallel)]
    stream: WeightStream = offload.stream(weights, layers, plan, node, _neurons(deployment.model))
    if stream is RESIDENT:
        return stream, ()
    tier = Tier.HOST if offload.tier == "host" else Tier.NVME
    sharing = min(plan.accelerators, node.accelerators)
    capacity = (node.host_memory if tier is Tier.HOST else node.nvme.capacity if node.nvme else 0.0) / sharing
    away = [bytes_ * (1.0 - stream.resident) for bytes_ in weights]
    return stream, tuple(
        StageMemory(stage, tier, {TensorClass.PARAM.value: held}, capacity) for stage, held in enumerate(away)
    )


def _neurons(model: ModelSpec) -> float:
    """Share of the layers' weights that is MLPs."""
    whole = sum(count * layer_parameters(layer, model.hidden_size) for layer, count in model.layers)
    mlps = sum(count * mlp_parameters(layer.mlp, model.hidden_size) for layer, count in model.layers if layer.mlp)
    return mlps / whole if whole else 0.0


def _draft(deployment: Deployment, speculation: Speculation | None) -> tuple[float, float]:
    """Weights and cache per token of the draft on one rank [B]."""
    draft = speculation.draft(deployment.model) if speculation is not None else None
    if draft is None:
        return 0.0, 0.0
    plan = draft_plan(deployment.plan, draft.model)
    parts = part_memory(draft.model, plan, deployment.framework, 1)
    layers = draft.model.layer_list()
    weights = sum(parts[layer][0] for layer in layers)
    if draft.own_embedding:
        weights += parts["embedding"][0]
    else:  # what stands beside the shared embedding: projections of hidden states
        weights += draft.model.extra_parameters * 2.0
    if draft.own_head and not (draft.own_embedding and draft.model.tie_word_embeddings):
        weights += parts["head"][0]
    width = DTYPE_BYTES[deployment.kv_dtype]
    mixers = [layer.attention for layer in layers if layer.attention is not None]
    per_token = sum(kv_bytes_per_token(a, plan.tensor_parallel, width) for a in mixers)
    return weights * draft.copies, per_token
