"""FlexGen: throughput of a zig-zag block schedule over GPU, host memory and disk, and the placement that maximises it.

A block of ``gpu_batch · batches`` sequences goes through a layer before the next layer's weights are touched, so
weights are fetched once per block and layer. Per layer, transfers in both directions and compute run side by side:
T = T_prefill·l + T_decode·(n − 1)·l (Sheng et al. 2023, arXiv 2303.06865, appendix A.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["BlockPolicy", "LayerShape", "LayerTimes", "Tiers", "best_placement", "layer_times", "memory", "throughput"]


@dataclass(frozen=True)
class LayerShape:
    """A layer of the model and the task.

    Attributes
    ----------
    layers
        How many equal layers.
    weights
        Parameters of one layer, in bytes of its 16-bit form [B].
    hidden
        Width of the residual stream.
    kv_per_token
        Keys and values of one token in one layer, 16 bit [B].
    heads
        Query heads, for the scores of a prompt.
    prompt, output
        Tokens in and out per sequence.
    ends
        Embedding and head [B], kept on the device.
    """

    layers: int
    weights: float
    hidden: int
    kv_per_token: float
    heads: int
    prompt: int
    output: int
    ends: float = 0.0


@dataclass(frozen=True)
class Tiers:
    """Rates and sizes of a machine.

    Attributes
    ----------
    gpu, host, disk
        Capacities [B].
    to_gpu
        Host to device, large transfers [B/s].
    cache_to_host, hidden_to_host
        Device to host for the cache (strided) and for hidden states [B/s].
    from_disk, to_disk, cache_to_disk
        [B/s]
    linear_prefill, linear_decode, attention_prefill, attention_decode
        Compute rates of the device [FLOP/s] in the two phases.
    gpu_bandwidth
        Of device memory [B/s]: every device batch reads the layer's weights, and 4-bit tensors are expanded first.
    host_attention
        Rate of decode attention on the host's processors [FLOP/s].
    source
        Where the rates come from.
    """

    gpu: float
    host: float
    disk: float
    to_gpu: float
    cache_to_host: float
    hidden_to_host: float
    from_disk: float
    to_disk: float
    cache_to_disk: float
    linear_prefill: float
    linear_decode: float
    attention_prefill: float
    attention_decode: float
    host_attention: float
    gpu_bandwidth: float
    source: str = ""


@dataclass(frozen=True)
class BlockPolicy:
    """Where everything is, and how big a block is.

    Attributes
    ----------
    gpu_batch, batches
        Sequences of one device batch, and device batches of a block.
    weights, cache, hidden
        Shares on (device, host, disk), each adding up to 1.
    host_attention
        Decode attention over the part of the cache outside the device runs on the host.
    weight_bits, cache_bits
        Bits per number; groups of 64 carry a 16-bit minimum and scale below 16 bit.
    overlap
        Whether transfers and compute run side by side.
    """

    gpu_batch: int
    batches: int
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0)
    cache: tuple[float, float, float] = (1.0, 0.0, 0.0)
    hidden: tuple[float, float, float] = (1.0, 0.0, 0.0)
    host_attention: bool = True
    weight_bits: int = 16
    cache_bits: int = 16
    overlap: bool = True

    @property
    def block(self) -> int:
        """Sequences of a block."""
        return self.gpu_batch * self.batches

    @property
    def weight_scale(self) -> float:
        """Bytes of the stored weights over those of 16 bit."""
        return _scale(self.weight_bits)

    @property
    def cache_scale(self) -> float:
        """Bytes of the stored cache over those of 16 bit."""
        return _scale(self.cache_bits)


EXPANSION = 13.0 / 2.0
"""Bytes that FlexGen's own expansion of 4 bits moves in device memory, over those of the 16-bit result: shift and mask
write temporaries (0.5 read and 0.5 written each, per element), both are copied into a 16-bit tensor (0.5 and 1 each), a
division and an addition go through it in place (2 and 2 each). ``TorchCompressedDevice.decompress`` in compression.py
of FMInference/FlexGen."""

PACKING = 25.5 / 2.0
"""The same for quantising: minimum and maximum (2 each), a difference (4), multiplication, clamping and rounding in
place (4 each), the cast (3), shift and union of the halves (2.5). ``TorchCompressedDevice.compress``, as above."""

STRIDED_EXPANSION, STRIDED_PACKING = 2.0 / 2.0, 0.5 / 2.0
"""What is moved beside that where the halves of a byte are neighbours in memory. A cache is quantised along the width
of a head (``group_dim`` 2 of (tokens, heads, width)), so every second number is written or read, and memory is accessed
by whole sectors: half of what moves is of use (CUDA C++ Best Practices Guide, strided accesses). Weights are
quantised along rows (``group_dim`` 0), whose halves are rows of their own; so are keys when they are packed, which the
prompt leaves transposed."""


def _expansion(whole: float, bits: int, strided: bool = False) -> float:
    """Device memory traffic of turning a quantised tensor of ``whole`` bytes in 16 bit into that form [B]."""
    return 0.0 if bits >= 16 else whole * (EXPANSION + STRIDED_EXPANSION * strided)


def _packing(whole: float, bits: int) -> float:
    """Device memory traffic of quantising a cache of ``whole`` bytes in 16 bit [B]."""
    return 0.0 if bits >= 16 else whole * (PACKING + STRIDED_PACKING)


def _scale(bits: int, group: int = 64) -> float:
    return 1.0 if bits >= 16 else (bits + 32.0 / group) / 16.0


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of one layer over one block, by resource."""

    to_gpu: float
    to_host: float
    from_disk: float
    to_disk: float
    compute: float
    parts: dict[str, float] = field(default_factory=dict, compare=False)

    def seconds(self, overlap: bool) -> float:
        """The slowest resource, or their sum where nothing overlaps."""
        each = (self.to_gpu, self.to_host, self.from_disk, self.to_disk, self.compute)
        return max(each) if overlap else sum(each)


