"""Strategies that keep model states outside HBM: each states which classes live where and when the host updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from simulator.registry import Claim, register
from simulator.strategies.offload.placement import OPTIONS, TIERS, PlacementView, StateOffload, UpdateMode
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Dim, Op, Tensor, TensorClass, Tier
from simulator.workload.plan import Plan
from simulator.workload.wire import Wire

__all__ = ["AngelPTM", "Mobius", "PatrickStar", "Stronghold", "ZeroInfinity", "ZeroOffload"]

_ZERO_OFFLOAD = "Ren et al. 2021 (ZeRO-Offload), arXiv 2101.06840"
_ZERO_INFINITY = "Rajbhandari et al. 2021 (ZeRO-Infinity), arXiv 2104.07857"
_HOST = MappingProxyType({TensorClass.GRAD: Tier.HOST, TensorClass.OPTIM: Tier.HOST})
_ALL_HOST = MappingProxyType({TensorClass.PARAM: Tier.HOST, **_HOST})


@register(
    "zero-offload", kind="pass", area="training", family="offload", cites=(_ZERO_OFFLOAD,), catalogue=("ZeRO-Offload",),
    claims=(
        Claim("13 B parameters train on one V100-32GB, 1.4 B without offload", "arXiv 2101.06840 abstract"),
        Claim("CPU Adam: 0.22 / 1.03 / 2.57 s for 1 / 4 / 10 B on a DGX-2", "arXiv 2101.06840 table 4, in a summary"),
    ),
    validated_by="published",
)  # fmt: skip
class ZeroOffload(StateOffload):
    """Gradients and optimizer on the host with CPU Adam; 16-bit parameters stay on the device."""

    tiers = _HOST


@register(
    "zero-infinity", kind="pass", area="training", family="offload",
    cites=(_ZERO_INFINITY, "DeepSpeed ZeRO-3 Offload, deepspeed.ai 2021-03-07"),
    catalogue=("ZeRO-Infinity / ZeRO-3 Offload",),
    claims=(
        Claim("largest models on one DGX-2: 70 B with host memory, 1 T with NVMe", "arXiv 2104.07857 figure 1"),
        Claim("efficiency = ait·bw / (ait·bw + peak)", "arXiv 2104.07857 eq. 6"),
    ),
    validated_by="published",
)  # fmt: skip
class ZeroInfinity(StateOffload):
    """Shards of parameters, gradients and optimizer on the host, or with ``offload_tier: nvme`` on NVMe."""

    tiers = _ALL_HOST
    needs_zero_3 = True

    def where(self, plan: Plan, block: Block) -> dict[TensorClass, Tier]:
        """All classes in ``offload_tier`` unless an option names another."""
        default = TIERS.get(str(plan.option("offload_tier", "host")), Tier.HOST)
        return {c: TIERS[str(plan.option(o))] if plan.option(o) else default for c, o in OPTIONS.items()}


@register(
    "stronghold", kind="pass", area="training", family="offload",
    cites=("Sun et al. 2022 (STRONGHOLD), SC22",), catalogue=("STRONGHOLD",), validated_by="closed_form",
)  # fmt: skip
class Stronghold(StateOffload):
    """The device holds a window of ``resident_layers``; the others come and go, optimizers run beside the backward.

    A window of all layers moves no parameters: what remains is gradients out and updated parameters in.
    """

    tiers = _ALL_HOST
    resident_keeps = frozenset({TensorClass.PARAM})
    update = "overlap"


@register(
    "patrickstar", kind="pass", area="training", family="offload",
    cites=("Fang et al. 2021 (PatrickStar), arXiv 2108.05818",), catalogue=("PatrickStar",),
    claims=(
        Claim("68 B parameters on 8 A100 with 1 TB of host memory", "github.com/Tencent/PatrickStar README"),
    ),
    validated_by="published",
)  # fmt: skip
class PatrickStar(StateOffload):
    """Fixed chunks of ``chunk_size`` elements placed where there is room; ``resident_layers`` layers stay in HBM.

    Resident layers keep their optimizer states on the device too, as chunks do when the warm-up statistics leave a
    margin. A chunk is the unit of a transfer: two of them are reserved in HBM.
    """

    tiers = _ALL_HOST
    resident_keeps = frozenset({TensorClass.PARAM, TensorClass.GRAD, TensorClass.OPTIM})

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As the base, with two chunks of 16-bit elements set aside."""
        block = super().apply(block, plan, framework)
        held = next((t for t in block.states if t.cls is TensorClass.PARAM), None)
        if held is None or block.name == "layer":
            return block
        size = int(str(plan.option("chunk_size", 64 * 2**20)))
        chunks = Tensor("chunks", TensorClass.WORKSPACE, (Dim.of("chunk", 2 * size),), held.dtype)
        return replace(block, states=(*block.states, chunks))


