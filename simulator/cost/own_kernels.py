"""What engines with kernels of their own do in place of the vendor's library, and around it.

llama.cpp of May 2024 (ggml-cuda): few rows are multiplied vector by vector; more go to cuBLAS in fp16 with sums in
fp16, after weights in blocks are written out and fp32 activations are cast, and the sums are cast back. Its graph
passes activations through memory some fourteen times a layer; what the kernel before has just written is often still
in the cache (``cache_bytes``), which other engines' fitted shares contain already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from simulator.constants import Constant, Trust
from simulator.cost.kernels import SUMMED_IN_HALF, VECTOR_ROWS
from simulator.workload.ops import OpKind, Work

if TYPE_CHECKING:
    from simulator.cost.device import DeviceCost

__all__ = ["OWN_KERNELS", "OwnKernels", "by_library", "library_flops", "parts_of_depth"]

OWN_KERNELS = (
    "gemm_share_fp16", "gemm_share_int8", "gemm_share_unpacked", "vector_bytes", "unpack_bytes", "cache_bytes",
)  # fmt: skip
"""Constants of frameworks about their own kernels."""

OLDER_ON_HOPPER = Constant(
    "kernel.older_on_hopper", 0.68, "", 0.15, Trust.MEASURED,
    "446 of 654 TFLOP/s in a product of 8192 cubed on H100: tuned CUTLASS kernels of the generation before against "
    "cuBLAS with Hopper's own instructions (kapilsharma.dev/posts/learn-cutlass-the-hard-way-2); that cuBLAS 12.1 "
    "takes such kernels for sums in fp16 is inferred from prompts of llama.cpp on H100",
)  # fmt: skip
"""Share of the usual compute efficiency of kernels without Hopper's own instructions."""

_CAST_BYTES = 6.0
"""Read in fp32 and written in fp16 before a product, and back after it (``ggml_cuda_op_mul_mat_cublas``)."""

_TILES = ((128, 128), (128, 256), (256, 128))
"""Rows and columns of a thread block of cuBLAS's large kernels (``h16816gemm_128x128``, ``_128x256``, ``_256x128``)."""


