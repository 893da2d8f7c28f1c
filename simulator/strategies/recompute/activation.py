"""Recomputation of activations: none, selective (core attention only), full per layer, every k-th layer."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.strategies.recompute.dropping import recompute_tensors
from simulator.workload.framework import Framework
from simulator.workload.lowering_attention import CORE_ATTENTION
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, Phase
from simulator.workload.plan import Plan

__all__ = ["FullRecompute", "NoRecompute", "SelectiveRecompute"]

_KORTHIKANTI = "Korthikanti et al. 2022, arXiv 2205.05198"


MODULES = {
    "layernorm": ("norm",),
    "mla_up_proj": (".q_norm", ".kv_norm", ".q_b", ".kv_b", ".rotary"),
    "mlp_act": (".act",),
    "moe_act": (".expert_act",),
}
"""How the Ops of a module end."""


def _belongs(name: str, module: str) -> bool:
    """Whether an Op, or the cast of what it made, is part of a module."""
    return name.removesuffix(".cast").removesuffix(".out").endswith(MODULES.get(module, ("?",)))


@register("none", kind="pass", area="training", family="recompute", cites=(), validated_by="closed_form")
class NoRecompute:
    """Keep every activation the backward needs."""

    name: str
    stage = PassStage.RECOMPUTE

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Always possible."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Nothing changes."""
        return block


@register(
    "selective", kind="pass", area="training", family="recompute", cites=(_KORTHIKANTI,),
    catalogue=("Selective recompute + SP (Korthikanti)",),
    claims=(Claim("drops the 5as/h term of the activation memory", "arXiv 2205.05198 §4.1"),), validated_by="published",
)  # fmt: skip
class SelectiveRecompute(NoRecompute):
    """Keep all but the core attention (scores, softmax, dropout), which is computed again in the backward.

    ``recompute_modules`` names others, joined by ``+``: ``core_attn``, ``layernorm``, ``mla_up_proj``, ``mlp_act`` and
    ``moe_act``, in the words of Megatron-Core.
    """

    def modules(self, plan: Plan) -> tuple[str, ...]:
        """What is computed again."""
        return tuple(name.strip() for name in str(plan.option("recompute_modules", "core_attn")).split("+"))

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """The modules must be known."""
        unknown = [name for name in self.modules(plan) if name != "core_attn" and name not in MODULES]
        return f"recompute_modules: {unknown[0]!r} is none of core_attn, {', '.join(MODULES)}" if unknown else ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Drop what the modules made, and run their Ops again where the backward needs it."""
        modules = self.modules(plan)
        if "core_attn" in modules:
            block = self._core_attention(block)
        made = [op for op in block.forward if any(_belongs(op.name, m) for m in modules)]
        return recompute_tensors(block, {t.name for op in made for t in op.writes})

    def _core_attention(self, block: Block) -> Block:
        core = [op for op in block.forward if op.recomputable == CORE_ATTENTION]
        if not core:
            return block
        made_inside = {t.name for op in core for t in op.writes}
        kept_outside = {t.name for op in block.forward if op.recomputable != CORE_ATTENTION for t in op.saves}
        dropped = made_inside - kept_outside
        forward = tuple(replace(op, saves=tuple(t for t in op.saves if t.name not in dropped)) for op in block.forward)
        again = tuple(_again(op) for op in core)
        # Before the first backward Op that needs what was dropped: it reads the gradient of a core Op's result.
        upstream = tuple(f"{name.partition('|')[0]}.grad" for name in made_inside)
        first = next(i for i, op in enumerate(block.backward) if any(t.name.startswith(upstream) for t in op.reads))
        return replace(block, forward=forward, backward=(*block.backward[:first], *again, *block.backward[first:]))


@register(
    "full", kind="pass", area="training", family="recompute",
    cites=("Chen et al. 2016, arXiv 1604.06174", _KORTHIKANTI),
    catalogue=("Full layer recompute",),
    claims=(Claim("2sbh bytes per layer remain; training FLOPs grow from 6Ψ to 8Ψ per token", "arXiv 2205.05198 §4"),),
    validated_by="published",
)  # fmt: skip
class FullRecompute(NoRecompute):
    """Keep only the input of every layer and run the layer's forward again in the backward."""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Save the block input only; the whole forward precedes the backward once more."""
        if block.name != "layer":
            return block  # embedding and head are kept as they are
        forward = tuple(replace(op, saves=()) for op in block.forward)
        forward = (replace(forward[0], saves=(block.boundary,)), *forward[1:])
        return replace(block, forward=forward, backward=(*map(_again, block.forward), *block.backward))


def _again(op: Op) -> Op:
    return replace(op, name=f"{op.name}.recompute", phase=Phase.RECOMPUTE, saves=())
