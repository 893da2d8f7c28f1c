"""FlexGen as a planner: from a model and a machine to the block schedule with the highest throughput."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from simulator.errors import ConfigError
from simulator.hardware.types import Node
from simulator.registry import Claim, register
from simulator.strategies.serving_offload.block_schedule import (
    BlockPolicy,
    LayerShape,
    Tiers,
    best_placement,
    memory,
    throughput,
)
from simulator.strategies.serving_offload.streaming import WeightStream
from simulator.strategies.serving_offload.weights import WeightOffload, host_bandwidth
from simulator.strategies.settings import Settings
from simulator.workload.counting import layer_parameters, parameters
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["GOOGLE_CLOUD_T4", "FlexGen", "layer_shape", "tiers_of"]

_GIB = float(1 << 30)

GOOGLE_CLOUD_T4 = Tiers(
    gpu=15 * _GIB,
    host=204 * _GIB,
    disk=1500 * _GIB,
    to_gpu=12.89 * _GIB,
    cache_to_host=0.97 * _GIB,
    hidden_to_host=4.82 * _GIB,
    from_disk=2e9,
    to_disk=1e9,
    cache_to_disk=1e9,
    linear_prefill=21.24e12,
    linear_decode=4.3e12,
    attention_prefill=9.97e12,
    attention_decode=0.079e12,
    host_attention=0.0123e12,
    gpu_bandwidth=0.8 * 320e9,
    source=(
        "link and compute rates: FlexGen's own fit of its machine, class CostModelConfig in cost_model.py of "
        "FMInference/FlexGen; disk: 2 GB/s read and 1 GB/s write, arXiv 2303.06865 section 6; memory: 0.8 of the "
        "T4's 320 GB/s"
    ),
)
"""The machine of FlexGen's published rows."""


def layer_shape(model: ModelSpec, prompt: int, output: int) -> LayerShape:
    """Shape of a model whose layers are all alike.

    Raises
    ------
    ValueError
        If the layers differ, or are not multi-head or grouped-query attention.
    """
    (layer, count), *rest = model.layers
    mixer = layer.attention
    if rest or mixer is None or mixer.kind != "full":
        raise ValueError(f"{model.name}: the block schedule needs equal layers with full attention")
    each = float(layer_parameters(layer, model.hidden_size))
    return LayerShape(
        layers=count,
        weights=2.0 * each,
        hidden=model.hidden_size,
        kv_per_token=2.0 * mixer.num_key_value_heads * (mixer.head_dim + mixer.v_head_dim),
        heads=mixer.num_attention_heads,
        prompt=prompt,
        output=output,
        ends=2.0 * (parameters(model) - count * each),
    )


def tiers_of(node: Node, *, compute: float = 0.6, decode: float = 0.1) -> Tiers:
    """Rates of one accelerator of a node from its profile.

    Parameters
    ----------
    node
        Where.
    compute, decode
        Shares of the 16-bit peak that prompts and single tokens reach. Decode attention is bound by memory: 2 FLOPs
        per 2-byte element, on the device and on the host.
    """
    device = node.accelerator
    link, peak = device.host_link.achievable, device.peak("fp16")
    read = node.nvme.read if node.nvme else 1.0
    write = node.nvme.write if node.nvme else 1.0
    return Tiers(
        gpu=device.memory_usable,
        host=node.host_memory,
        disk=node.nvme.capacity if node.nvme else 0.0,
        to_gpu=link,
        cache_to_host=link,
        hidden_to_host=link,
        from_disk=read,
        to_disk=write,
        cache_to_disk=write,
        linear_prefill=compute * peak,
        linear_decode=decode * peak,
        attention_prefill=compute * peak,
        attention_decode=device.memory_bandwidth,
        host_attention=node.host_memory_bandwidth,
        gpu_bandwidth=0.8 * device.memory_bandwidth,
        source=(
            f"profile of {node.name}: link and disk rates, {compute:.0%} and {decode:.0%} of the peak, "
            "memory bandwidths"
        ),
    )


