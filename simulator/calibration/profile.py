"""Writes a measured profile: an accelerator and a node that scenarios can name, with the raw table beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from simulator.calibration.fitting import CurveFit, Peaks, fit_curves, peaks_of
from simulator.calibration.host import HostFigures
from simulator.calibration.sequence import SequenceFit
from simulator.calibration.torch_setup import DeviceInfo
from simulator.cost.kernel_table import Row, write_rows
from simulator.hardware.types import Accelerator

__all__ = ["Provenance", "efficiency_lines", "today", "write_accelerator", "write_gloo", "write_node"]

_UNITS = {"launch": "us", "per_sequence_head": "ns"}
_SCALE = {"us": 1e6, "ns": 1e9}


@dataclass(frozen=True)
class Provenance:
    """Where a profile comes from: the verb that made it, the device, and the day."""

    verb: str
    description: str
    date: str

    def __str__(self) -> str:
        return f"{self.verb} {self.date}: {self.description}"


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def efficiency_lines(fits: Mapping[str, CurveFit], source: str) -> list[str]:
    """The ``efficiency`` section of a profile."""
    lines = ["efficiency:"]
    for name, fit in sorted(fits.items()):
        figures = ", ".join(f"{key}: {_figure(key, value)}" for key, value in fit.constants.items())
        note = f"{source}; {fit.points} points, median error {fit.median_error:.1%}, p90 {fit.p90_error:.0%}"
        sigmas = f"sigma: {fit.sigma:.3f}, launch_sigma: {fit.launch_sigma:.3f}"
        lines += [f"  {name}:", f"    {{{figures}, {sigmas}, trust: fitted,", f'     source: "{note}"}}']
    return lines


def _figure(key: str, value: float) -> str:
    unit = _UNITS.get(key)
    return f"{value:.4g}" if unit is None else f"{value * _SCALE[unit]:.4g} {unit}"


def write_accelerator(
    folder: Path,
    name: str,
    rows: Sequence[Row],
    info: DeviceInfo,
    provenance: Provenance,
    host: HostFigures,
    base: Accelerator | None = None,
    ranks: int = 1,
    sequence: SequenceFit | None = None,
) -> dict[str, CurveFit]:
    """Fit ``rows`` and write ``accelerators/NAME.yaml`` and its table; the fits are returned.

    Parameters
    ----------
    base
        A shipped profile of the same device, whose datasheet figures the fits refer to. Without one (a CPU), peaks are
        the highest rates measured.
    ranks
        How many such devices the machine is cut into.
    sequence
        Time between the kernels of models, where the device is its own host.
    """
    peaks = peaks_of(rows) if base is None else Peaks(dict(base.peak_flops), base.memory_bandwidth)
    fits = fit_curves(rows, peaks, own_host=base is None)
    target = folder / "accelerators"
    target.mkdir(parents=True, exist_ok=True)
    table = f"{name}.csv.gz"
    write_rows(target / table, rows)
    lines = _processor_lines(name, info, peaks, host, ranks) if base is None else _based_lines(name, base)
    lines += [f"kernel_table: {table}", *efficiency_lines(fits, str(provenance))]
    if sequence is not None and (sequence.between or sequence.between_recorded):
        lines += [
            "  sequence:", f"    {{between: {sequence.between * 1e6:.4g} us, "
            f"between_recorded: {sequence.between_recorded * 1e6:.4g} us, sigma: {max(0.01, sequence.spread):.3f}, "
            f'trust: fitted,\n     source: "{provenance}; {len(sequence.probes)} small models, beyond their kernels"}}',
        ]  # fmt: skip
    lines += ["sources:", f'  - "{provenance}"']
    if base is None:
        lines += _processor_notes(ranks)
    else:
        lines += [f'  - "datasheet figures of {base.name}: {source}"' for source in base.sources[:2]]
    (target / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return fits


def _processor_lines(name: str, info: DeviceInfo, peaks: Peaks, host: HostFigures, ranks: int) -> list[str]:
    memory = info.memory / ranks
    rates = dict(peaks.flops)
    if not rates.keys() & {"bf16", "fp16"}:  # ranks are measured in fp32 only, and a profile needs a 16-bit rate
        rates["bf16"] = rates["fp32"]
    idle, peak = host.idle_power / ranks, host.peak_power / ranks
    power = (
        f"power: {{idle: {idle:.4g} W, peak: {peak:.4g} W}}"
        if idle == idle
        else f"power: {{idle: {50 / ranks:.4g} W, peak: {200 / ranks:.4g} W}}"
    )
    return [
        f"name: {name}", f"vendor: {info.vendor}", "architecture: cpu", f"year: {datetime.now(UTC).year}",
        "peak_flops: # the highest rates measured, 2 % above",
        *(f"  {dtype}: {rate / 1e9:.4g} GFLOP/s" for dtype, rate in sorted(rates.items())),
        f"memory: {{type: host, capacity: {memory / 2**30:.4g} GiB, usable: {memory / 2**30:.4g} GiB, "
        f"bandwidth: {peaks.bandwidth / 1e9:.4g} GB/s}}",
        f"scale_up: {{name: shared-memory, bandwidth: {host.host_bandwidth / 1e9:.4g} GB/s, latency: 20 us, "
        f"domain: {ranks}, topology: {'switch' if ranks > 1 else 'none'}}}",
        f"host_link: {{name: host-memory, bandwidth: {host.host_bandwidth / 1e9:.4g} GB/s, latency: 1 us}}",
        power,
    ]  # fmt: skip


def _processor_notes(ranks: int) -> list[str]:
    cut = f"; one of {ranks} equal shares of the machine, measured while the others were as busy" if ranks > 1 else ""
    return [
        "estimated:",
        '  peak_flops.bf16: "where it was not measured: the rate of fp32"',
        '  memory.bandwidth: "highest rate of any measured kernel, caches included, so that no price falls below it"',
        '  power.idle: "where the counters cannot be read: a server processor at rest"',
        '  power.peak: "where the counters cannot be read: a server processor under load"',
        '  scale_up.latency: "gloo over the loopback device"',
        f'notes: "kernel times include their dispatch from Python; use with framework pytorch-eager-cpu{cut}"',
    ]


def _based_lines(name: str, base: Accelerator) -> list[str]:
    up, host = base.scale_up, base.host_link
    return [
        f"name: {name}", f"vendor: {base.vendor}", f"architecture: {base.architecture}", f"year: {base.year}",
        "peak_flops:", *(f"  {dtype}: {rate / 1e12:.6g} TFLOP/s" for dtype, rate in base.peak_flops.items()),
        f"sm_count: {base.sm_count}",
        f"memory: {{type: {base.memory_type or 'HBM'}, capacity: {base.memory_capacity / 1e9:.6g} GB, "
        f"usable: {base.memory_usable / 2**30:.6g} GiB, bandwidth: {base.memory_bandwidth / 1e9:.6g} GB/s}}",
        f"scale_up: {{name: {up.link.name}, bandwidth: {up.link.bandwidth / 1e9:.6g} GB/s, "
        f"efficiency: {up.link.efficiency:.4g}, latency: {up.link.latency * 1e6:.4g} us, domain: {up.domain}, "
        f"topology: {up.topology}, in_network_reduction: {str(up.in_network_reduction).lower()}}}",
        f"host_link: {{name: {host.name}, bandwidth: {host.bandwidth / 1e9:.6g} GB/s, "
        f"efficiency: {host.efficiency:.4g}, latency: {host.latency * 1e6:.4g} us}}",
        f"power: {{idle: {base.power.idle:.6g} W, peak: {base.power.peak:.6g} W}}",
    ]  # fmt: skip


def write_node(
    folder: Path,
    name: str,
    accelerator: str,
    count: int,
    info: DeviceInfo,
    provenance: Provenance,
    host: HostFigures,
    cpu_flops: float = 0.0,
) -> None:
    """Write ``nodes/NAME.yaml``: the machine with ``count`` of ``accelerator`` (a name, or the path of a file)."""
    target = folder / "nodes"
    target.mkdir(parents=True, exist_ok=True)
    lines = [
        f"name: {name}", f"accelerator: {accelerator}", f"accelerators: {count}",
        "nic: {link: dcn100, count: 1}",
        f"host_memory: {info.memory / 2**30:.4g} GiB",
        f"host_memory_bandwidth: {host.host_bandwidth / 1e9:.4g} GB/s",
    ]  # fmt: skip
    if not math.isnan(host.disk_read) and not math.isnan(host.disk_write):
        rates = f"read: {host.disk_read / 1e9:.4g} GB/s, write: {host.disk_write / 1e9:.4g} GB/s"
        lines += [f"nvme: {{capacity: 100 GB, {rates}}}"]
    if cpu_flops > 0:
        lines += [f"cpu_flops: {cpu_flops / 1e9:.4g} GFLOP/s"]
    lines += ["power_overhead: 50 W", "sources:", f'  - "{provenance}"', "estimated:"]
    lines += ['  power_overhead: "fans and mainboard of a small server"', '  nvme.capacity: "not measured"']
    lines += ['  nic: "not measured; a 100 Gb/s port"']
    (target / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_gloo(
    folder: Path,
    name: str,
    accelerator: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    ranks: int,
    provenance: Provenance,
) -> None:
    """Write ``networks/NAME.yaml``: measured collectives of ``ranks`` processes, (bytes, seconds) by operation."""
    target = folder / "networks"
    target.mkdir(parents=True, exist_ok=True)
    best = max(size / seconds for points in curves.values() for size, seconds in points)
    lines = [
        f"name: {name}", "scope: scale_up", f"accelerator: {accelerator}",
        f"link: {{bandwidth: {1.02 * best / 1e9:.4g} GB/s, latency: 20 us}}", "curves:",
    ]  # fmt: skip
    for operation, points in curves.items():
        xs = ", ".join(f"{size:.0f} B" for size, _ in points)
        ys = ", ".join(f"{seconds * 1e6:.5g}" for _, seconds in points)
        lines += [f"  {operation}:", f"    bytes: [{xs}]", "    unit: us", f"    {ranks}: [{ys}]"]
    lines += ["sources:", f'  - "{provenance}"']
    (target / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
