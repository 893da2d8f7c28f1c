"""Seconds of attention kernels.

prefill, training
    t = t0 + max(F / (e_f·P) · max(1 + L½ / L, waves) · d'/d, Q / (e_b·BW)): F executed FLOPs, L the keys the last query
    runs over, waves the loss of a grid that does not fill the device, d' the head size rounded up to a grid of 32. With
    few heads the block of rows that sees all keys takes longer than a device's even share: then it is the bound.
    The device's fit belongs to the best kernel of its time; earlier generations are slower by published ratios.
prompts without a fused kernel (``unfused``)
    A product that writes all scores, masked ones too, a softmax that passes over them, and a product that reads them.
    Training lowers these kernels one by one.
decode (at most 8 query tokens per sequence)
    t = t0 + kv bytes / (e_b·BW) + c·sequences·kv_heads, or the FLOPs where they take longer than the cache reads
    (absorbed latent attention; grouped queries on processors, whose profiles have a share of their own for it): affine
    in the summed context for a fixed batch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from simulator.constants import Constant, Trust
from simulator.cost.kernels import attention_longest_block, attention_waves
from simulator.cost.priced import Bound, Priced
from simulator.cost.resolve import curve_dtype
from simulator.workload.ops import OpKind, Work

if TYPE_CHECKING:
    from simulator.cost.device import DeviceCost

__all__ = ["BACKWARD", "DECODE_TOKENS", "Attention", "DecodeCoefficients"]

DECODE_TOKENS = 8
"""Query tokens per sequence up to which the decode kernels are used (verification of drafts included)."""

HEAD_GRID = 32

FA2 = "FlashAttention-2, arXiv 2307.08691"
FA3 = "FlashAttention-3, arXiv 2407.08608"

BACKWARD = Constant(
    "attention.backward", 63 / 73, "", 0.10, Trust.FITTED,
    f"best backward over best forward share of the A100 peak, 63 % and 73 %: {FA2}",
)  # fmt: skip
FLASH_1 = Constant("attention.flash-1", 0.5, "", 0.15, Trust.FITTED, f"25-40 % of the A100 peak against 50-73 %: {FA2}")
FLASH_2_HOPPER = Constant(
    "attention.flash-2.hopper", 1 / 1.75, "", 0.15, Trust.FITTED, f"1.5-2.0 times slower than version 3 on H100: {FA3}"
)
PAGED = Constant(
    "attention.paged", 1 / 1.23, "", 0.05, Trust.FITTED,
    "paged kernel 20-26 % slower than FasterTransformer's contiguous one: vLLM, arXiv 2309.06180 section 7.1",
)  # fmt: skip

TRITON_SINKS = Constant(
    "attention.triton_sinks", 0.20, "", 0.3, Trust.FITTED,
    "benchmarks/fits/sinks.py: 4 durations of gpt-oss with prompts of 32,000 tokens on A100, vLLM 0.11 (GPUStack "
    "performance lab), median error 3 %; one source. A generic Triton kernel reaches 0.197 (arXiv 2511.11581)",
)  # fmt: skip
"""Speed of the unified Triton kernel of vLLM over FlashAttention-2: a program computes 16 rows of queries and heads, 2
queries of gpt-oss, and reads all their keys for them."""

_BEFORE_HOPPER = ("volta", "turing", "ampere", "ada")


class DecodeCoefficients(NamedTuple):
    """Decode attention takes constant + per_sequence·batch + per_context_token·total_context [s]."""

    constant: float
    per_sequence: float
    per_context_token: float


class Attention:
    """Prices attention for one :class:`~simulator.cost.device.DeviceCost`."""

    def __init__(self, device: DeviceCost) -> None:
        self._device = device

    def price(self, work: Work) -> Priced:
        """Time of one attention Op."""
        if 0 < work.q_len <= DECODE_TOKENS and work.q_len < work.kv_len and not work.backward:
            return self._decode(work)
        framework = self._device.framework
        if framework is not None and framework.attention_kernel == "unfused" and not work.backward:
            return self._unfused(work)
        return self._prefill(work)

    def _unfused(self, work: Work) -> Priced:
        """Scores in memory: two products and a softmax between them."""
        device, keys, depth = self._device, max(1, round(key_length(work))), work.head_dim
        rows = work.batch * work.heads * work.q_len
        scores = float(rows * keys)
        moved = 2.0 * (scores + rows * depth + work.batch * work.kv_heads * keys * depth)
        product = Work(OpKind.GEMM, work.dtype, 2.0 * scores * depth, moved, rows, keys, depth)
        wide = device.framework is not None and device.framework.operators_apart
        softmax = Work(OpKind.ELEMENTWISE, "fp32", 5.0 * scores, (8.0 if wide else 4.0) * scores)
        parts = [device.price(one) for one in (product, softmax, replace(product, n=depth, k=keys))]
        bound = max(parts, key=lambda part: part.seconds).bound
        used = [name for part in parts for name in part.constants]
        return device.priced(work, sum(part.seconds for part in parts), bound, used)

    def _generation(self, used: list[str]) -> float:
        """Speed relative to the best kernel of the device's time."""
        framework = self._device.framework
        if framework is None or framework.attention_kernel in ("flash-3", "unfused"):
            return 1.0
        older = self._older
        factor = 1.0
        if not older and self._device.accelerator.vendor == "nvidia":
            factor *= self._device.shared(FLASH_2_HOPPER, used)
        if framework.attention_kernel in ("flash-1", "paged"):
            factor *= self._device.shared(FLASH_1, used)
        return min(1.0, factor)

    @property
    def _older(self) -> bool:
        return self._device.accelerator.architecture.partition("+")[0] in _BEFORE_HOPPER

    def _prefill(self, work: Work) -> Priced:
        device, used = self._device, list[str]()
        accelerator = device.accelerator
        curve = f"attention_prefill.{curve_dtype(accelerator, work.dtype)}"
        rate = device.share(f"{curve}.compute", used) * self._generation(used) * accelerator.rate(work.dtype)
        if work.backward:
            rate *= min(1.0, device.shared(BACKWARD, used))
        if work.sinks and self._older and device.framework is not None and device.framework.sinks_by_triton:
            rate *= device.shared(TRITON_SINKS, used)
        loss = attention_waves(work, accelerator.sm_count)
        length = key_length(work)
        if length > 0:
            loss = max(loss, 1.0 + device.value(f"{curve}.half_length", used) / length)
        longest = attention_longest_block(work, length, accelerator.architecture) * accelerator.sm_count
        compute = max(work.flops * loss, longest) * self._padding(work) / rate
        decode = f"attention_decode.{curve_dtype(accelerator, work.dtype)}"
        memory = work.bytes / (device.share(f"{decode}.memory", used) * accelerator.memory_bandwidth)
        launch = device.launch(f"{curve}.launch", used)
        body = max(compute, memory)
        bound: Bound = "launch" if launch > body else "compute" if compute >= memory else "memory"
        return device.priced(work, launch + body, bound, used)

    @staticmethod
    def _padding(work: Work) -> float:
        if work.head_dim <= 0:
            return 1.0
        return math.ceil(work.head_dim / HEAD_GRID) * HEAD_GRID / work.head_dim

    def _decode(self, work: Work) -> Priced:
        device, used = self._device, list[str]()
        constant, per_sequence, per_token = self.decode_coefficients(work, used)
        context = work.batch * work.kv_len
        body = per_token * context
        seconds = constant + per_sequence * work.batch + body
        bound: Bound = "memory" if body > constant + per_sequence * work.batch else "launch"
        if bound == "memory" and self._decode_slopes(work, [])[0] < self._decode_slopes(work, [])[1]:
            bound = "compute"
        return device.priced(work, seconds, bound, used)

    def decode_coefficients(self, work: Work, used: list[str] | None = None) -> DecodeCoefficients:
        """Coefficients for the sizes of ``work``; ids of the constants are appended to ``used``."""
        used = [] if used is None else used
        device, accelerator = self._device, self._device.accelerator
        curve = f"attention_decode.{curve_dtype(accelerator, work.dtype)}"
        launch = device.launch(f"{curve}.launch", used)
        per_head = device.value(f"{curve}.per_sequence_head", used)
        other = max(0.0, work.bytes - _kv_bytes(work)) / max(1, work.batch)
        per_sequence = other * device.reading(work, curve, used) + per_head * max(1, work.kv_heads)
        return DecodeCoefficients(launch, per_sequence, max(self._decode_slopes(work, used)))

    def _decode_slopes(self, work: Work, used: list[str]) -> tuple[float, float]:
        """Seconds per token of context by memory and by compute."""
        device, accelerator = self._device, self._device.accelerator
        dtype = curve_dtype(accelerator, work.dtype)
        pace = device.reading(work, f"attention_decode.{dtype}", used)
        framework = device.framework
        if framework is not None and framework.attention_kernel == "paged":
            pace /= min(1.0, device.shared(PAGED, used))
        context = max(1.0, work.batch * work.kv_len)
        memory = _kv_bytes(work) * pace / context
        own = f"attention_decode.{dtype}.compute"
        compute = own if own in accelerator.efficiency else f"attention_prefill.{dtype}.compute"
        rate = device.share(compute, used) * accelerator.rate(work.dtype)
        return memory, work.flops / rate / context


def _kv_bytes(work: Work) -> float:
    """Bytes of keys and values read: all but the queries and outputs, which are 16-bit activations."""
    return max(0.0, work.bytes - 2 * 2.0 * work.batch * work.q_len * work.heads * work.head_dim)


def key_length(work: Work) -> float:
    """Keys that the last query runs over [tokens], recovered from the executed FLOPs; 0 when sizes are missing.

    F = 4·batch·heads·head_dim·q·(mean context), and a causal triangle's mean lies q/2 below its longest row.
    """
    unit = 4.0 * work.batch * work.heads * work.head_dim * work.q_len
    if unit <= 0:
        return work.kv_len
    context = work.flops / (2.5 if work.backward else 1.0) / unit
    return context + work.q_len / 2 if work.causal else context
