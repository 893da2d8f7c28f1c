"""Weights outside device memory that are fetched layer by layer in every iteration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

from simulator.errors import ConfigError
from simulator.hardware.types import Node
from simulator.registry import Claim, register
from simulator.strategies.serving_offload.streaming import RESIDENT, WeightStream
from simulator.strategies.settings import Settings
from simulator.workload.plan import Plan

__all__ = ["EdgeMoE", "WeightOffload", "ZeroInference", "host_bandwidth"]


def host_bandwidth(node: Node, ranks: int) -> float:
    """Host-to-device bandwidth that each of ``ranks`` accelerators of a node gets when all fetch [B/s]."""
    sharing = min(node.accelerators_per_host_link, max(1, min(ranks, node.accelerators)))
    return node.accelerator.host_link.achievable / sharing


class WeightOffload(ABC):
    """Layers live in host memory or on NVMe; the keys of ``deployment.offload``."""

    name: str
    keys: ClassVar[Collection[str]] = ()
    quality: ClassVar[str] = "exact: the same weights are used"

    def __init__(self, settings: Settings) -> None:
        settings.only(self.keys)
        self.settings = settings
        self.tier = settings.text("tier", "host", options=("host", "nvme"))
        """Where the weights are: ``host`` or ``nvme``."""

    @property
    def density(self) -> float:
        """Share of the neurons that one token uses on the device; below 1 where neurons are picked."""
        return 1.0

    @abstractmethod
    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """What arrives in every iteration.

        Parameters
        ----------
        weights
            Bytes of the layers of each pipeline stage on one rank [B].
        layers
            Number of layers of each stage.
        plan, node
            Ranks that fetch at the same time, and where from.
        neurons
            Share of a layer's weights that are neurons of its MLP.
        """


@register(
    "zero-inference",
    kind="policy",
    area="serving",
    family="serving_offload",
    cites=(
        "DeepSpeed team 2022 (ZeRO-Inference), DeepSpeed docs/_posts/2022-09-10-zero-inference.md",
        "Aminabadi et al. 2022 (DeepSpeed Inference), arXiv 2207.00032",
    ),
    catalogue=("ZeRO-Inference", "DeepSpeed Inference"),
    claims=(
        Claim(
            "OPT-30B on one V100-32GB of a DGX-2, 4 tokens in, 10 out: 43 tok/s from host memory, 30 "
            "tok/s from NVMe (batch sizes are in a picture that was not read)",
            "DeepSpeed docs/_posts/2022-09-10-zero-inference.md @18f2395",
        ),
        Claim("prefetching helps NVMe 1.13-1.21× and host memory not", "the same, section on prefetching"),
    ),
    validated_by="published",
)
class ZeroInference(WeightOffload):
    """All layers stream from ``tier`` (host, nvme) while device memory goes to the batch.

    ``resident``: share of the layers that stays on the device (partial offload), ``prefetch``: whether a layer arrives
    while the one before computes. Data-parallel ranks fetch a part each and gather it over the scale-up network, whose
    time is left out as the source does. From NVMe the way is disk to host to device: overlapped with prefetch, else one
    after the other.
    """

    keys = ("tier", "resident", "prefetch", "bandwidth")

    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """Streamed bytes over the host link, and over the disk before."""
        resident = self.settings.number("resident", 0.0, high=1.0)
        if resident == 1.0:
            return RESIDENT
        prefetch = self.settings.flag("prefetch", True)
        ranks = min(plan.accelerators, node.accelerators)
        link = self.settings.number("bandwidth", host_bandwidth(node, ranks))
        per_byte = [1.0 / link]
        if self.tier == "nvme":
            if node.nvme is None:
                raise ConfigError(f"{self.settings.where}.tier: {node.name} has no NVMe, use tier: host")
            per_byte.append(ranks / node.nvme.read)
        slowest = max(per_byte) if prefetch else sum(per_byte)
        moved = [bytes_ * (1.0 - resident) / plan.data_parallel for bytes_ in weights]
        traffic = {"host": sum(moved)} | ({"nvme": sum(moved)} if self.tier == "nvme" else {})
        layer = [bytes_ / max(1, count) for bytes_, count in zip(weights, layers, strict=True)]
        return WeightStream(
            tuple(bytes_ * slowest for bytes_ in moved), prefetch, traffic, resident,
            tuple((2 if prefetch else 1) * one for one in layer),
        )  # fmt: skip


@register(
    "edgemoe",
    kind="policy",
    area="serving",
    family="serving_offload",
    cites=("Yi et al. 2023 (EdgeMoE), arXiv 2308.14352",),
    catalogue=("Brainstorm, EdgeMoE, dynamic expert swapping on edge",),
    validated_by="closed_form",
)
class EdgeMoE(WeightOffload):
    """Experts live in ``tier``, a cache of them on the device: what a batch needs and the cache misses is fetched.

    ``expert_share``: experts' part of a layer's weights; ``active_share``: part of the experts that an iteration needs
    (experts per token over experts for one token); ``hit_ratio``: part of those found in the cache, from a routing
    trace; ``resident``: part of the experts that the cache holds; ``compression``: bytes of a fetched expert over those
    deployed. A fetch waits for the router, so it hides behind nothing unless ``prefetch`` says that the next layer's
    experts are predicted.
    """

    keys = ("tier", "expert_share", "active_share", "hit_ratio", "resident", "compression", "prefetch", "bandwidth")
    quality = "exact with compression 1; fewer bits per expert change answers"

    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """Misses of an iteration."""
        s = self.settings
        experts, active = s.number("expert_share", high=1.0), s.number("active_share", high=1.0)
        held = s.number("resident", 0.0, high=1.0)
        missed = active * (1.0 - s.number("hit_ratio", held, high=1.0)) * s.number("compression", 1.0, high=1.0)
        prefetch = s.flag("prefetch", False)
        ranks = min(plan.accelerators, node.accelerators)
        per_byte = [1.0 / s.number("bandwidth", host_bandwidth(node, ranks))]
        if self.tier == "nvme":
            if node.nvme is None:
                raise ConfigError(f"{s.where}.tier: {node.name} has no NVMe, use tier: host")
            per_byte.append(ranks / node.nvme.read)
        moved = [bytes_ * experts * missed for bytes_ in weights]
        traffic = {"host": sum(moved)} | ({"nvme": sum(moved)} if self.tier == "nvme" else {})
        seconds = max(per_byte) if prefetch else sum(per_byte)
        buffered = tuple(bytes_ * experts * active / max(1, n) for bytes_, n in zip(weights, layers, strict=True))
        return WeightStream(
            tuple(bytes_ * seconds for bytes_ in moved), prefetch, traffic, 1.0 - experts * (1.0 - held), buffered
        )