@register(
    "flexgen",
    kind="planner",
    area="serving",
    family="serving_offload",
    cites=("Sheng et al. 2023 (FlexGen), arXiv 2303.06865",),
    catalogue=("FlexGen",),
    claims=(
        Claim(
            "T4-16GB, 208 GB host, 1.5 TB SSD, 512 tokens in, 32 out: OPT-6.7B / 30B / 175B 25.26 / 7.32 / 0.69 tok/s "
            "at batch 2 / 144 / 256, with 4 bits 29.12 / 8.38 / 1.12 at 72 / 512 / 144",
            "README of FMInference/FlexGen; placements from its benchmark suite",
        ),
        Claim("decoding alone 38.28 / 11.52 / 0.83 tok/s on the same machine and batches", "arXiv 2303.06865 table 3"),
    ),
    validated_by="published",
)
class FlexGen(WeightOffload):
    """Search over block sizes, with the placement of each found by linear programming.

    In a deployment the placement is given: keys ``weights`` and ``cache``, their shares in device memory, and
    ``weight_bits``. Weights come once for a whole batch, and the rest of the cache is read beside them over the same
    link; a batch as large as ``max_num_seqs`` is the block of the zig-zag schedule.
    """

    name: str
    keys = ("weights", "cache", "weight_bits", "tier")
    quality = (
        "exact in 16 bit; 4-bit weights and cache: OPT-30B Lambada 0.725 → 0.724, WikiText perplexity 12.72 → 12.90; "
        "OPT-175B 0.758 → 0.756, 10.82 → 10.94 (arXiv 2303.06865 table 5)"
    )

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings or Settings("offload", {}))

    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """Weights and keys and values outside the device, overlapped with its computation."""
        resident, cache = (self.settings.number(key, 1.0, high=1.0) for key in ("weights", "cache"))
        scale = self.settings.number("weight_bits", 16.0, low=1.0, high=16.0) / 16.0
        ranks = min(plan.accelerators, node.accelerators)
        link = host_bandwidth(node, ranks)
        per_byte = 1.0 / link
        if self.tier == "nvme":
            if node.nvme is None:
                raise ConfigError(f"{self.settings.where}.tier: {node.name} has no NVMe, use tier: host")
            per_byte = max(per_byte, ranks / node.nvme.read)
        moved = [one * scale * (1.0 - resident) / plan.data_parallel for one in weights]
        traffic = {"host": sum(moved)} | ({"nvme": sum(moved)} if self.tier == "nvme" else {})
        two = tuple(
            2.0 * one * scale / max(1, n) if resident < 1.0 else 0.0 for one, n in zip(weights, layers, strict=True)
        )
        return WeightStream(
            tuple(one * per_byte for one in moved), True, traffic, resident * scale, two, cache, link
        )  # fmt: skip

    def evaluate(self, shape: LayerShape, policy: BlockPolicy, tiers: Tiers) -> tuple[float, str]:
        """Generated tokens per second, and an empty reason or what does not fit."""
        names = ("device", "host", "disk")
        for name, used, capacity in zip(names, memory(shape, policy), (tiers.gpu, tiers.host, tiers.disk), strict=True):
            if used > capacity:
                return 0.0, f"{name} memory: {used / 1e9:.1f} GB of {capacity / 1e9:.1f} GB"
        return throughput(shape, policy, tiers), ""

    def search(
        self,
        shape: LayerShape,
        tiers: Tiers,
        start: BlockPolicy,
        gpu_batches: Iterable[int] = (1, 2, 4, 8, 16, 32, 48, 64),
        batches: Iterable[int] = (1, 2, 3, 4, 6, 8, 12),
    ) -> list[tuple[BlockPolicy, float]]:
        """Placements for all block sizes, fastest first; ``start`` carries bits and where attention runs."""
        counts = tuple(batches)
        found = []
        for size in gpu_batches:
            for count in counts:
                policy = best_placement(shape, replace(start, gpu_batch=size, batches=count), tiers)
                if policy is not None:
                    found.append((policy, throughput(shape, policy, tiers)))
        return sorted(found, key=lambda item: -item[1])
