"""Model states outside HBM: ZeRO-Offload, ZeRO-Infinity, STRONGHOLD, PatrickStar, Angel-PTM, Mobius.

All are one rewriting with different answers to three questions: which classes of states live where, which layers
stay on the device, and when the optimizer on the host runs. The optimizer itself follows from the tier of its states
(:mod:`simulator.training.update`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from simulator.registry import Claim, register
from simulator.strategies.offload.copies import Route, evict, evict_activations, fetch
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, Phase, Tensor, TensorClass, Tier
from simulator.workload.plan import Plan
from simulator.workload.wire import Wire

__all__ = [
    "AngelPTM", "Mobius", "PatrickStar", "StateOffload", "Stronghold", "UpdateMode", "ZeroInfinity", "ZeroOffload",
    "offload_efficiency", "smallest_window",
]  # fmt: skip

UpdateMode = Literal["after", "overlap", "delayed"]

_OPTIONS = {
    TensorClass.PARAM: "offload_parameters", TensorClass.GRAD: "offload_gradients",
    TensorClass.OPTIM: "offload_optimizer",
}  # fmt: skip
_TIERS = {"hbm": Tier.HBM, "host": Tier.HOST, "nvme": Tier.NVME}


def offload_efficiency(intensity: float, bandwidth: float, peak: float) -> float:
    """Share of its peak that a device reaches when transfers are not overlapped.

    Parameters
    ----------
    intensity
        FLOPs per byte moved.
    bandwidth
        [B/s] of the slow tier for one device.
    peak
        [FLOP/s] it reaches without offload.

    Notes
    -----
    ait·bw / (ait·bw + peak): ZeRO-Infinity, arXiv 2104.07857, eq. 6.
    """
    return intensity * bandwidth / (intensity * bandwidth + peak)


def smallest_window(layer_seconds: float, transfer_seconds: float, layers: int) -> int:
    """Layers whose computation covers the transfer of one: the least w with w·t_layer ≥ t_transfer (STRONGHOLD)."""
    if layer_seconds <= 0:
        return layers
    return min(layers, max(1, math.ceil(transfer_seconds / layer_seconds - 1e-12)))


class StateOffload:
    """Base of the passes that move model states; subclasses only state facts.

    Options of the plan: ``offload_parameters``, ``offload_gradients``, ``offload_optimizer`` (``hbm``, ``host`` or
    ``nvme``) override the strategy's tiers, ``offload_activations`` (``host`` or ``nvme``) evicts saved activations as
    well, ``offload_prefetch`` is the number of layers fetched ahead, ``delayed_update`` hides the optimizer one step.
    """

    name: str
    stage = PassStage.OFFLOAD
    tiers: ClassVar[Mapping[TensorClass, Tier]] = {}
    resident_keeps: ClassVar[frozenset[TensorClass]] = frozenset()
    """Classes that stay in HBM in resident layers."""
    update: ClassVar[UpdateMode] = "after"
    needs_zero_3: ClassVar[bool] = False

    def update_mode(self, plan: Plan) -> UpdateMode:
        """When the optimizer on the host runs: after the step, beside the backward, or hidden under the next step."""
        return "delayed" if plan.option("delayed_update", False) else self.update

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Sharded states need a ZeRO stage; tiers must be known."""
        for name in _OPTIONS.values():
            value = plan.option(name)
            if value is not None and value not in _TIERS:
                return f"{name}: {value} is no tier for model states; use hbm, host or nvme"
        shards = plan.data_parallel * plan.context_parallel
        if self.needs_zero_3 and shards > 1 and plan.zero_stage < 3:
            return f"offload {self.name} moves shards of the parameters: use zero_stage 3, not {plan.zero_stage}"
        if shards > 1 and plan.zero_stage == 0:
            return (
                f"offload {self.name} with {shards} data-parallel ranks would keep {shards} copies of all states in host "
                "memory: use zero_stage 1, 2 or 3"
            )
        return ""

    def where(self, plan: Plan, block: Block) -> dict[TensorClass, Tier]:
        """Tier of each class of states of a block."""
        tiers = {
            c: _TIERS[str(plan.option(o))] if plan.option(o) else self.tiers.get(c, Tier.HBM)
            for c, o in _OPTIONS.items()
        }
        if plan.option("offload_resident") or (block.name != "layer" and self.resident_keeps):
            tiers |= dict.fromkeys(self.resident_keeps, Tier.HBM)
        return tiers

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Move the states and add what brings parameters in and takes gradients out."""
        tiers, prefetch = self.where(plan, block), int(str(plan.option("offload_prefetch", 1)))
        block = self._parameters(block, Route(tiers[TensorClass.PARAM], prefetch=prefetch))
        block = self._gradients(block, Route(tiers[TensorClass.GRAD]))
        states = tuple(
            replace(t, tier=tiers[TensorClass.OPTIM]) if t.cls is TensorClass.OPTIM else t for t in block.states
        )
        block = replace(block, states=states)
        saved = str(plan.option("offload_activations", "none"))
        if saved in _TIERS and block.name == "layer":
            route = Route(_TIERS[saved], prefetch=prefetch)
            block = evict_activations(block, {t.name: route for t in block.saved})
        return block

    def _parameters(self, block: Block, route: Route) -> Block:
        held = tuple(t for t in block.states if t.cls is TensorClass.PARAM)
        if route.tier is Tier.HBM or not held:
            return block
        name = f"{block.name}.param.fetch"
        return replace(
            block,
            states=tuple(replace(t, tier=route.tier) if t.cls is TensorClass.PARAM else t for t in block.states),
            gather_forward=(*fetch(name, held, route, Phase.FORWARD), *block.gather_forward),
            gather_backward=(*fetch(name, held, route, Phase.BACKWARD), *block.gather_backward),
            publish=(),  # updated parameters are fetched from where the optimizer left them
        )

    def _gradients(self, block: Block, route: Route) -> Block:
        if route.tier is Tier.HBM or not any(t.cls is TensorClass.GRAD for t in block.states):
            return block
        # Gradients leave in the type of the parameters as soon as a micro-batch has produced (and reduced) them; they
        # are accumulated where they live.
        storage = {f"{t.name}.grad": t.dtype for t in block.states if t.cls is TensorClass.PARAM}
        gradients = tuple(
            replace(t, dtype=storage.get(t.name, t.dtype)) for t in block.states if t.cls is TensorClass.GRAD
        )
        kept = {t.name: replace(t, tier=route.tier) for t in gradients}
        out = evict(f"{block.name}.grad.evict", gradients, route, Phase.BACKWARD)
        return replace(
            block,
            states=tuple(kept.get(t.name, t) if t.cls is TensorClass.GRAD else t for t in block.states),
            reduce=(),
            reduce_each=(*block.reduce_each, *block.reduce, *out),
        )

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """Which layers of a stage stay on the device: the first ``resident_layers``."""
        resident = int(str(plan.option("resident_layers", 0)))
        return [{"offload_resident": True} if i < resident else {} for i in range(layers)]


_ZERO_OFFLOAD = "Ren et al. 2021 (ZeRO-Offload), arXiv 2101.06840"
_ZERO_INFINITY = "Rajbhandari et al. 2021 (ZeRO-Infinity), arXiv 2104.07857"
_HOST = {TensorClass.GRAD: Tier.HOST, TensorClass.OPTIM: Tier.HOST}


@register(
    "zero-offload", kind="pass", area="training", family="offload", cites=(_ZERO_OFFLOAD,), catalogue=("ZeRO-Offload",),
    claims=(
        Claim("13 B parameters train on one V100-32GB, 1.4 B is the largest without offload", "arXiv 2101.06840 abstract"),
        Claim("CPU Adam takes 0.22 / 1.03 / 2.57 s for 1 / 4 / 10 B parameters on a DGX-2", "arXiv 2101.06840 table 4 (read in a summary)"),
    ),
    validated_by="published",
)  # fmt: skip
class ZeroOffload(StateOffload):
    """Gradients and optimizer on the host with CPU Adam; 16-bit parameters stay on the device."""

    tiers = _HOST


@register(
    "zero-infinity", kind="pass", area="training", family="offload",
    cites=(_ZERO_INFINITY, "DeepSpeed ZeRO-3 Offload, deepspeed.ai 2021-03-07"), catalogue=("ZeRO-Infinity / ZeRO-3 Offload",),
    claims=(
        Claim("largest models on one DGX-2: 70 B with host memory, 1 T with NVMe", "arXiv 2104.07857 figure 1"),
        Claim("efficiency = ait·bw / (ait·bw + peak)", "arXiv 2104.07857 eq. 6"),
    ),
    validated_by="published",
)  # fmt: skip
class ZeroInfinity(StateOffload):
    """Shards of parameters, gradients and optimizer on the host, or with ``offload_tier: nvme`` on NVMe."""

    tiers = {TensorClass.PARAM: Tier.HOST, **_HOST}
    needs_zero_3 = True

    def where(self, plan: Plan, block: Block) -> dict[TensorClass, Tier]:
        """All classes in ``offload_tier`` unless an option names another."""
        default = _TIERS.get(str(plan.option("offload_tier", "host")), Tier.HOST)
        return {c: _TIERS[str(plan.option(o))] if plan.option(o) else default for c, o in _OPTIONS.items()}


@register(
    "stronghold", kind="pass", area="training", family="offload",
    cites=("Sun et al. 2022 (STRONGHOLD), SC22",), catalogue=("STRONGHOLD",), validated_by="closed_form",
)  # fmt: skip
class Stronghold(StateOffload):
    """The device holds a window of ``resident_layers``; the others come and go, optimizers run beside the backward.

    A window of all layers moves no parameters: what remains is gradients out and updated parameters in.
    """

    tiers = {TensorClass.PARAM: Tier.HOST, **_HOST}
    resident_keeps = frozenset({TensorClass.PARAM})
    update = "overlap"


@register(
    "patrickstar", kind="pass", area="training", family="offload",
    cites=("Fang et al. 2021 (PatrickStar), arXiv 2108.05818",), catalogue=("PatrickStar",), validated_by="mechanism",
)  # fmt: skip
class PatrickStar(StateOffload):
    """Fixed chunks of ``chunk_size`` elements placed where there is room; ``resident_layers`` layers stay on the device.

    Resident layers keep their optimizer states on the device too, as chunks do when the warm-up statistics leave a
    margin. A chunk is the unit of a transfer: two of them are reserved in HBM.
    """

    tiers = {TensorClass.PARAM: Tier.HOST, **_HOST}
    resident_keeps = frozenset({TensorClass.PARAM, TensorClass.GRAD, TensorClass.OPTIM})

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As the base, with two chunks of 16-bit elements set aside."""
        block = super().apply(block, plan, framework)
        held = next((t for t in block.states if t.cls is TensorClass.PARAM), None)
        if held is None or block.name == "layer":
            return block
        from simulator.workload.ops import Dim

        size = int(str(plan.option("chunk_size", 64 * 2**20)))
        chunks = Tensor("chunks", TensorClass.WORKSPACE, (Dim.of("chunk", 2 * size),), held.dtype)
        return replace(block, states=(*block.states, chunks))


