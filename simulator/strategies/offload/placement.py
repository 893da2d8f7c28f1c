"""The pass that moves model states: base of ZeRO-Offload, ZeRO-Infinity, STRONGHOLD, PatrickStar, Angel-PTM, Mobius.

All are one rewriting with different answers to three questions: which classes of states live where, which layers
stay on the device, and when the optimizer on the host runs. The optimizer itself follows from the tier of its states
(:mod:`simulator.training.update`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

from simulator.strategies.offload.copies import Route, evict, evict_activations, fetch, is_tied_copy
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Phase, TensorClass, Tier
from simulator.workload.plan import Plan

__all__ = ["OPTIONS", "TIERS", "PlacementView", "StateOffload", "UpdateMode", "offload_efficiency", "smallest_window"]

UpdateMode = Literal["after", "overlap", "delayed", "decoupled"]

OPTIONS = {
    TensorClass.PARAM: "offload_parameters", TensorClass.GRAD: "offload_gradients",
    TensorClass.OPTIM: "offload_optimizer",
}  # fmt: skip
TIERS = {"hbm": Tier.HBM, "host": Tier.HOST, "nvme": Tier.NVME}


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


class PlacementView(Protocol):
    """What placing layers needs to know of the job (see ``simulator.training.decisions.JobView``)."""

    plan: Plan
    microbatches: int

    @property
    def layers_per_stage(self) -> int:
        """Layers of the fullest virtual stage."""

    def room(self, plan: Plan) -> float:
        """HBM left on the fullest rank [B], negative when it does not fit."""


class StateOffload:
    """Base of the passes that move model states; subclasses only state facts.

    Options of the plan: ``offload_parameters``, ``offload_gradients``, ``offload_optimizer`` (``hbm``, ``host`` or
    ``nvme``) override the strategy's tiers, ``offload_activations`` (``host`` or ``nvme``) evicts saved activations as
    well, ``offload_prefetch`` is the number of layers fetched ahead, ``delayed_update`` hides the optimizer one step.
    """

    name: str
    stage = PassStage.OFFLOAD
    tiers: ClassVar[Mapping[TensorClass, Tier]] = MappingProxyType({})
    resident_keeps: ClassVar[frozenset[TensorClass]] = frozenset()
    """Classes that stay in HBM in resident layers."""
    update: ClassVar[UpdateMode] = "after"
    needs_zero_3: ClassVar[bool] = False
    activations: ClassVar[str] = "none"
    """Tier of saved activations unless ``offload_activations`` says otherwise."""
    direct: ClassVar[bool] = False
    """NVMe is reached without a stop in host memory."""
    updates_on_device: ClassVar[bool] = False
    """The device itself updates states that live elsewhere, not the host."""

    def update_mode(self, plan: Plan) -> UpdateMode:
        """When the optimizer on the host runs: after the step, beside the backward, under the next step, or apart.

        Steps never wait for one that runs apart.
        """
        return "delayed" if plan.option("delayed_update", False) else self.update

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """A late update is stale by one step."""
        if self.update_mode(plan) != "delayed":
            return ()
        return (
            f"{self.name}: the update is one step late; tokens to a target loss are those of synchronous training "
            "unless goal.extra_tokens says otherwise",
        )

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Sharded states need a ZeRO stage; tiers must be known."""
        for name in OPTIONS.values():
            value = plan.option(name)
            if value is not None and value not in TIERS:
                return f"{name}: {value} is no tier for model states; use hbm, host or nvme"
        shards = plan.data_parallel * plan.context_parallel
        if self.needs_zero_3 and shards > 1 and plan.zero_stage < 3:
            return f"offload {self.name} moves shards of the parameters: use zero_stage 3, not {plan.zero_stage}"
        if shards > 1 and plan.zero_stage == 0:
            return (
                f"offload {self.name} with {shards} data-parallel ranks would keep {shards} copies of all states in "
                "host memory: use zero_stage 1, 2 or 3"
            )
        return ""

    def where(self, plan: Plan, block: Block) -> dict[TensorClass, Tier]:
        """Tier of each class of states of a block."""
        tiers = {
            c: TIERS[str(plan.option(o))] if plan.option(o) else self.tiers.get(c, Tier.HBM) for c, o in OPTIONS.items()
        }
        if plan.option("offload_resident") or (block.name != "layer" and self.resident_keeps):
            tiers |= dict.fromkeys(self.resident_keeps, Tier.HBM)
        return tiers

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Move the states and add what brings parameters in and takes gradients out."""
        tiers, prefetch = self.where(plan, block), int(str(plan.option("offload_prefetch", 1)))
        block = self._parameters(block, Route(tiers[TensorClass.PARAM], self.direct, prefetch))
        block = self._gradients(block, Route(tiers[TensorClass.GRAD], self.direct), plan)
        states = tuple(
            replace(t, tier=tiers[TensorClass.OPTIM]) if t.cls is TensorClass.OPTIM else t for t in block.states
        )
        block = replace(block, states=states)
        saved = str(plan.option("offload_activations", self.activations))
        if saved in TIERS and block.name == "layer":
            route = Route(TIERS[saved], self.direct, prefetch)
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

    def _gradients(self, block: Block, route: Route, plan: Plan) -> Block:
        if route.tier is Tier.HBM or not any(t.cls is TensorClass.GRAD for t in block.states):
            return block
        # Gradients leave in the type of the parameters as soon as a micro-batch has produced (and reduced) them: each
        # rank sends the shard whose optimizer states it owns, and it is accumulated where it lives.
        parameters = {f"{t.name}.grad": t for t in block.states if t.cls is TensorClass.PARAM}
        owned = {f"{t.name.rpartition('.')[0]}.grad": t.sharding for t in block.states if t.cls is TensorClass.OPTIM}
        gradients = tuple(
            replace(
                t,
                dtype=parameters[t.name].dtype if t.name in parameters else t.dtype,
                sharding=owned.get(t.name, t.sharding),
            )
            for t in block.states
            if t.cls is TensorClass.GRAD
        )
        kept = {t.name: replace(t, tier=route.tier) for t in gradients}
        leaving = [t for t in gradients if not is_tied_copy(block, t, plan)]
        out = evict(f"{block.name}.grad.evict", leaving, route, Phase.BACKWARD)
        return replace(
            block,
            states=tuple(kept.get(t.name, t) if t.cls is TensorClass.GRAD else t for t in block.states),
            reduce=(),
            reduce_each=(*block.reduce_each, *block.reduce, *out),
        )

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """Which layers of a stage stay on the device: the first ``resident_layers``."""
        resident = plan.option("resident_layers")
        return [{"offload_resident": True} if isinstance(resident, int) and i < resident else {} for i in range(layers)]

    def decide(self, view: PlacementView) -> Mapping[str, object]:
        """The most layers per stage that fit on the device, unless ``resident_layers`` says how many."""
        if not self.resident_keeps or view.plan.option("resident_layers") is not None:
            return {}
        low, high = 0, view.layers_per_stage
        while low < high:
            middle = (low + high + 1) // 2
            fits = view.room(view.plan.with_(resident_layers=middle)) >= 0
            low, high = (middle, high) if fits else (low, middle - 1)
        return {"resident_layers": low}
