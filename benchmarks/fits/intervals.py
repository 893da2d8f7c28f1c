"""Fits of how wide the intervals of kernels have to be, from timings of aiconfigurator-core (extra ``measured``).

sections
    Relative sigmas of every fitted curve of the shipped profiles and of its launch, with which 80 % of the timings of
    that device lie inside the 80 % interval. Written into hardware_profiles/accelerators, where nothing else sets them.
grouped
    The sigma that expert kernels need beyond that of the GEMM curve.
same, relative
    What borrowing adds (SAME_ARCHITECTURE_SIGMA, RELATIVE_SIGMA of simulator/cost/resolve.py). Each device is left out
    of the lenders; the value is chosen on the other devices, and the share inside is that of the device left out.
datasheet, beyond
    DATASHEET_SIGMA, with nobody to borrow from; BEYOND_SIGMA, outside the sizes of a table.
report
    The share inside with the constants as they stand.

    python benchmarks/fits/intervals.py sections|grouped|same|relative|datasheet|beyond|report
"""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import simulator.cost.device as device_module
import simulator.cost.resolve as resolve
from benchmarks.fits.kernel_timings import call, measured
from simulator.calibration import aiconfigurator
from simulator.calibration.coverage import FEWEST, MOST, Spread, beyond, borrowed, fitted, spread, tabled, widening
from simulator.calibration.fitting import LEAST, SHORT, STEP, two_sigmas
from simulator.calibration.holdout import by_key
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import Row
from simulator.cost.kernels import expert_spread
from simulator.cost.resolve import fitted_accelerators
from simulator.data import data_root
from simulator.hardware.types import Accelerator

LOOKED_AT = 1200
"""Timings of a section that its sigmas are taken from."""

GRID = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)


def everything(make: Callable[[Sequence[Row], Accelerator], list[Spread]]) -> list[Spread]:
    return [one for device in aiconfigurator.devices() for one in make(*measured(device))]


def sections() -> None:
    """Sigmas of each fitted section and of its launch; 80 % of the timings of its own device are then inside. They are
    written into the profiles."""
    for device in aiconfigurator.devices():
        name = aiconfigurator.ACCELERATORS[device]
        for section, (sigma, launch_sigma) in sigmas_of(device).items():
            print(f"{name} {section} sigma: {sigma:.3f}, launch_sigma: {launch_sigma:.3f}", flush=True)
            write(data_root() / "hardware_profiles" / "accelerators" / f"{name}.yaml", section, sigma, launch_sigma)


def write(path: Path, section: str, sigma: float, launch_sigma: float) -> None:
    """Replace the sigmas of one section of a profile."""
    head = rf"(\n  {re.escape(section)}:\n[^\n]*?) sigma: [\d.]+, launch_sigma: [\d.]+,"
    text, count = re.subn(
        head, rf"\1 sigma: {sigma:.3f}, launch_sigma: {launch_sigma:.3f},", path.read_text(encoding="utf-8")
    )
    if count != 1:
        raise SystemExit(f"{path.name}: {section} has {count} places for sigmas")
    path.write_text(text, encoding="utf-8")


def sigmas_of(device: str) -> dict[str, tuple[float, float]]:
    """Sigma and launch sigma of every fitted section. Prices of one section may hang on another (prefill reads memory
    as decode does), so all start from the linear ones and are then taken down in turn."""
    rows, accelerator = measured(device)
    cost = DeviceCost(replace(accelerator, kernel_table=""))
    picked: dict[str, tuple[list[Row], Any]] = {}
    found: dict[str, tuple[float, float]] = {}
    for key, some in sorted(by_key(rows).items()):
        section = key.removesuffix(".forward")
        own = [name.rpartition(".")[2] for name in accelerator.efficiency if name.rpartition(".")[0] == section]
        if not own:
            continue
        mine = random.Random(0).sample(list(some), min(LOOKED_AT, len(some)))
        launch, body = slopes(mine, cost, f"{accelerator.name}.{section}", own)
        deviation = np.array([r.seconds / cost.price(r.work).seconds - 1 for r in mine])
        picked[section], found[section] = (mine, launch > SHORT), two_sigmas(deviation, launch, body)
        accelerator = with_sigmas(accelerator, section, *found[section])
    for section, (mine, short) in picked.items():
        held = holding(mine, accelerator, section, short, *found[section])
        found[section] = min(found[section][0], held[0]), min(found[section][1], held[1])
        accelerator = with_sigmas(accelerator, section, *found[section])
    return found