@register(
    "angel-ptm", kind="pass", area="training", family="offload",
    cites=("Nie et al. 2023 (Angel-PTM), arXiv 2303.02868",), catalogue=("Angel-PTM",),
    claims=(Claim("up to 88.9 % more throughput than existing systems", "arXiv 2303.02868 abstract"),),
    validated_by="ratio",
)  # fmt: skip
class AngelPTM(StateOffload):
    """Pages over HBM, host and SSD; with ``offload_optimizer: nvme`` its update is decoupled from the steps (stale).

    Steps then never wait for drives: gradients are added up in host memory until the next update takes them.
    """

    tiers = _ALL_HOST
    resident_keeps = frozenset({TensorClass.PARAM})

    def update_mode(self, plan: Plan) -> UpdateMode:
        """Lock-free when the optimizer states are on SSD."""
        return "decoupled" if plan.option("offload_optimizer") == "nvme" else super().update_mode(plan)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Steps run on while an update takes its time."""
        if self.update_mode(plan) != "decoupled":
            return super().notes(plan)
        return (
            f"{self.name}: updates on drives run apart from the steps and may be several of them late; tokens to a "
            "target loss are those of synchronous training unless goal.extra_tokens says otherwise",
        )


@register(
    "mobius", kind="pass", area="training", family="offload",
    cites=("Feng et al. 2023 (Mobius), ASPLOS 23",), catalogue=("Mobius",),
    claims=(Claim("3.8 to 5.1 times earlier systems on commodity servers", "ASPLOS 2023 abstract"),),
    validated_by="ratio",
)  # fmt: skip
class Mobius(StateOffload):
    """Pipeline stages cycle through host memory: each is loaded once for all micro-batches, the next one meanwhile."""

    tiers = _ALL_HOST

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Needs several stages per device, each running all micro-batches before the next."""
        if plan.virtual_stages < 2:
            return "offload mobius cycles several stages through a device: use virtual_stages 2 or more"
        if plan.schedule != "breadth-first":
            return f"offload mobius runs all micro-batches per stage: use schedule breadth-first, not {plan.schedule}"
        return super().check(model, plan)

    def decide(self, view: PlacementView) -> Mapping[str, object]:
        """Micro-batches that share one load of a stage."""
        return {} if view.plan.option("microbatches") else {"microbatches": view.microbatches}

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As the base, with transfers shared by the micro-batches of a step."""
        block = super().apply(block, plan, framework)
        share = Wire(volume=1 / max(1, int(str(plan.option("microbatches", 1)))))

        def shared(ops: tuple[Op, ...]) -> tuple[Op, ...]:
            return tuple(replace(op, wire=replace(op.wire, volume=share.volume)) for op in ops)

        held = [t for t in block.states if t.cls in (TensorClass.PARAM, TensorClass.GRAD) and block.name == "layer"]
        stage_layers = Dim.of("stage", int(str(plan.option("stage_layers", 1))))
        # The running stage's parameters and gradients, and the next stage's parameters on their way in.
        buffers = [
            replace(
                t, name=f"{t.name}.stage{i}", cls=TensorClass.WORKSPACE, tier=Tier.HBM, dims=(*t.dims, stage_layers)
            )
            for t in held
            for i in range(2 if t.cls is TensorClass.PARAM else 1)
        ]
        return replace(
            block, states=(*block.states, *buffers), gather_forward=shared(block.gather_forward),
            gather_backward=shared(block.gather_backward), reduce_each=shared(block.reduce_each),
        )  # fmt: skip

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """How many layers a stage loads together."""
        return [{"stage_layers": layers}] * layers
