"""Measured behaviour of collectives inside a scale-up domain: curves, fits, and what relatives lend."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import NamedTuple

from simulator.constants import Constant, Trust
from simulator.hardware.types import Accelerator, Curve, NetworkProfile, ScaleUp

__all__ = ["Fit", "Lender", "add_lender", "borrow_fit", "find_fit", "interpolate", "lenders", "nearness", "tuner"]

CURVE_SIGMA = 0.08
BORROWED_SIGMA = 0.2
EXTRAPOLATED_SIGMA = 0.25
INTERPOLATED_SIGMA = 0.1


class Lender:
    """A network profile with measured collectives and the accelerator it was measured on.

    Either may be the name of a shipped one, which is read when it is first looked into.
    """

    def __init__(self, profile: NetworkProfile | str, accelerator: Accelerator | str) -> None:
        self._profile, self._accelerator = profile, accelerator

    @property
    def device(self) -> str:
        """Name of the accelerator."""
        return self._accelerator if isinstance(self._accelerator, str) else self._accelerator.name

    @cached_property
    def profile(self) -> NetworkProfile:
        """What was measured."""
        from simulator.hardware.profiles import load_network

        return load_network(self._profile) if isinstance(self._profile, str) else self._profile

    @cached_property
    def accelerator(self) -> Accelerator:
        """Where."""
        from simulator.hardware.profiles import load_accelerator

        return load_accelerator(self._accelerator) if isinstance(self._accelerator, str) else self._accelerator


class Fit(NamedTuple):
    """t = latency + sqrt·√V + per_byte·V for one operation and number of ranks, V the bytes on the wire."""

    latency: Constant
    sqrt: Constant
    per_byte: Constant


_added: list[Lender] = []


def add_lender(lender: Lender) -> None:
    """Let collectives measured outside the shipped profiles be used as well, in this process."""
    _added[:] = [known for known in _added if known.profile.name != lender.profile.name] + [lender]


def lenders() -> tuple[Lender, ...]:
    """The profiles of collectives inside one scale-up domain: those that were added, then the shipped ones."""
    return (*_added, *_shipped_lenders())


@cache
def _shipped_lenders() -> tuple[Lender, ...]:
    from simulator.data import data_root

    found = []
    for path in sorted((data_root() / "hardware_profiles" / "networks").glob("*.yaml")):
        # Most profiles are plain links, and most that are not are never asked for: a look spares parsing them.
        text = path.read_text(encoding="utf-8")
        device = re.search(r"^accelerator: *([\w.-]+)", text, re.MULTILINE)
        if device and "scope: scale_up" in text:
            found.append(Lender(path.stem, device[1]))
    return tuple(found)


@cache
def tuner() -> NetworkProfile:
    """Constants of NCCL's own cost model."""
    from simulator.hardware.profiles import load_network

    return load_network("nccl-tuner")


def interpolate(curve: Curve, x: float) -> float:
    """Value at ``x``, log-log between the points and constant below the first; ``x`` is at most the last point."""
    at = bisect.bisect_left(curve.x, x)
    if at == 0:
        return curve.seconds[0]
    if at == len(curve.x):
        return curve.seconds[-1]
    low, high = curve.x[at - 1], curve.x[at]
    share = math.log(x / low) / math.log(high / low)
    return float(curve.seconds[at - 1] ** (1 - share) * curve.seconds[at] ** share)


def find_fit(profile: NetworkProfile, operation: str, ranks: int) -> Fit | None:
    """The profile's fit for ``ranks``, between its neighbours, or beyond the largest with latency ∝ log2 n."""
    split = (key.split(".") for key in profile.constants)
    known = sorted(int(p[1]) for p in split if p[0] == operation and p[2:] == ["latency"])
    low = max((n for n in known if n <= ranks), default=None)
    if low is None:
        return None
    below = _fit_at(profile, operation, low)
    if low == ranks:
        return below
    prefix = f"{profile.name}.{operation}.{ranks}"
    high = next((n for n in known if n > ranks), None)
    if high is None:
        growth = math.log2(ranks) / math.log2(low)
        note = f"measured up to {low} ranks; latency grows with log2 n"
        return _derived(below, prefix, (growth, math.sqrt(growth), 1.0), note, EXTRAPOLATED_SIGMA)
    above = _fit_at(profile, operation, high)
    share = math.log(ranks / low) / math.log(high / low)
    factors = [(b.value / a.value) ** share for a, b in zip(below, above, strict=True)]
    return _derived(below, prefix, factors, f"between the fits for {low} and {high} ranks", INTERPOLATED_SIGMA)


def borrow_fit(
    scale_up: ScaleUp, device: Accelerator, known: Sequence[Lender], operation: str, ranks: int
) -> Fit | None:
    """A relative's fit with its bandwidth scaled by the ratio of the links, or None when none is wired alike.

    Relatives share the topology of the scale-up network and in-network reduction; nearest by architecture, then
    vendor, then year.
    """

    def alike(other: ScaleUp) -> bool:
        wired = other.topology == scale_up.topology and other.in_network_reduction == scale_up.in_network_reduction
        return wired and other.link.bandwidth > 0

    chosen = [r for r in known if r.device != device.name and alike(r.accelerator.scale_up)]
    for relative in sorted(chosen, key=lambda r: nearness(r, device)):
        fit = find_fit(relative.profile, operation, ranks)
        if fit is not None:
            ratio = relative.accelerator.scale_up.link.bandwidth / scale_up.link.bandwidth
            note = f"borrowed from {relative.profile.name}, bandwidth scaled by the ratio of the links"
            prefix = f"{device.name}.{operation}.{ranks}"
            return _derived(fit, prefix, (1.0, math.sqrt(ratio), ratio), note, BORROWED_SIGMA)
    return None


def nearness(lender: Lender, device: Accelerator) -> tuple[bool, bool, int, str]:
    """Sort key: same architecture, same vendor, near in years."""
    other = lender.accelerator
    base = device.architecture.partition("+")[0]
    away = other.architecture.partition("+")[0] != base
    return away, other.vendor != device.vendor, abs(other.year - device.year), lender.profile.name


def _fit_at(profile: NetworkProfile, operation: str, ranks: int) -> Fit:
    latency, sqrt, per_byte = (
        profile.constants[f"{operation}.{ranks}.{leaf}"] for leaf in ("latency", "sqrt", "per_byte")
    )
    return Fit(latency, sqrt, per_byte)


def _derived(fit: Fit, prefix: str, factors: Sequence[float], note: str, extra: float) -> Fit:
    """``fit`` scaled, under ids of the borrower, with a wider sigma."""
    latency, sqrt, per_byte = (
        replace(
            constant,
            id=f"{prefix}.{constant.id.rpartition('.')[2]}",
            value=constant.value * factor,
            sigma=math.hypot(constant.sigma, extra),
            trust=Trust.BORROWED,
            source=f"{note}: {constant.source}",
        )
        for constant, factor in zip(fit, factors, strict=True)
    )
    return Fit(latency, sqrt, per_byte)
