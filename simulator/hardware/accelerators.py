"""Reads ``hardware_profiles/accelerators/*.yaml``.

What a type needs and a profile leaves out is filled by a rule stated here, and listed in ``estimated``.
"""

from __future__ import annotations

from pathlib import Path

from simulator.constants import Constant
from simulator.hardware.fields import (
    HOST_LATENCY,
    HOST_LATENCY_RULE,
    Origin,
    read_constants,
    read_estimated,
    read_link,
    read_name,
    read_price,
    read_scale_up,
)
from simulator.hardware.power_profile import ACTIVE_SHARE, COMPUTE_SHARE, MEMORY_SHARE
from simulator.hardware.reader import Reader
from simulator.hardware.types import Accelerator, Link, PowerProfile, ScaleUp

__all__ = ["DTYPES", "read_accelerator"]

DTYPES = (
    "fp64", "fp64_tensor", "fp32", "fp32_tensor", "tf32", "bf16", "fp16", "fp16_half", "fp8", "fp6", "int8", "fp4",
    "int4",
)  # fmt: skip

CURVE_LEAVES = {
    "launch": "time", "compute": "ratio", "memory": "ratio", "sharpness": "number", "half_length": "number:token",
    "per_sequence_head": "time", "achieved": "compute_rate", "sustained": "ratio", "accumulated": "ratio",
    "between": "time", "between_recorded": "time", "cast": "ratio", "cached": "number", "unaligned": "number",
}  # fmt: skip
"""Parameters of the efficiency curves. ``achieved`` is a rate, kept as ``compute`` = achieved / peak; ``sustained`` is
the share of the clock in a short benchmark that compute units keep for hours, under the power limit; ``accumulated``
the share of that which a GEMM keeps that adds to a matrix in fp32. ``between`` (of
``sequence``) is the time from one kernel of a model to the next where the host itself computes, ``between_recorded``
the same where autograd records. ``cast`` is the share of the bandwidth at which the input of a narrow GEMM is made,
``cached`` how many times the memory's bandwidth a cache gave a benchmark, and ``unaligned`` how many times as long a
grouped GEMM takes whose widths are no multiple of 16."""

IDLE_SHARE = 0.10
USABLE_SHARE = 0.99
USABLE_SHARE_INLINE_ECC = 15 / 16
WATTS_PER_TERAFLOPS = 0.7

IDLE_RULE = "10 % of peak power (H100 70 of 700 W, A100 60 of 400 W)"
USABLE_RULE = "99 % of the marketed figure read as GiB (H100 79.6 of 80, GB300 284 of 288)"
USABLE_RULE_ECC = "15/16 of the marketed figure read as GiB: GDDR6 keeps its ECC bits in the same memory"
TERM_SHARES = {"active": ACTIVE_SHARE, "compute": COMPUTE_SHARE, "memory": MEMORY_SHARE}
TERM_RULE = "the usual share of peak minus idle power (simulator/hardware/power_profile.py)"
POWER_RULE = "not published; 0.7 W per dense bf16 TFLOP/s, the median of the accelerators of this list"
HOST_RULE = "not published; PCIe x16 of the year (gen 3 before 2020, 4 before 2022, then 5)"

_PCIE_BY_YEAR = ((2020, "pcie3-x16", 15.75e9), (2022, "pcie4-x16", 31.5e9), (9999, "pcie5-x16", 63e9))


def read_accelerator(reader: Reader, stem: str) -> Accelerator:
    """One accelerator; errors are recorded in ``reader.issues``."""
    estimated = read_estimated(reader)
    name, year = read_name(reader, stem), reader.integer("year", least=1990)
    peak_flops = _peak_flops(reader)
    capacity, usable, bandwidth, l2, memory_type = _memory(reader, estimated)
    accelerator = Accelerator(
        name=name,
        vendor=reader.text("vendor"),
        architecture=reader.text("architecture"),
        year=year,
        peak_flops=peak_flops,
        memory_capacity=capacity,
        memory_usable=usable,
        memory_bandwidth=bandwidth,
        scale_up=read_scale_up(reader, estimated) or ScaleUp(Link("none", 0.0, 0.0), 1, "none"),
        host_link=_host_link(reader, year, estimated),
        power=_power(reader, peak_flops, estimated),
        sm_count=reader.integer("sm_count", 0),
        l2_capacity=l2,
        boost_clock=reader.quantity("boost_clock", "frequency", 0.0),
        price=read_price(reader),
        efficiency=_efficiency(reader, name, peak_flops),
        sources=reader.texts("sources"),
        notes=reader.text("notes", ""),
        memory_type=memory_type,
        estimated=estimated,
        kernel_table=_kernel_table(reader),
    )
    if not accelerator.sources:
        reader.error("'sources' is missing: say where the figures come from", "sources")
    reader.finish()
    return accelerator


