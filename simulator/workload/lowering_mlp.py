"""Ops of a feed-forward block: dense, gated, and mixture of experts with shared experts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from simulator.workload.autodiff import GRADIENT_ELSEWHERE
from simulator.workload.lowering_layout import GLU_HALVES, halved_activation
from simulator.workload.model import MlpSpec
from simulator.workload.operators import JOINS, SCALES
from simulator.workload.ops import Dim, Op, OpKind, Phase, Tensor, TensorClass

if TYPE_CHECKING:
    from simulator.workload.lowering import LoweringContext

__all__ = ["SERVED_ROUTING", "experts_touched", "lower_mlp"]


SERVED_ROUTING = 1.2
"""Exponent of the power law of expert loads while serving: NVIDIA's estimate for Qwen3-235B, by matching latencies to
kernels measured under several exponents (ai-dynamo/aiconfigurator, power-law distribution in MoE workload simulation;
1.01 for DeepSeek-V3). Training keeps experts balanced by a loss or by bias updates, and is uniform here."""

_HEAVIEST = 0.8
"""Share of all tokens that the most loaded expert can get under the power law, as in the same source."""


@cache
def experts_touched(experts: int, per_token: int, tokens: int, exponent: float = 0.0) -> int:
    """Expected number of experts that at least one of ``tokens`` selects: only their weights are read.

    Parameters
    ----------
    exponent
        0: tokens are routed uniformly, E·(1 − (1 − k/E)^tokens). Above: loads of experts follow the density x^−exponent
        between 1 and 0.8·tokens; each expert is chosen by a token with the probability of its share.
    """
    if tokens <= 0 or experts == 0:
        return 0
    least, most = min(experts, per_token), 1.0 - (1.0 - per_token / experts) ** tokens
    top = _HEAVIEST * tokens
    if exponent <= 0 or top <= 1:
        return max(least, round(experts * most))
    ranks = [(i + 0.5) / experts for i in range(experts)]
    power = 1.0 - exponent
    loads = [
        math.pow(top, u) if not power else math.pow(1.0 + (math.pow(top, power) - 1.0) * u, 1.0 / power) for u in ranks
    ]
    share = per_token / sum(loads)
    return max(least, round(sum(1.0 - (1.0 - min(1.0, share * load)) ** tokens for load in loads)))


def lower_mlp(name: str, spec: MlpSpec, source: Tensor, ctx: LoweringContext) -> tuple[list[Op], Tensor]:
    """Ops that read ``source`` [batch, seq, hidden], and the output before the residual addition."""
    if not spec.is_moe:
        return _dense(name, spec.intermediate_size, spec, source, ctx, bias=spec.bias)
    ops, routed = _routed(name, spec, source, ctx)
    if not spec.shared_intermediate_size:
        return ops, routed
    shared_ops, shared = _dense(f"{name}.shared", spec.shared_intermediate_size, spec, source, ctx, bias=False)
    if spec.shared_gate:
        gate = ctx.gemm(f"{name}.shared_gate", source, ctx.hidden, Dim.of("gate", 1))
        gated = ctx.activation(f"{name}.shared_gated", ctx.hidden)
        shared_ops += [
            gate,
            ctx.elementwise(f"{name}.shared_gate.mul", (shared, gate.writes[0]), (gated,), saves=(shared,)),
        ]
        shared = gated
    out = ctx.activation(f"{name}.sum", ctx.hidden)
    total = ctx.elementwise(f"{name}.sum", (routed, shared), (out,), residual=True)
    return [*ops, *shared_ops, total if ctx.training else replace(total, tags={JOINS: "partial sums"})], out


def _dense(
    name: str, width: int, spec: MlpSpec, source: Tensor, ctx: LoweringContext, *, bias: bool
) -> tuple[list[Op], Tensor]:
    inner = Dim.of("ffn", width)
    wide = Dim("ffn", ((width, 1), (width, 1))) if spec.gated else inner
    up = ctx.gemm(f"{name}.up", source, ctx.hidden, wide, bias=bias)
    activated = ctx.activation(f"{name}.act.out", inner)
    if spec.gated and ctx.training and GLU_HALVES in ctx.framework.composite:
        act = halved_activation(f"{name}.act", up.writes[0], activated, ctx)
    else:
        kept = (up.writes[0], *_intermediate(f"{name}.act", activated, spec, ctx))
        act = [ctx.elementwise(f"{name}.act", (up.writes[0],), (activated,), saves=kept, flops=8.0)]
    down = ctx.gemm(f"{name}.down", activated, inner, ctx.hidden, bias=bias)
    return [up, *act, down], down.writes[0]


def _intermediate(name: str, activated: Tensor, spec: MlpSpec, ctx: LoweringContext) -> tuple[Tensor, ...]:
    """The activated gate, which is kept when the product with the value is a kernel of its own."""
    kept = spec.gated and "swiglu" in ctx.framework.composite
    return (replace(activated, name=f"{name}.gate"),) if kept else ()


def _grouped(name: str, spec: MlpSpec, read: Tensor, inner: Dim, outer: Dim, ctx: LoweringContext) -> Op:
    """One linear layer of all experts over the routed rows of ``read``."""
    experts, routed = Dim.of("experts", spec.num_experts), read.dims[0]
    weight = ctx.param(f"{name}.weight", experts, inner, outer)
    reads = (read, weight) + ((ctx.param(f"{name}.bias", experts, outer),) if spec.expert_bias else ())
    scales = {SCALES: "block"} if ctx.model.fp8_block else {}
    return Op(
        name,
        OpKind.GROUPED_GEMM,
        Phase.FORWARD,
        ctx.dtype,
        reads,
        (Tensor(f"{name}.out", TensorClass.ACTIVATION, (routed, outer), ctx.dtype),),
        (routed, inner, outer),
        2.0,
        contracts=(inner.name,),
        saves=ctx.saved(read),
        tags={
            "experts": str(spec.num_experts),
            "per_token": str(spec.num_experts_per_tok),
            "routing": "0" if ctx.training else str(SERVED_ROUTING),
            **scales,
        },
    )


def _routed(name: str, spec: MlpSpec, source: Tensor, ctx: LoweringContext) -> tuple[list[Op], Tensor]:
    """Router, permutation, grouped GEMMs of the experts, weighted combination.

    ``routed`` is the dimension of (token, expert) pairs: tokens × experts per token. Expert parallelism leaves its
    local size alone (what is sent away comes back from others when the load is balanced) and splits ``experts``.
    """
    tokens = ctx.batch * ctx.sequence
    routed = Dim.of("routed", tokens * spec.num_experts_per_tok)
    inner = Dim("expert_ffn", ((spec.moe_intermediate_size, 1),))
    wide = Dim("expert_ffn", ((spec.moe_intermediate_size, 1),) * (2 if spec.gated else 1))

    def rows(part: str, dim: Dim) -> Tensor:
        return Tensor(f"{name}.{part}", TensorClass.ACTIVATION, (routed, dim), ctx.dtype)

    def grouped(part: str, read: Tensor, inner_dim: Dim, outer: Dim) -> Op:
        return _grouped(f"{name}.{part}", spec, read, inner_dim, outer, ctx)

    router = ctx.gemm(f"{name}.router", source, ctx.hidden, Dim.of("router", spec.num_experts), bias=spec.router_bias)
    routing, chosen = _choice(name, spec, router, ctx)
    numbering, numbers = _numbering(name, routed, chosen, ctx)
    permuted = rows("dispatch.out", ctx.hidden)
    dispatch = Op(
        f"{name}.dispatch",
        OpKind.ELEMENTWISE,
        Phase.FORWARD,
        ctx.dtype,
        (source, chosen, *numbers),
        (permuted,),
        (routed,),
        0.0,
        tags={"moe": "dispatch"},
    )
    up = grouped("expert_up", permuted, ctx.hidden, wide)
    activated = rows("expert_act.out", inner)
    early = ctx.framework.weights_activated_rows
    act = Op(
        f"{name}.expert_act",
        OpKind.ELEMENTWISE,
        Phase.FORWARD,
        ctx.dtype,
        (*up.writes, chosen) if early else up.writes,
        (activated,),
        activated.dims,
        8.0,
        saves=ctx.saved(
            *up.writes, *((chosen,) if early else ()), *_intermediate(f"{name}.expert_act", activated, spec, ctx)
        ),
    )
    down = grouped("expert_down", activated, inner, ctx.hidden)
    out = ctx.activation(f"{name}.combine.out", ctx.hidden)
    combine = Op(
        f"{name}.combine",
        OpKind.ELEMENTWISE,
        Phase.FORWARD,
        ctx.dtype,
        down.writes if early else (down.writes[0], chosen),
        (out,),
        (routed, ctx.hidden),
        2.0,
        saves=() if early else ctx.saved(down.writes[0], chosen),
        tags={"moe": "combine"},
    )
    return [router, *routing, *numbering, dispatch, up, act, down, combine], out


def _choice(name: str, spec: MlpSpec, router: Op, ctx: LoweringContext) -> tuple[list[Op], Tensor]:
    """From the router's scores to weights [batch, seq, experts per token]: selections, and small kernels around them.

    Scores in fp32, groups, masks, the loss that balances experts and its gradient: as many kernels as the framework
    says, each over tokens × experts numbers at most.
    """
    chosen = ctx.activation(f"{name}.topk.out", Dim.of("chosen", spec.num_experts_per_tok), dtype="fp32")
    framework = ctx.framework
    topk = ctx.elementwise(f"{name}.topk", router.writes, (chosen,), saves=router.writes, flops=8.0)
    if framework.router_kernels_forward:
        launches = {
            "kernels": str(framework.router_kernels_forward),
            "kernels_backward": str(framework.router_kernels_backward),
        }
        topk = replace(topk, tags=launches)
    if not framework.router_selections:
        return [topk], chosen
    places = ctx.activation(f"{name}.select.out", Dim.of("chosen", spec.num_experts_per_tok), dtype="int32")
    select = ctx.elementwise(f"{name}.select", router.writes, (places,))
    tags = {GRADIENT_ELSEWHERE: topk.name, "selections": str(framework.router_selections)}
    return [replace(select, tags=tags), replace(topk, reads=(*topk.reads, places))], chosen


def _numbering(name: str, routed: Dim, chosen: Tensor, ctx: LoweringContext) -> tuple[list[Op], tuple[Tensor, ...]]:
    """The kernels that number rows by expert, where the framework says what they take."""
    if "index_per_row" not in ctx.framework.constants:
        return [], ()
    numbers = Tensor(f"{name}.index.out", TensorClass.ACTIVATION, (routed, Dim.of("number", 1)), "int32")
    op = ctx.elementwise(f"{name}.index", (chosen,), (numbers,))
    return [replace(op, tags={GRADIENT_ELSEWHERE: f"{name}.dispatch"})], (numbers,)