def parts_of_depth(work: Work, sm_count: int, tile: tuple[int, int] = _TILES[0]) -> int:
    """Parts in which a library cuts ``k``: as many as leave no more tiles than multiprocessors; 1: it does not."""
    return max(1, sm_count // max(1, _tiles(work, tile)))


def _tiles(work: Work, tile: tuple[int, int]) -> int:
    return math.ceil(work.m / tile[0]) * math.ceil(work.n / tile[1])


def library_flops(work: Work, sm_count: int) -> float:
    """FLOPs that multiprocessors spend on a product of few rows, idle ones included.

    Tiles of the result are rounded up to whole waves; where there are fewer of them than multiprocessors the library
    cuts ``k`` too. The best of three shapes counts.
    """
    if sm_count <= 0 or min(work.m, work.n, work.k) <= 0:
        return work.flops
    best = math.inf
    for tile in _TILES:
        parts = parts_of_depth(work, sm_count, tile)
        waves = math.ceil(_tiles(work, tile) * parts / sm_count)
        best = min(best, 2.0 * waves * sm_count / parts * tile[0] * tile[1] * work.k)
    return max(work.flops, best)


def by_library(work: Work) -> tuple[Work, float, int]:
    """The product that a library takes in fp16, bytes moved to write weights out for it, and the kernels around it.

    Weights in blocks of integers are read as they are and written in fp16 first (``ggml_cuda_op_mul_mat``).
    """
    weights, rest = work.n * work.k, work.m * (work.n + work.k)
    blocks = work.dtype == "int8"
    unpacked = max(0.0, work.bytes - 2.0 * rest) + 2.0 * weights if blocks else 0.0
    product = replace(work, dtype=f"fp16{SUMMED_IN_HALF}", bytes=2.0 * (weights + rest))
    return product, unpacked, 2 + blocks


class OwnKernels:
    """Kernels of an engine for one :class:`~simulator.cost.device.DeviceCost`."""

    def __init__(self, device: DeviceCost) -> None:
        self._device = device

    @cached_property
    def constants(self) -> Mapping[str, Constant]:
        """Those of the engine."""
        framework = self._device.framework
        known = framework.constants if framework is not None else {}
        return {key: known[key] for key in OWN_KERNELS if key in known}

    def goes_to_library(self, work: Work) -> bool:
        """Whether an engine with products of its own leaves this one to the vendor's library."""
        framework = self._device.framework
        rows = framework.library_rows if framework is not None else 0
        return bool(rows) and work.m > rows and work.kind is OpKind.GEMM

    def product(self, work: Work, used: list[str]) -> tuple[Work, float]:
        """The GEMM as the engine runs it, and the time of the passes around it [s]."""
        if not self.goes_to_library(work):
            return work, 0.0
        device, (product, unpacked, kernels) = self._device, by_library(work)
        seconds = sum(self.passing(_CAST_BYTES * work.m * side, used) for side in (work.k, work.n))
        if unpacked:
            unpacking = unpacked / self._rate(used)
            if (most := self.constants.get("unpack_bytes")) is not None:
                unpacking = max(unpacking, self.by_clock(unpacked, device.shared(most, used)))
            seconds += unpacking
        return product, seconds + kernels * device.launch("elementwise.launch", used)

    def passing(self, moved: float, used: list[str]) -> float:
        """Time of a pass over so many bytes [s]; faster where all of them fit in the cache."""
        seconds = moved / self._rate(used)
        if not self.cached(moved):
            return seconds
        return min(seconds, self.by_clock(moved, self._device.shared(self.constants["cache_bytes"], used)))

    def cached(self, moved: float) -> bool:
        """Whether a pass over so many bytes finds them where the kernel before left them."""
        chip = self._device.accelerator
        known = "cache_bytes" in self.constants and chip.sm_count > 0 and chip.boost_clock > 0
        return known and moved <= chip.l2_capacity

    def _rate(self, used: list[str]) -> float:
        return self._device.share("elementwise.memory", used) * self._device.accelerator.memory_bandwidth

    def by_clock(self, moved: float, most: float) -> float:
        """Time in which multiprocessors move so many bytes, each ``most`` per clock [s]; 0 where they are not known."""
        rate = self._device.accelerator.sm_count * self._device.accelerator.boost_clock
        return moved / (most * rate) if rate else 0.0

    def times(self, work: Work, compute: float, memory: float, used: list[str]) -> tuple[float, float]:
        """Compute and memory time [s] in kernels of the engine instead of those the device's curve was fitted on."""
        device = self._device
        if work.dtype.endswith(SUMMED_IN_HALF):
            compute *= library_flops(work, device.accelerator.sm_count) / work.flops
            if device.accelerator.architecture.partition("+")[0] == "hopper":
                compute /= device.shared(OLDER_ON_HOPPER, used)
        for kernels in (work.dtype.removesuffix(SUMMED_IN_HALF), *(["unpacked"] if work.unpacks else [])):
            if (share := self.constants.get(f"gemm_share_{kernels}")) is not None:
                compute /= device.shared(share, used)
        reads, few = self.constants.get("vector_bytes"), work.m <= VECTOR_ROWS
        if reads is not None and few:
            memory = max(memory, self.by_clock(work.bytes, device.shared(reads, used)))
        return compute, memory

    def launched(self, work: Work) -> int:
        """Kernels that the engine launches for one Op.

        A product that goes to the library has its casts, unpacks its weights and adds up the parts of a ``k`` that was
        cut; one that does not has its input quantised first. Attention without a fused kernel is two such products,
        each with a kernel that lists where its heads lie, and a softmax; of single tokens it is three kernels.
        """
        if work.kind is OpKind.ATTENTION:
            framework = self._device.framework
            fused = framework is None or framework.attention_kernel != "unfused"
            return 1 if fused else 3 if work.q_len == 1 else 9
        if work.kind is not OpKind.GEMM:
            return work.kernels
        if not self.goes_to_library(work):
            return 2
        cut = parts_of_depth(work, self._device.accelerator.sm_count) > 1
        return 1 + by_library(work)[2] + cut
