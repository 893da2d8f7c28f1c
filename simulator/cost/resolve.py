"""Finds the constants of a device's cost curves, in order of trust, and says where each came from.

fitted on that device → its best achieved matmul (compute share of GEMMs only) → borrowed from its architecture →
borrowed from the nearest relatives → from 16-bit on the same device → a datasheet default. A borrowed constant gets an
id of the borrowing device and a sigma that adds the spread among the lenders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from simulator.constants import Constant, ConstantSet, Trust
from simulator.hardware.types import Accelerator

__all__ = ["Resolver", "curve_dtype", "fitted_accelerators"]

_FALLBACK = {
    "fp4": "bf16", "int4": "int8", "int8": "bf16", "fp6": "fp8",
    "fp8": "bf16", "bf16": "fp16", "fp16": "tf32", "tf32": "fp32",
}  # fmt: skip
_CURVE = {"fp16": "bf16", "tf32": "bf16", "fp32": "bf16", "fp64": "bf16", "int8": "fp8", "fp6": "fp8", "int4": "fp4"}

SAME_ARCHITECTURE_SIGMA = 0.10
RELATIVE_SIGMA = 0.25
"""What borrowing adds to the lenders' sigmas and their spread: with each device left out, 80 % of its kernels are then
in the interval (benchmarks/fits/intervals.py, docs/decisions/0017-intervals-that-hold.md). Within an
architecture there is often one lender and so no spread: 42 constants of H100 and H200, and of B200 and GB200, differ by
0.09 (root mean square)."""

NEAREST = 3

CAST = "cast"
"""Leaf of the rate at which inputs of a GEMM are made narrow."""

POWER_EXPONENT = 0.24
"""How the sustained rate of products follows the watts per rated FLOP/s: A100 at 400 W reaches 271.2 TFLOP/s, at 300 W
252.9 (stas00/ml-engineering, compute/accelerator: maximum achievable matmul)."""

MOST_ACHIEVED = 0.97
"""Share of the rated FLOP/s that products reach where power is ample: Gaudi 2 in the same table; RTX 4090 reaches 163.5
of 165.2 TFLOP/s in fp16 summed in fp32 (xytpai/gpuk README)."""

ACHIEVED_SIGMA = 0.07
"""Fits of whole sweeps lie -9 to +2 % from the best achieved matmul of the same device (A100, H100, B200, GB200)."""

DATASHEET_SIGMA = 0.4
"""Holds 71-88 % of the kernels of each of nine devices when nobody lends (the same script)."""

_DATASHEET = {
    "gemm.launch": (5e-6, "s"), "gemm.compute": (0.7, ""), "gemm.memory": (0.8, ""), "gemm.sharpness": (2.0, ""),
    "gemm.cached": (1.0, ""), "attention_decode.cached": (1.0, ""),
    "attention_prefill.launch": (12e-6, "s"), "attention_prefill.compute": (0.55, ""),
    "attention_prefill.half_length": (1000.0, "token"),
    "attention_decode.launch": (11e-6, "s"), "attention_decode.memory": (0.8, ""),
    "attention_decode.per_sequence_head": (25e-9, "s"),
    "elementwise.launch": (3e-6, "s"), "elementwise.memory": (0.8, ""), "permute.memory": (0.5, ""),
}  # fmt: skip
_ELEMENTWISE_SOURCE = (
    "ai-dynamo/aiconfigurator systems/*.yaml: memory-bound operators reach 0.8 of the datasheet bandwidth and cost 3 us"
)
_DATASHEET_SOURCE = "datasheet rate with a round share, no measurement of this device or a relative"


def curve_dtype(accelerator: Accelerator, dtype: str) -> str:
    """Name of the efficiency curve for ``dtype``: of the type it is really computed in, fp16 and bf16 being alike."""
    while dtype not in accelerator.peak_flops and dtype in _FALLBACK:
        dtype = _FALLBACK[dtype]
    if f"gemm.{dtype}.compute" in accelerator.efficiency:
        return dtype  # measured in this very type
    return _CURVE.get(dtype, dtype)


@cache
def fitted_accelerators() -> tuple[Accelerator, ...]:
    """The shipped accelerators with measured efficiency curves."""
    from simulator.data import data_root
    from simulator.hardware.profiles import load_accelerator

    folder = data_root() / "hardware_profiles" / "accelerators"
    # Reading the text first spares parsing the profiles that have no curves to lend.
    texts = {p.stem: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.yaml"))}
    # A host processor's curves say nothing about accelerators.
    fitted = [n for n, text in texts.items() if "\nefficiency:" in text and "\narchitecture: cpu\n" not in text]
    return tuple(load_accelerator(name) for name in fitted)


class Resolver:
    """Constants of one accelerator by local key (``gemm.bf16.compute``), resolved when first asked for.

    Parameters
    ----------
    accelerator
        The device.
    relatives
        Devices to borrow from, or a function that gives them (called only when something has to be borrowed).
    """

    def __init__(
        self, accelerator: Accelerator, relatives: Sequence[Accelerator] | Callable[[], Sequence[Accelerator]]
    ) -> None:
        self.accelerator = accelerator
        self.constants = ConstantSet(learnt=accelerator.learnt)
        self._relatives = relatives
        self._ids: dict[str, str] = {}

    def id(self, key: str) -> str:
        """Global id of the constant for ``key``; it is in :attr:`constants` afterwards."""
        known = self._ids.get(key)
        if known is None:
            constant = self._resolve(key)
            self.constants.add(constant)
            known = self._ids[key] = constant.id
        return known

    def add(self, constant: Constant) -> str:
        """Register a constant that does not belong to the device (kernel generation, launch) and return its id."""
        self.constants.add(constant)
        return constant.id

    def has(self, section: str, leaf: str) -> bool:
        """Whether the fit of the curve ``section`` knows ``leaf``: the device's own, or that of one it borrows from."""
        own = [key for key in self.accelerator.efficiency if key.rpartition(".")[0] == section]
        if own:
            return f"{section}.{leaf}" in own
        known = self._relatives() if callable(self._relatives) else self._relatives
        return any(f"{section}.{leaf}" in r.efficiency for r in known if r.name != self.accelerator.name)

    def _resolve(self, key: str) -> Constant:
        device = self.accelerator
        if (own := device.efficiency.get(key)) is not None:
            return own
        family, _, rest = key.partition(".")
        if family == "gemm" and rest.endswith(".compute"):
            achieved = device.efficiency.get(f"max_achievable_matmul.{rest}")
            if achieved is not None:
                return self._achieved(key, achieved)
        return self._borrowed(key) or self._from_16_bit(key) or self._default(key)

    def _achieved(self, key: str, achieved: Constant) -> Constant:
        source = f"best matmul achieved on this device: {achieved.source}"
        name, sigma = f"{self.accelerator.name}.{key}", max(achieved.sigma, ACHIEVED_SIGMA)
        return Constant(name, achieved.value, "", sigma, Trust.FITTED, source)

    def _borrowed(self, key: str) -> Constant | None:
        device, family = self.accelerator, key.partition(".")[0]
        known = self._relatives() if callable(self._relatives) else self._relatives
        lenders = [r for r in known if r.name != device.name and key in r.efficiency]
        if not lenders:
            return None
        same = [r for r in lenders if _base(r) == _base(device)]
        if not same:
            lenders.sort(key=lambda r: (r.vendor != device.vendor, abs(r.year - device.year), r.name))
        chosen = same or lenders[:NEAREST]
        found = [_lent(r.efficiency[key], r, device) for r in chosen]
        if same and family == "gemm" and key.endswith(".compute"):
            found = [_at_power_of(device, c, r, key.split(".")[1]) for c, r in zip(found, chosen, strict=True)]
        mean = math.exp(sum(math.log(c.value) for c in found) / len(found))
        spread = math.sqrt(sum(math.log(c.value / mean) ** 2 for c in found) / len(found))
        extra = SAME_ARCHITECTURE_SIGMA if same else RELATIVE_SIGMA
        sigma = math.sqrt(sum(c.sigma**2 for c in found) / len(found) + spread**2 + extra**2)
        names = ", ".join(r.name for r in chosen)
        how = f"same architecture ({_base(device)})" if same else "nearest relatives by vendor and year"
        powered = ", at the device's power" if found != [r.efficiency[key] for r in chosen] else ""
        source = f"borrowed from {names}: {how}{powered}; geometric mean, sigma widened"
        return Constant(f"{device.name}.{key}", mean, found[0].unit, sigma, Trust.BORROWED, source)

    def _from_16_bit(self, key: str) -> Constant | None:
        """Nobody measured this narrow type: the shares of its peak are taken to be those of 16-bit."""
        parts = key.split(".")
        if parts[1] not in ("fp8", "fp4"):
            return None
        wide = self._resolve(".".join((parts[0], "bf16", *parts[2:])))
        trust = Trust.DATASHEET if wide.trust is Trust.DATASHEET else Trust.BORROWED
        source = f"not measured in {parts[1]}; borrowed from bf16: {wide.source}"
        name, sigma = f"{self.accelerator.name}.{key}", math.hypot(wide.sigma, RELATIVE_SIGMA)
        return replace(wide, id=name, sigma=sigma, trust=trust, source=source)

    def _default(self, key: str) -> Constant:
        parts = key.split(".")
        value, unit = _DATASHEET[f"{parts[0]}.{parts[-1]}"]
        source = _ELEMENTWISE_SOURCE if parts[0] == "elementwise" else _DATASHEET_SOURCE
        return Constant(f"{self.accelerator.name}.{key}", value, unit, DATASHEET_SIGMA, Trust.DATASHEET, source)