def layer_times(shape: LayerShape, policy: BlockPolicy, tiers: Tiers, *, prefill: bool) -> LayerTimes:
    """Seconds of one layer over one block in prefill, or in one decode step at the mean context."""
    block, tokens = policy.block, shape.prompt if prefill else 1
    weights = shape.weights * policy.weight_scale
    hidden = 2.0 * tokens * shape.hidden * block
    kv, elements = shape.kv_per_token * policy.cache_scale * block, shape.kv_per_token / 2.0
    _, w_host, w_disk = policy.weights
    c_gpu, c_host, c_disk = policy.cache
    _, h_host, h_disk = policy.hidden
    context = shape.prompt + shape.output / 2
    written = kv * (tokens + 1 if prefill else 1)
    read = 0.0 if prefill else kv * context
    # Cache outside the device is read over the link unless its attention runs on the host.
    link_cache = 0.0 if policy.host_attention else (c_host + c_disk) * read
    to_gpu = ((w_host + w_disk) * weights + (h_host + h_disk) * hidden + link_cache) / tiers.to_gpu
    to_host = (h_host + h_disk) * hidden / tiers.hidden_to_host
    if prefill or not policy.host_attention:
        to_host += (c_host + c_disk) * written / tiers.cache_to_host
    from_disk = (w_disk * weights + h_disk * hidden + c_disk * read) / tiers.from_disk
    to_disk = c_disk * written / (tiers.cache_to_disk if prefill else tiers.to_disk) + h_disk * hidden / tiers.to_disk
    linear = block * tokens * shape.weights / (tiers.linear_prefill if prefill else tiers.linear_decode)
    linear = max(linear, policy.batches * shape.weights / tiers.gpu_bandwidth)
    expanded = policy.batches * _expansion(shape.weights, policy.weight_bits)
    if prefill:
        expanded += _packing(shape.kv_per_token * block * tokens, policy.cache_bits)
    else:
        # All the room of a sequence is expanded, however much of it is used by now.
        room = shape.prompt + shape.output - 1
        expanded += _expansion(shape.kv_per_token * block * room, policy.cache_bits, strided=True)
    if prefill:
        attention, on_host = 4.0 * block * shape.prompt**2 * shape.hidden / tiers.attention_prefill, 0.0
    else:
        flops = 2.0 * block * context * elements
        mine = c_gpu if policy.host_attention else 1.0
        attention = mine * flops / tiers.attention_decode
        on_host = (1.0 - mine) * flops / tiers.host_attention
    expansion = expanded / tiers.gpu_bandwidth
    parts = {"linear": linear, "attention": attention, "host_attention": on_host, "expansion": expansion}
    return LayerTimes(to_gpu, to_host, from_disk, to_disk, sum(parts.values()), parts)


