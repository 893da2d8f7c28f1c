"""Neurons split by how often they fire: PowerInfer (device and host), LLM in a flash (memory and flash)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.errors import ConfigError
from simulator.hardware.types import Node
from simulator.registry import Claim, register
from simulator.strategies.serving_offload.streaming import NeuronStream, WeightStream
from simulator.strategies.serving_offload.weights import WeightOffload
from simulator.strategies.settings import Settings
from simulator.workload.plan import Plan

__all__ = ["LLMInAFlash", "NeuronSplit", "PowerInfer", "flash_rate"]


@dataclass(frozen=True)
class NeuronSplit:
    """How one token uses the weights of a layer.

    Attributes
    ----------
    dense
        Bytes every token reads (attention) [B].
    neurons
        Bytes of the MLP [B].
    active
        Share of the neurons one token activates, 1 = dense model.
    hot
        Share of the neurons kept on the device.
    coverage
        Share of the activations that falls on the hot ones; with ``hot`` 1 it is 1.
    """

    dense: float
    neurons: float
    active: float
    hot: float
    coverage: float

    def __post_init__(self) -> None:
        shares = (self.active, self.hot, self.coverage)
        if not all(0.0 <= x <= 1.0 for x in shares) or self.coverage < self.hot:
            raise ValueError(
                f"active, hot and coverage are shares, and hot neurons fire at least as often as others; have {shares}"
            )

    @property
    def read_hot(self) -> float:
        """Bytes a token reads on the device: attention and its active hot neurons [B]."""
        return self.dense + self.neurons * self.active * self.coverage

    @property
    def read_cold(self) -> float:
        """Bytes of its active cold neurons [B]."""
        return self.neurons * self.active * (1.0 - self.coverage)

    @property
    def held_hot(self) -> float:
        """Bytes resident on the device [B]."""
        return self.dense + self.neurons * self.hot


@register(
    "powerinfer",
    kind="policy",
    area="serving",
    family="serving_offload",
    cites=("Song et al. 2023 (PowerInfer), arXiv 2312.12456",),
    catalogue=("PowerInfer, LLM-in-a-flash, EdgeFM",),
    claims=(
        Claim(
            "13.20 tok/s on average, 29.08 at most, over models up to OPT-175B on one RTX 4090; up to 11.69× llama.cpp",
            "README of SJTU-IPADS/PowerInfer @0302435",
        ),
    ),
    validated_by="closed_form",
)
class PowerInfer(WeightOffload):
    """Hot neurons are computed on the device and cold ones on the host, at the same time; results are joined per layer.

    A layer takes max(device, host) + synchronisation for one token; both sides are bound by their memory bandwidth.
    Shares of active and hot neurons are inputs: they belong to the model. A batch uses the union of what its tokens
    activate, so prompts and large batches compute almost everything.

    Keys: ``active`` share of the neurons per token, ``hot`` share of them in device memory, ``coverage`` of the
    activations by hot neurons, ``sync`` per layer [s].
    """

    name: str
    keys = ("active", "hot", "coverage", "sync")
    quality = "retains model accuracy (README of SJTU-IPADS/PowerInfer); needs a ReLU-sparse model"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings or Settings("offload", {}))

    @property
    def density(self) -> float:
        """Active neurons that are hot."""
        return self.settings.number("active", high=1.0) * self.settings.number("coverage", high=1.0)

    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """Cold neurons, computed on the host from its memory, which all accelerators of the node share."""
        active, hot, coverage = (self.settings.number(key, high=1.0) for key in ("active", "hot", "coverage"))
        split = NeuronSplit(1.0 - neurons, neurons, active, hot, coverage)
        cold = tuple(one * neurons * (1.0 - hot) for one in weights)
        ranks = min(plan.accelerators, node.accelerators)
        each = active * (1.0 - coverage) / (1.0 - hot) if hot < 1.0 else 0.0
        sync = self.settings.number("sync", 0.0) if each else 0.0
        return NeuronStream(
            overlaps=True, resident=split.held_hot, buffered=(0.0,) * len(weights), cold=cold, active=min(1.0, each),
            rate=node.host_memory_bandwidth / ranks, fixed=tuple(sync * count for count in layers),
        )  # fmt: skip

    def token_seconds(
        self, split: NeuronSplit, layers: int, device_bandwidth: float, host_bandwidth: float, sync: float = 0.0
    ) -> float:
        """Seconds per generated token of a single sequence.

        Parameters
        ----------
        split, layers
            One layer and how many there are.
        device_bandwidth, host_bandwidth
            Reached memory bandwidths [B/s].
        sync
            Hand-over per layer that has cold neurons [s].
        """
        cold = split.read_cold / host_bandwidth
        return layers * (max(split.read_hot / device_bandwidth, cold) + (sync if cold else 0.0))


def flash_rate(chunk: float, peak: float, latency: float, threads: int = 1) -> float:
    """Rate of random reads of ``chunk`` bytes [B/s]: each pays ``latency``, ``threads`` go on at once, up to
    ``peak``."""
    return min(peak, threads * chunk / (latency + chunk / peak))


@register(
    "llm-in-a-flash",
    kind="policy",
    area="serving",
    family="serving_offload",
    cites=("Alizadeh et al. 2023 (LLM in a flash), arXiv 2312.11514",),
    catalogue=("PowerInfer, LLM-in-a-flash, EdgeFM",),
    claims=(
        Claim(
            "models up to twice the memory, 4-5× (CPU) and 20-25× (GPU) faster than naive loading",
            "abstract of arXiv 2312.11514",
        ),
    ),
    validated_by="closed_form",
)
class LLMInAFlash(WeightOffload):
    """Only neurons that newly become active are read from flash; attention stays in memory.

    *Windowing* keeps the neurons of the last tokens, so that a share ``new`` of the active ones has to be read;
    *bundling* stores a neuron's up column and down row together, so that chunks are twice as long.

    Keys: ``active`` share of the neurons per token, ``new`` share of these that the window does not hold, ``chunk``
    bytes of one column or row, ``threads`` that read at once, ``bundled``.
    """

    name: str
    keys = ("active", "new", "chunk", "threads", "bundled")
    quality = "OPT-6.7B with predictor: HellaSwag 49.8 against 50.3 (paperswithcode entry of arXiv 2312.11514)"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings or Settings("offload", {}))
        self.tier = "nvme"

    @property
    def density(self) -> float:
        """Active neurons: no others are computed."""
        return self.settings.number("active", high=1.0)

    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """Newly active neurons, read from the node's drive before they are computed; the window stays in memory."""
        if node.nvme is None:
            raise ConfigError(f"{self.settings.where}: {node.name} has no NVMe to read neurons from")
        active, new = self.density, self.settings.number("new", 1.0, high=1.0)
        chunk = self.settings.number("chunk", 8192.0, low=1.0) * (2 if self.settings.flag("bundled", True) else 1)
        ranks = min(plan.accelerators, node.accelerators)
        threads = self.settings.count("threads", 32, low=1)
        rate = flash_rate(chunk, node.nvme.read, node.nvme.latency, threads) / ranks
        cold = tuple(one * neurons for one in weights)
        return NeuronStream(
            overlaps=False, resident=1.0 - neurons + neurons * active, buffered=(0.0,) * len(weights), cold=cold,
            active=active * new, rate=rate, traffic={"nvme": sum(cold) * active * new},
        )  # fmt: skip

    def token_seconds(
        self, split: NeuronSplit, layers: int, *, new: float, chunk: float, flash: float, latency: float,
        memory_bandwidth: float, bundled: bool = True, threads: int = 1,
    ) -> float:  # fmt: skip
        """Seconds per generated token of a single sequence: flash reads, then the memory-bound pass.

        Parameters
        ----------
        split, layers
            One layer and how many there are; ``coverage`` and ``hot`` are not used.
        new
            Share of the active neurons that the window does not hold, 1 = no window.
        chunk
            Bytes of one column or row [B].
        flash, latency, threads
            Sequential rate [B/s], latency of a read [s], reads at once.
        memory_bandwidth
            Of the memory computed from [B/s].
        """
        rate = flash_rate(chunk * (2 if bundled else 1), flash, latency, threads)
        loaded = split.neurons * split.active * new
        return layers * (loaded / rate + (split.dense + split.neurons * split.active) / memory_bandwidth)
