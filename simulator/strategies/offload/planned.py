"""Activations that leave HBM by a plan: Capuchin, DELTA, TSPLIT, POFO, SwapAdvisor, AutoTM, G10, DeepUM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from simulator.registry import Claim, register
from simulator.strategies.offload.copies import Route, evict_activations
from simulator.strategies.protocols import PassStage
from simulator.strategies.recompute.planned import TensorPlanner, View
from simulator.strategies.recompute.planning import Action, LayerProblem, greedy
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Tier
from simulator.workload.plan import Plan

__all__ = ["G10", "POFO", "AutoTM", "Capuchin", "DeepUM", "Delta", "SwapAdvisor", "TSplit"]


class _Swapping(TensorPlanner):
    """Base: both actions, in the stage of offload passes."""

    stage = PassStage.OFFLOAD
    actions: ClassVar[tuple[Action, ...]] = ("recompute", "swap")


def _between_kernels(page: float = 0.0) -> Route:
    """To host memory and back while the device waits."""
    return Route(Tier.HOST, prefetch=0, on_demand=True, page_size=page)


def _blocking(block: Block, moved: Block) -> Block:
    """``moved``, whose fetches are issued by the backward itself instead of ahead of it."""
    fetches = moved.gather_backward[len(block.gather_backward) :]
    return replace(moved, gather_backward=block.gather_backward, backward=(*fetches, *moved.backward))


@register(
    "capuchin", kind="pass", area="training", family="offload", cites=("Peng et al. 2020 (Capuchin), ASPLOS 20",),
    catalogue=("Capuchin",),
    claims=(Claim("up to 286 % over vDNN and 55 % over checkpointing at the same memory", "ASPLOS 2020 abstract"),),
    validated_by="ratio",
)  # fmt: skip
class Capuchin(_Swapping):
    """Swaps tensors as long as the transfers hide behind computation, recomputes the cheapest per byte of the rest."""

    solver = "swap-first"


@register(
    "delta", kind="pass", area="training", family="offload", cites=("Tang et al. 2022 (DELTA), arXiv 2203.15980",),
    catalogue=("DELTA",), validated_by="closed_form",
)  # fmt: skip
class Delta(_Swapping):
    """For each tensor that must go, the cheaper of recomputation and of the part of its swap that does not hide."""

    solver = "greedy"


@register(
    "pofo", kind="pass", area="training", family="offload",
    cites=("Beaumont et al. 2021 (POFO), NeurIPS 21", "Shah et al. 2021 (MONeT), arXiv 2010.14501"),
    catalogue=("MONeT, POFO, Rotor",), validated_by="closed_form",
)  # fmt: skip
class POFO(_Swapping):
    """Joint offload and recomputation at the least total time, exactly (per layer)."""

    solver = "optimal"


@register(
    "swapadvisor", kind="pass", area="training", family="offload",
    cites=("Huang et al. 2020 (SwapAdvisor), ASPLOS 20",),
    catalogue=("SwapAdvisor",), validated_by="closed_form",
)  # fmt: skip
class SwapAdvisor(_Swapping):
    """Swaps only, on separate queues for both directions; the set is found exactly instead of by a genetic search."""

    actions = ("swap",)


@register(
    "autotm", kind="pass", area="training", family="offload", cites=("Hildebrand et al. 2020 (AutoTM), ASPLOS 20",),
    catalogue=("AutoTM",), validated_by="closed_form",
)  # fmt: skip
class AutoTM(_Swapping):
    """Integer programme that places tensors in fast or slow memory (HBM and host here).

    ``copies: asynchronous`` (default) run beside kernels; ``synchronous`` ones between them, so that all of their time
    shows and the programme moves the fewest bytes.
    """

    actions = ("swap",)

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Two kinds of copies are known."""
        kind = plan.option("copies", "asynchronous")
        if kind not in ("asynchronous", "synchronous"):
            return f"copies must be asynchronous or synchronous, have {kind!r}"
        return super().check(model, plan)

    def hides(self, plan: Plan) -> bool:
        """Whether copies run beside computation."""
        return plan.option("copies", "asynchronous") == "asynchronous"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Copies on queues of their own, or on the one of the kernels."""
        chosen = plan.option(self.decision)
        if self.hides(plan) or block.name != "layer" or not isinstance(chosen, tuple):
            return super().apply(block, plan, framework)
        return _blocking(block, evict_activations(block, dict.fromkeys(dict(chosen), _between_kernels())))


@register(
    "tsplit", kind="pass", area="training", family="offload", cites=("Nie et al. 2022 (TSPLIT), ICDE 22",),
    catalogue=("TSPLIT",), validated_by="closed_form",
)  # fmt: skip
class TSplit(_Swapping):
    """Plans pieces of tensors: of one swapped tensor only the share leaves that the budget asks for."""

    solver = "greedy"

    def solve(self, problem: LayerProblem) -> Mapping[str, str]:
        """The greedy choice, less what it freed too much."""
        choice = dict(greedy(problem))
        surplus = problem.budget - problem.kept(choice)
        swapped = [n for n, a in choice.items() if a == "swap" and problem.sizes[n] > surplus]
        if surplus <= 0 or not swapped:
            return choice
        cut = swapped[-1]
        return {**choice, cut: f"swap {1 - surplus / problem.sizes[cut]:.6f}"}


@register(
    "g10", kind="pass", area="training", family="offload",
    cites=("Zhang et al. 2023 (G10), MICRO 23, arXiv 2310.09443",),
    catalogue=("G10",),
    claims=(Claim("up to 1.75 times other GPU memory systems", "arXiv 2310.09443 abstract"),),
    validated_by="ratio",
)  # fmt: skip
class G10(_Swapping):
    """Planned migration over one address space: to flash while its bandwidth hides the move, to host memory beyond.

    ``flash_share`` of the bytes goes to flash; without it as much as it takes in and gives back within a layer's
    forward, none where there are no drives.
    """

    actions = ("swap",)

    def decide(self, view: View) -> Mapping[str, object]:
        """What moves, and how much of it to flash."""
        found = dict(super().decide(view))
        if view.plan.option("flash_share") is not None:
            return found
        chosen = dict(
            cast("tuple[tuple[str, str], ...]", found.get(self.decision, view.plan.option(self.decision, ())))
        )
        shares = [self._hidden(view, layer, chosen) for layer in view.layers]
        return {**found, "flash_share": round(min(shares, default=0.0), 6)}

    @staticmethod
    def _hidden(view: View, layer: Block, chosen: Mapping[str, str]) -> float:
        """Share of a layer's moving bytes that drives write while it runs forward."""
        moving = sum(t.bytes(view.mesh) for t in layer.saved if t.name in chosen)
        seconds = view.copy_seconds(moving, Tier.NVME) if moving else 0.0
        return min(1.0, view.pass_seconds(layer)[0] / seconds) if seconds else 1.0

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Longest inactive tensors (earliest in the layer) to flash up to ``flash_share``, the others to the host."""
        chosen = plan.option(self.decision)
        if block.name != "layer" or not isinstance(chosen, tuple):
            return block
        names = [t.name for t in block.saved if t.name in dict(chosen)]  # program order: first saved, last needed
        sizes = {t.name: t.bytes() for t in block.saved}
        limit, used = float(str(plan.option("flash_share", 0.5))) * sum(sizes[n] for n in names), 0.0
        routes: dict[str, Route] = {}
        for name in names:
            far = used + sizes[name] <= limit
            routes[name] = Route(Tier.NVME, direct=True) if far else Route(Tier.HOST)
            used += sizes[name] * far
        return evict_activations(block, routes)


@register(
    "deepum", kind="pass", area="training", family="offload", cites=("Jung et al. 2023 (DeepUM), ASPLOS 23",),
    catalogue=("DeepUM",), validated_by="closed_form",
)  # fmt: skip
class DeepUM(_Swapping):
    """Unified memory with correlation prefetching: a share ``prefetch_hit_ratio`` of the fetches comes ahead of use.

    The others are page faults of 2 MiB blocks that stall the device; at 0 it is plain unified memory.
    """

    actions = ("swap",)

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """The ratio must be one."""
        ratio = float(str(plan.option("prefetch_hit_ratio", 1.0)))
        return super().check(model, plan) if 0 <= ratio <= 1 else f"prefetch_hit_ratio {ratio} is not between 0 and 1"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Swap what was decided; misses run on the compute queue."""
        chosen = plan.option(self.decision)
        if block.name != "layer" or not isinstance(chosen, tuple):
            return block
        ratio = float(str(plan.option("prefetch_hit_ratio", 1.0)))
        ahead = evict_activations(block, dict.fromkeys(dict(chosen), Route(Tier.HOST)))
        if ratio >= 1:
            return ahead
        faults, ready = _between_kernels(page=2.0 * 2**20), block.gather_backward
        late = evict_activations(block, dict.fromkeys(dict(chosen), faults)).gather_backward[len(ready) :]
        early = ahead.gather_backward[len(ready) :]
        hits = tuple(replace(op, wire=replace(op.wire, volume=ratio)) for op in early) if ratio else ()
        misses = tuple(replace(op, name=f"{op.name}.fault", wire=replace(op.wire, volume=1 - ratio)) for op in late)
        return replace(ahead, gather_backward=ready + hits, backward=(*misses, *block.backward))