def with_sigmas(accelerator: Accelerator, section: str, sigma: float, launch_sigma: float) -> Accelerator:
    """The device with these sigmas of one section."""
    moved = {
        key: replace(c, sigma=launch_sigma if key.endswith(".launch") else sigma)
        for key, c in accelerator.efficiency.items()
        if key.rpartition(".")[0] == section
    }
    return replace(accelerator, efficiency={**accelerator.efficiency, **moved})


def holding(
    rows: Sequence[Row], accelerator: Accelerator, section: str, short: Any, sigma: float, launch_sigma: float
) -> tuple[float, float]:
    """The sigmas with which 80 % of long kernels, then of short ones, are inside the interval as it is really stated: a
    share that is halved doubles a time, so to first order the sigmas of wide curves come out too large. (They are only
    taken down by it: a share of 1 cannot rise, and no sigma covers what is faster than that.)"""
    picked = random.Random(0).sample(range(len(rows)), min(2 * MOST, len(rows)))
    long = [rows[i] for i in picked if not short[i]]
    brief = [rows[i] for i in picked if short[i]]
    for _ in range(3):
        if len(long) >= FEWEST:
            sigma = max(LEAST, sigma * stated(long, accelerator, section, sigma, launch_sigma).factor)
        if len(brief) >= FEWEST:
            factor = stated(brief, accelerator, section, sigma, launch_sigma).factor
            launch_sigma = max(LEAST, launch_sigma * factor)
            sigma = sigma if len(long) >= FEWEST else launch_sigma
    return sigma, launch_sigma


def stated(rows: Sequence[Row], accelerator: Accelerator, section: str, sigma: float, launch_sigma: float) -> Spread:
    """Deviations and widths with these sigmas of the section."""
    moved = replace(with_sigmas(accelerator, section, sigma, launch_sigma), kernel_table="")
    return spread(rows, DeviceCost(moved), accelerator.name, section)


def slopes(rows: Sequence[Row], cost: DeviceCost, section: str, leaves: Sequence[str]) -> tuple[Any, Any]:
    """Relative change of every price with that of the launch, and of the other constants in quadrature."""
    base = np.array([cost.price(r.work).seconds for r in rows])
    found = {}
    for leaf in leaves:
        moved = cost.moved({f"{section}.{leaf}": 1 - STEP})
        found[leaf] = (np.array([moved.price(r.work).seconds for r in rows]) / base - 1) / STEP
    body = np.sqrt(sum(found[leaf] ** 2 for leaf in leaves if leaf != "launch"))
    return np.abs(found["launch"]), body


def grouped() -> None:
    """Sigma to add to the GEMM curve's for expert kernels, by architecture."""
    found: dict[tuple[str, str], list[float]] = {}
    vars(device_module)["expert_spread"] = lambda architecture, dtype: replace(
        expert_spread(architecture, dtype), sigma=0.0
    )
    for device in aiconfigurator.devices():
        rows, accelerator = measured(device)
        mine = [r for r in rows if r.work.kind == "grouped_gemm"]
        for one in fitted(mine, accelerator, fitted_accelerators()):
            extra, kind = needed(one), one.key.split(".")[1]
            found.setdefault((accelerator.architecture.partition("+")[0], kind), []).append(extra)
            print(f"{one.device} {one.key}: {extra:.2f}, bias {np.median(one.deviation):+.0%}")
    for (architecture, kind), some in sorted(found.items()):
        print(f"{architecture} {kind}: {statistics.median(some):.2f}")
    for dtype in sorted({kind for _, kind in found}):
        every = [extra for (_, kind), some in found.items() for extra in some if kind == dtype]
        print(f"elsewhere {dtype}: {statistics.median(every):.2f}")