def block_seconds(shape: LayerShape, policy: BlockPolicy, tiers: Tiers) -> float:
    """Seconds of one block from the first prompt token to the last output token."""
    prefill = layer_times(shape, policy, tiers, prefill=True).seconds(policy.overlap)
    decode = layer_times(shape, policy, tiers, prefill=False).seconds(policy.overlap)
    return shape.layers * (prefill + decode * (shape.output - 1))


def throughput(shape: LayerShape, policy: BlockPolicy, tiers: Tiers) -> float:
    """Generated tokens per second."""
    return policy.block * shape.output / block_seconds(shape, policy, tiers)


def memory(shape: LayerShape, policy: BlockPolicy) -> tuple[float, float, float]:
    """Peak bytes on device, host and disk.

    Homes of all layers' shares and the working set of one layer: its streamed weights (attention in use while the MLP
    arrives, and the other way round), activations and scores of a prompt batch.
    """
    length = shape.prompt + shape.output
    weights = shape.weights * policy.weight_scale
    cache = shape.kv_per_token * policy.cache_scale * length * policy.block * shape.layers
    hidden = 2.0 * shape.prompt * shape.hidden * policy.block
    homes = [
        weights * shape.layers * w + cache * c + hidden * h
        for w, c, h in zip(policy.weights, policy.cache, policy.hidden, strict=True)
    ]
    homes[0] += shape.ends + weights * (1.0 - policy.weights[0]) + _workspace(shape, policy)
    if policy.host_attention and policy.cache[0] < 1.0:
        homes[1] += shape.kv_per_token * length * policy.gpu_batch * policy.cache[2]
    homes[1] += weights * policy.weights[2]
    return homes[0], homes[1], homes[2]


def _workspace(shape: LayerShape, policy: BlockPolicy) -> float:
    """Activations of one prompt batch in one layer: queries, keys, values, outputs and the scores [B]."""
    tokens = shape.prompt * policy.gpu_batch
    return tokens * shape.hidden * 2.0 * 4.0 + policy.gpu_batch * shape.heads * shape.prompt**2 * 2.0


def best_placement(shape: LayerShape, policy: BlockPolicy, tiers: Tiers) -> BlockPolicy | None:
    """The placement of weights, cache and hidden states with the shortest block, for the block size of ``policy``.

    For a fixed block every time and every memory is linear in the nine shares, so the maxima become inequalities of a
    linear program (arXiv 2303.06865, eq. 1). ``None`` where no placement fits.
    """
    import numpy as np
    from scipy.optimize import linprog

    # Variables: nine shares (w, c, h on device, host, disk), prefill and decode seconds per layer.
    def shares(vector: tuple[float, ...]) -> BlockPolicy:
        return replace(policy, weights=vector[0:3], cache=vector[3:6], hidden=vector[6:9])  # type: ignore[arg-type]

    zero = shares((0.0,) * 9)
    units = [shares(tuple(float(i == j) for j in range(9))) for i in range(9)]
    rows: list[list[float]] = []
    limits: list[float] = []
    for phase, prefill in enumerate((True, False)):
        base = layer_times(shape, zero, tiers, prefill=prefill)
        times = [layer_times(shape, unit, tiers, prefill=prefill) for unit in units]
        for name in ("to_gpu", "to_host", "from_disk", "to_disk", "compute"):
            start = getattr(base, name)
            row = [getattr(one, name) - start for one in times]
            rows.append([*row, *(-1.0 if phase == k else 0.0 for k in (0, 1))])
            limits.append(-start)
    start_memory = memory(shape, zero)
    for tier, capacity in enumerate((tiers.gpu, tiers.host, tiers.disk)):
        row = [memory(shape, unit)[tier] - start_memory[tier] for unit in units]
        rows.append([*(x / 1e9 for x in row), 0.0, 0.0])
        limits.append((capacity - start_memory[tier]) / 1e9)
    sums = [[float(group * 3 <= j < group * 3 + 3) for j in range(9)] + [0.0, 0.0] for group in range(3)]
    found = linprog(
        [*(0.0,) * 9, 1.0, float(shape.output - 1)], A_ub=np.array(rows), b_ub=np.array(limits), A_eq=np.array(sums),
        b_eq=np.ones(3), bounds=[(0.0, 1.0)] * 9 + [(0.0, None)] * 2, method="highs",
    )  # fmt: skip
    return shares(tuple(float(x) for x in found.x[:9])) if found.success else None
