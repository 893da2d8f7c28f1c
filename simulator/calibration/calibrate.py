"""``fmsim calibrate``: measure a device, fit its curves, write its profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulator.calibration.cases import all_cases
from simulator.calibration.fitting import CurveFit, peaks_of
from simulator.calibration.host import HostFigures, host_figures
from simulator.calibration.passes import Machine
from simulator.calibration.profile import Provenance, today, write_accelerator, write_gloo, write_node
from simulator.calibration.ranks import calibrate_ranks
from simulator.calibration.runner import Outcome, run_cases
from simulator.calibration.sequence import SequenceFit, fit_sequence
from simulator.calibration.timing import the_clock
from simulator.calibration.torch_setup import DeviceInfo, device_info, keep_pages
from simulator.data import data_root
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Accelerator

__all__ = ["Calibration", "calibrate", "reference_to"]

RANKS = 2
RANK_SHARE = 0.35
"""Share of the budget for the processes that split a CPU."""

SEQUENCE_SHARE = 0.1
"""Share of what is left of the budget for the time between kernels of a CPU."""

FULL_BUDGET = 180.0
"""Seconds of kernels that measure every case of a CPU in full; with less, the grid is thinned."""


@dataclass
class Calibration:
    """What one calibration made.

    Attributes
    ----------
    name, folder
        Of the profile.
    fits
        Curves by profile and section.
    host
        Copies, disk, power.
    sequence
        Time between the kernels of models, on a CPU.
    outcome
        Measured kernels, and what is missing.
    left_out
        Everything that was not measured, one line each.
    files
        What was written.
    """

    name: str
    folder: Path
    info: DeviceInfo
    outcome: Outcome
    host: HostFigures
    sequence: SequenceFit | None = None
    fits: dict[str, Mapping[str, CurveFit]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def calibrate(
    device: str,
    folder: Path,
    budget: float = 120.0,
    name: str = "",
    base: str = "",
    resume: bool = False,
    ranks: int = RANKS,
    clock: str = "wall",
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
) -> Calibration:
    """Run the microbenchmarks on ``device`` and write a profile into ``folder``.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    folder
        Gets ``accelerators/``, ``nodes/`` and ``networks/``, as ``hardware_profiles/`` has them.
    budget
        Seconds in all.
    name
        Of the profile; made from the device's own name when empty.
    base
        Shipped accelerator whose datasheet figures hold for this device; found by name when empty. CPUs have none.
    resume
        Go on from the partial table of an interrupted run.
    ranks
        CPU only: processes that share it, for a second profile of one of them and for collectives. Below 2: none.
    clock
        ``wall``, or ``cpu`` for one thread on a machine that others use too.

    Raises
    ------
    ConfigError
        If PyTorch or the device is missing, or no datasheet is known for an accelerator.
    """
    info = device_info(device)
    keep_pages()
    timer = the_clock(clock, info.threads)
    name = name or info.slug
    datasheet = _datasheet(info, base)
    together = info.kind == "cpu" and ranks > 1 and (os.cpu_count() or 1) >= ranks
    own = budget * (1 - RANK_SHARE if together else 1.0)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial.csv"
    host = host_figures(device, folder, seconds=min(5.0, own / 10))
    density = max(0.25, min(1.0, own / FULL_BUDGET))
    machine = Machine(device)
    outcome = run_cases(
        all_cases(device, density), device, own * (0.9 - SEQUENCE_SHARE), partial, resume, progress, timer,
        machine=machine,
    )  # fmt: skip
    result = Calibration(name, folder, info, outcome, host, left_out=[*outcome.report(), *host.left_out])
    if outcome.interrupted:
        result.left_out.append(f"interrupted: {len(outcome.rows)} kernels are in {partial}, go on with --resume")
        result.files = [partial]
        return result
    if len(outcome.rows) < 20:
        raise ConfigError(f"only {len(outcome.rows)} kernels were measured in {budget:g} s: give more --budget")
    provenance = Provenance(f"fmsim calibrate --device {info.kind}", _described(info, clock), today())
    result.fits[name] = write_accelerator(folder, name, outcome.rows, info, provenance, host, datasheet)
    result.files = [folder / "accelerators" / f"{name}.yaml", folder / "accelerators" / f"{name}.csv.gz"]
    if info.kind == "cpu":
        peak = peaks_of(outcome.rows).flops.get("fp32", 0.0)
        write_node(folder, name, reference_to(folder, name), 1, info, provenance, host, peak)
        node = load_node(str(folder / "nodes" / f"{name}.yaml"))
        result.sequence = fit_sequence(node, device, own * SEQUENCE_SHARE, clock, progress, machine)
        write_accelerator(folder, name, outcome.rows, info, provenance, host, sequence=result.sequence)
        result.files.append(folder / "nodes" / f"{name}.yaml")
    if together:
        _ranks(result, ranks, budget * RANK_SHARE, density, provenance)
    partial.unlink(missing_ok=True)
    return result


def _described(info: DeviceInfo, clock: str) -> str:
    return info.describe() + (", seconds of processor time" if clock == "cpu" else "")


def _ranks(result: Calibration, ranks: int, budget: float, density: float, provenance: Provenance) -> None:
    """Second profile: one of several processes that share the CPU, and the collectives between them."""
    name, folder, info, host = f"{result.name}-rank", result.folder, result.info, result.host
    try:
        found = calibrate_ranks(ranks, budget, density / 2)
    except ConfigError as error:
        result.left_out.append(f"ranks and collectives: {error}")
        return
    result.left_out += [f"ranks: {line}" for line in found.kernels.report()]
    result.left_out += [f"collective {name} over gloo: {reason}" for name, reason in found.failed.items()]
    result.fits[name] = write_accelerator(folder, name, found.kernels.rows, info, provenance, host, ranks=ranks)
    write_node(folder, name, reference_to(folder, name), ranks, info, provenance, host)
    network = f"gloo-{result.name}"
    if found.curves:
        write_gloo(folder, network, name, found.curves, ranks, provenance)
        result.files.append(folder / "networks" / f"{network}.yaml")
    result.files += [folder / "accelerators" / f"{name}.yaml", folder / "nodes" / f"{name}.yaml"]


def reference_to(folder: Path, name: str) -> str:
    """How a node names an accelerator of ``folder``: by name where the simulator finds it, by path elsewhere."""
    shipped = (data_root() / "hardware_profiles").resolve()
    return name if folder.resolve() == shipped else str((folder / "accelerators" / f"{name}.yaml").resolve())


def _datasheet(info: DeviceInfo, base: str) -> Accelerator | None:
    from simulator.hardware.profiles import accelerator_names, load_accelerator

    if base:
        return load_accelerator(base)
    if info.kind == "cpu":
        return None
    words = info.slug.split("-")
    alike = [n for n in accelerator_names() if n.split("-")[0] in words]
    alike.sort(key=lambda n: abs(load_accelerator(n).memory_usable - info.memory))
    if not alike:
        raise ConfigError(f"no datasheet is shipped for '{info.name}': name the nearest accelerator with --base")
    return load_accelerator(alike[0])