def _lent(constant: Constant, lender: Accelerator, borrower: Accelerator) -> Constant:
    """What a lender's constant is on the borrower. Shares of a rate stay; but the kernel that makes an input narrow is
    bound by the multiprocessors where memory is fast (5.1 to 7.9 GB/s for each of them on six devices, which is 0.14 to
    0.87 of the bandwidth): its rate per multiprocessor stays."""
    if not constant.id.endswith(f".{CAST}") or not (lender.sm_count and borrower.sm_count):
        return constant
    per_bandwidth = lender.memory_bandwidth / borrower.memory_bandwidth
    return replace(constant, value=min(1.0, constant.value * per_bandwidth * borrower.sm_count / lender.sm_count))


def _at_power_of(device: Accelerator, share: Constant, lender: Accelerator, dtype: str) -> Constant:
    """The share of the rated FLOP/s that ``lender`` reaches, with the watts per FLOP/s of ``device``.

    Boards of one architecture have their rates from the clock they boost to and sustain what their power allows.
    """
    room = device.power.peak / device.rate(dtype) / (lender.power.peak / lender.rate(dtype))
    value = share.value * room**POWER_EXPONENT
    return replace(share, value=min(value, max(MOST_ACHIEVED, share.value)))


def _base(accelerator: Accelerator) -> str:
    """The chip's architecture without the host processor it is packaged with: ``hopper+grace`` → ``hopper``."""
    return accelerator.architecture.partition("+")[0]