def _kernel_table(reader: Reader) -> str:
    """Path of the measured kernels, which lie beside the profile."""
    name = reader.text("kernel_table", "")
    if not name:
        return ""
    path = Path(reader.node.file).resolve().parent / name
    if not path.is_file():
        reader.error(f"there is no file '{name}' beside the profile", "kernel_table")
    return str(path)


def _peak_flops(reader: Reader) -> dict[str, float]:
    section = reader.section("peak_flops", required=True)
    if section is None:
        return {"bf16": 1.0}
    peaks = {dtype: section.quantity(dtype, "compute_rate") for dtype in DTYPES if dtype in section}
    section.finish(also=DTYPES)
    if not peaks.keys() & {"bf16", "fp16"}:
        section.error("needs the dense peak of bf16 or fp16: the other 16-bit type falls back to it")
    return peaks


def _memory(reader: Reader, estimated: dict[str, str]) -> tuple[float, float, float, float, str]:
    """Capacity and usable [B], bandwidth [B/s], last-level cache [B] and type.

    Vendors' "80 GB" of HBM are 80 GiB of cells, so the usable figure can exceed 80·10⁹ B.
    """
    section = reader.section("memory", required=True)
    if section is None:
        return 1.0, 1.0, 1.0, 0.0, ""
    kind = section.text("type", "")
    capacity = section.quantity("capacity", "data")
    usable = section.optional("usable", "data")
    if usable is None:
        inline_ecc = kind == "GDDR6"
        estimated["memory.usable"] = USABLE_RULE_ECC if inline_ecc else USABLE_RULE
        usable = capacity / 1e9 * 2**30 * (USABLE_SHARE_INLINE_ECC if inline_ecc else USABLE_SHARE)
    if usable > capacity / 1e9 * 2**30:
        section.error("is more than the capacity, even with its GB read as GiB", "usable")
    bandwidth, l2 = section.quantity("bandwidth", "bandwidth"), section.quantity("l2", "data", 0.0)
    section.finish()
    return capacity, usable, bandwidth, l2, kind


def _host_link(reader: Reader, year: int, estimated: dict[str, str]) -> Link:
    section = reader.section("host_link")
    if section is None:
        estimated["host_link"] = HOST_RULE
        _, name, bandwidth = next(entry for entry in _PCIE_BY_YEAR if year < entry[0])
        return Link(name, bandwidth, HOST_LATENCY)
    link = read_link(section, HOST_LATENCY, estimated, HOST_LATENCY_RULE)
    section.finish()
    return link


def _power(reader: Reader, peaks: dict[str, float], estimated: dict[str, str]) -> PowerProfile:
    section = reader.section("power")
    idle = section.optional("idle", "power") if section else None
    peak = section.optional("peak", "power") if section else None
    terms = {key: section.optional(key, "power") if section else None for key in TERM_SHARES}
    if section:
        section.finish()
    if peak is None:
        estimated["power.peak"] = POWER_RULE
        peak = WATTS_PER_TERAFLOPS * peaks.get("bf16", peaks.get("fp16", 0.0)) / 1e12
    if idle is None:
        estimated["power.idle"] = IDLE_RULE
        idle = IDLE_SHARE * peak
    if section and idle > peak:
        section.error("idle power is above peak power", "idle")
    for key, share in TERM_SHARES.items():
        if terms[key] is None:
            estimated[f"power.{key}"], terms[key] = TERM_RULE, share * max(0.0, peak - idle)
    return PowerProfile(idle, peak, **{key: watts for key, watts in terms.items() if watts is not None})


def _efficiency(reader: Reader, name: str, peaks: dict[str, float]) -> dict[str, Constant]:
    """Constants of the cost curves; a share above 1 would be faster than the roofline and is refused."""
    section = reader.section("efficiency")
    if section is None:
        return {}
    constants: dict[str, Constant] = {}
    for local, constant in read_constants(section, name, Origin(), CURVE_LEAVES).items():
        head, _, leaf = local.rpartition(".")
        if leaf == "achieved":
            dtype = head.rpartition(".")[2]
            if dtype not in peaks:
                section.error(f"'{dtype}' has no peak_flops to compare the achieved rate with", head)
                continue
            key = f"{head}.compute"
            value = constant.value / peaks[dtype]
            constant = Constant(f"{name}.{key}", value, "", constant.sigma, constant.trust, constant.source)
            local, leaf = key, "compute"
        if leaf in ("compute", "memory", "cast") and not 0 < constant.value <= 1:
            section.error(f"'{leaf}' must be above 0 and at most 1 of the datasheet rate", head)
        if leaf == "sharpness" and constant.value < 1:
            section.error("'sharpness' must be at least 1: below, the time would exceed the sum of its parts", head)
        constants[local] = constant
    return constants