@register(
    "angel-ptm", kind="pass", area="training", family="offload",
    cites=("Nie et al. 2023 (Angel-PTM), arXiv 2303.02868",), catalogue=("Angel-PTM",), validated_by="mechanism",
)  # fmt: skip
class AngelPTM(StateOffload):
    """Pages over HBM, host and SSD; with ``offload_optimizer: nvme`` its update is decoupled from the steps (stale)."""

    tiers = {TensorClass.PARAM: Tier.HOST, **_HOST}
    resident_keeps = frozenset({TensorClass.PARAM})

    def update_mode(self, plan: Plan) -> UpdateMode:
        """Lock-free, hence hidden, when the optimizer states are on SSD."""
        return "delayed" if plan.option("offload_optimizer") == "nvme" else super().update_mode(plan)


@register(
    "mobius", kind="pass", area="training", family="offload",
    cites=("Feng et al. 2023 (Mobius), ASPLOS 23",), catalogue=("Mobius",), validated_by="mechanism",
)  # fmt: skip
class Mobius(StateOffload):
    """Pipeline stages cycle through host memory: a device loads a stage once for all micro-batches, the next meanwhile."""

    tiers = {TensorClass.PARAM: Tier.HOST, **_HOST}

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Needs several stages per device, each running all micro-batches before the next."""
        if plan.virtual_stages < 2:
            return "offload mobius cycles several stages through a device: use virtual_stages 2 or more"
        if plan.schedule != "breadth-first":
            return f"offload mobius loads a stage once for all micro-batches: use schedule breadth-first, not {plan.schedule}"
        return super().check(model, plan)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As the base, with transfers shared by the micro-batches of a step."""
        block = super().apply(block, plan, framework)
        share = Wire(volume=1 / max(1, int(str(plan.option("microbatches", 1)))))

        def shared(ops: tuple[Op, ...]) -> tuple[Op, ...]:
            return tuple(replace(op, wire=replace(op.wire, volume=share.volume)) for op in ops)

        held = [t for t in block.states if t.cls in (TensorClass.PARAM, TensorClass.GRAD)]
        # The running stage's parameters and gradients, and the next stage's parameters on their way in.
        buffers = [
            replace(t, name=f"{t.name}.stage{i}", cls=TensorClass.WORKSPACE, tier=Tier.HBM)
            for t in held
            for i in range(2 if t.cls is TensorClass.PARAM else 1)
        ]
        return replace(
            block, states=(*block.states, *buffers), gather_forward=shared(block.gather_forward),
            gather_backward=shared(block.gather_backward), reduce_each=shared(block.reduce_each),
        )  # fmt: skip