def needed(one: Spread) -> float:
    """Sigma that has to be added in quadrature."""
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        enough = widening(one.deviation, np.hypot(one.sigma, middle)) <= 1.0
        low, high = (low, middle) if enough else (middle, high)
    return high


def outside() -> None:
    """Sigma to add outside the sizes of a table, for every device and kind of kernel."""
    with patch.object(device_module, "BEYOND_SIGMA", 0.0):
        found = everything(beyond)
    for one in found:
        print(f"{one.device} {one.key}: {len(one.deviation)} kernels, {needed(one):.2f}")
    print(f"median {statistics.median(needed(one) for one in found):.2f}")


def scan(module: Any, name: str, make: Callable[[Sequence[Row], Accelerator], list[Spread]]) -> None:
    """Mean share inside for each value of a constant, and the share for each device with the value of the others."""
    shares: dict[str, dict[float, float]] = {}
    before = getattr(module, name)
    for value in GRID:
        setattr(module, name, value)
        by_device: dict[str, list[float]] = {}
        for one in everything(make):
            if not one.key.startswith("grouped_gemm"):
                by_device.setdefault(one.device, []).append(one.inside)
        for device, some in by_device.items():
            shares.setdefault(device, {})[value] = statistics.mean(some)
        print(f"{name} {value:.2f}: {statistics.mean(s[value] for s in shares.values()):.0%} inside")
    setattr(module, name, before)
    for device, mine in shares.items():
        others = [s for d, s in shares.items() if d != device]
        best = min(GRID, key=lambda v: abs(statistics.mean(s[v] for s in others) - 0.8))
        print(f"  {device}: {best:.2f} from the others, {mine[best]:.0%} inside (was {mine.get(before, np.nan):.0%})")


def alike(accelerator: Accelerator) -> list[Accelerator]:
    """Other devices of the same architecture."""
    base = accelerator.architecture.partition("+")[0]
    return [a for a in fitted_accelerators() if a.name != accelerator.name and a.architecture.partition("+")[0] == base]


def lent(rows: Sequence[Row], accelerator: Accelerator, same: bool) -> list[Spread]:
    """Borrowed from devices of the same architecture, or from the others."""
    near = alike(accelerator)
    lenders = near if same else [a for a in fitted_accelerators() if a not in near]
    dtypes = {key.split(".")[1] for a in lenders for key in a.efficiency if key.startswith("gemm.")}
    mine = [r for r in rows if r.work.dtype in dtypes]
    return borrowed(mine, accelerator, lenders) if lenders else []


def report() -> None:
    relatives = fitted_accelerators()
    makers: dict[str, Callable[[Sequence[Row], Accelerator], list[Spread]]] = {
        "fitted curve": lambda r, a: fitted(r, a, relatives), "borrowed": lambda r, a: borrowed(r, a, relatives),
        "datasheet": lambda r, a: borrowed(r, a, ()), "table, inside": tabled, "table, outside": beyond,
    }  # fmt: skip
    for what, make in makers.items():
        found = everything(make)
        for family in ("", "gemm.bf16", "gemm.fp8", "attention_prefill", "attention_decode", "grouped_gemm"):
            some = [one for one in found if one.key.startswith(family)]
            if some:
                inside = statistics.mean(one.inside for one in some)
                sigma = statistics.median(float(np.median(one.sigma)) for one in some)
                name = family or "all"
                print(f"{what:15s} {name:18s} {inside:4.0%} inside, sigma {sigma:.2f}, {len(some)} kinds")


if __name__ == "__main__":
    call(
        {
            "sections": sections, "grouped": grouped, "report": report,
            "same": lambda: scan(resolve, "SAME_ARCHITECTURE_SIGMA", lambda r, a: lent(r, a, True)),
            "relative": lambda: scan(resolve, "RELATIVE_SIGMA", lambda r, a: lent(r, a, False)),
            "datasheet": lambda: scan(resolve, "DATASHEET_SIGMA", lambda r, a: borrowed(r, a, ())),
            "beyond": outside,
        }
    )  # fmt: skip
