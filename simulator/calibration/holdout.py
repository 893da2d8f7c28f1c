"""How well a few points predict the rest: held-out errors, learning curves, and devices nobody measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.calibration.fitting import CurveFit, Peaks, fit_curves
from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import KernelTable, Row, coordinates
from simulator.cost.sensitivity import Z80
from simulator.hardware.types import Accelerator
from simulator.workload.ops import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "HeldOut", "Rows", "by_key", "enough_points", "held_out", "learning_curve",
    "leave_one_device_out", "measured_cost", "sample", "share_lines",
]  # fmt: skip

Rows = Iterable[Row] | Mapping[str, Sequence[Row]]
"""Timings, or timings by the key of their kernel table, which are not grouped again."""

Costs = Callable[[Sequence[Work]], "NDArray[np.float64]"]
"""Seconds of some works."""

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST_TESTED = 1500
FEWEST = 30
SECONDS_UNITS = {"launch": "s", "per_sequence_head": "s", "half_length": "token"}


@dataclass(frozen=True)
class HeldOut:
    """Errors of |predicted/measured − 1| on points that were not used.

    Attributes
    ----------
    device, key
        Device and kind of kernel.
    used, tested
        Points in the profile, and points it was judged on.
    profile, curve, roofline
        Median errors of table and curve together, of the curve alone, and of max(FLOPs/peak, bytes/bandwidth).
    p90
        90th percentile of the profile's.
    held
        Share of the points inside the measured sizes that lie in the 80 % interval of the profile's price.
    """

    device: str
    key: str
    used: int
    tested: int
    profile: float
    p90: float
    curve: float
    roofline: float
    held: float

    def row(self) -> dict[str, Any]:
        """For a table."""
        names = ("device", "key", "used", "tested", "profile", "p90", "curve", "roofline", "held")
        return {name: getattr(self, name) for name in names}


def sample(rows: Rows, share: float, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """A random ``share`` of the rows of every key, and the others."""
    used, rest = _split(rows, share, seed)
    return [row for mine in used.values() for row in mine], [row for mine in rest.values() for row in mine]


def _split(rows: Rows, share: float, seed: int) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    generator = np.random.Generator(np.random.PCG64(seed))
    used: dict[str, list[Row]] = {}
    rest: dict[str, list[Row]] = {}
    for key, mine in by_key(rows).items():
        count = min(len(mine), max(8, round(share * len(mine))))
        chosen = set(generator.choice(len(mine), count, replace=False).tolist())
        used[key] = [row for index, row in enumerate(mine) if index in chosen]
        rest[key] = [row for index, row in enumerate(mine) if index not in chosen]
    return used, rest


def by_key(rows: Rows) -> Mapping[str, Sequence[Row]]:
    """Rows by the key of their kernel table; what is grouped stays as it is."""
    if isinstance(rows, Mapping):
        return rows
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(coordinates(row.work)[0], []).append(row)
    return found


def constants_of(name: str, fits: Mapping[str, CurveFit], source: str) -> dict[str, Constant]:
    """The fitted constants as an accelerator holds them."""
    found = {}
    for section, fit in fits.items():
        for leaf, value in fit.constants.items():
            local = f"{section}.{leaf}"
            unit = SECONDS_UNITS.get(leaf, "")
            sigma = fit.launch_sigma if leaf == "launch" else fit.sigma
            found[local] = Constant(f"{name}.{local}", value, unit, sigma, Trust.FITTED, source)
    return found


def measured_cost(rows: Sequence[Row], accelerator: Accelerator) -> tuple[Costs, Costs, Costs]:
    """Seconds by table and curve, and by the curve alone, of a profile made from ``rows``; and the relative sigma of
    the former, NaN outside the measured sizes."""
    fits = fit_curves(rows, Peaks(dict(accelerator.peak_flops), accelerator.memory_bandwidth, accelerator.sm_count))
    efficiency = constants_of(accelerator.name, fits, f"fit to {len(rows)} points")
    device = DeviceCost(replace(accelerator, efficiency=efficiency, kernel_table=""), None, None, ())
    table = KernelTable(rows, device.curve)
    curve = _each(device.curve)

    def profile(works: Sequence[Work]) -> NDArray[np.float64]:
        factors = [found.factor if found is not None else 1.0 for found in table.corrections(works)]
        seconds: NDArray[np.float64] = np.maximum(curve(works) * factors, _each(device.floor)(works))
        return seconds

    def sigma(works: Sequence[Work]) -> NDArray[np.float64]:
        found = table.corrections(works)
        return np.array([one.sigma if one is not None and one.inside else np.nan for one in found])

    return profile, curve, sigma


def _each(seconds: Callable[[Work], float]) -> Costs:
    return lambda works: np.array([seconds(work) for work in works])


def held_out(
    rows: Rows, accelerator: Accelerator, share: float = 0.1, seed: int = 0, most: int = MOST_TESTED
) -> list[HeldOut]:
    """Profile from ``share`` of the rows, judged on (``most`` of) the others, by kind of kernel."""
    used, rest = _split(rows, share, seed)
    profile, curve, sigma = measured_cost([row for mine in used.values() for row in mine], accelerator)
    device = DeviceCost(replace(accelerator, efficiency={}, kernel_table=""), None, None, ())
    found = []
    for key, mine in sorted(rest.items()):
        tested = mine[:: max(1, len(mine) // most)]
        if len(tested) < FEWEST:
            continue
        works, seconds = [row.work for row in tested], np.array([row.seconds for row in tested])
        predicted, widths = profile(works), Z80 * sigma(works)
        errors, judged = np.abs(predicted / seconds - 1), np.isfinite(widths)
        held = np.abs(seconds / predicted - 1)[judged] <= widths[judged]
        found.append(
            HeldOut(
                accelerator.name, key, len(used[key]), len(tested), float(np.median(errors)),
                float(np.quantile(errors, 0.9)), float(np.median(_errors(tested, curve))),
                float(np.median(_errors(tested, _each(lambda work: device.floor(replace(work, near=0.0)))))),
                float(held.mean()) if len(held) else float("nan"),
            )
        )  # fmt: skip
    return found


def _errors(rows: Sequence[Row], predict: Costs) -> NDArray[np.float64]:
    seconds = np.array([row.seconds for row in rows])
    errors: NDArray[np.float64] = np.abs(predict([row.work for row in rows]) / seconds - 1)
    return errors


def learning_curve(
    rows: Rows, accelerator: Accelerator, shares: Sequence[float] = SHARES, seed: int = 0
) -> list[dict[str, Any]]:
    """Median error on unused points against how many were used, by kind of kernel."""
    groups, table = by_key(rows), list[dict[str, Any]]()
    for share in shares:
        table += [{"share": share, **h.row()} for h in held_out(groups, accelerator, share, seed, MOST_TESTED // 5)]
    return table


def enough_points(curve: Sequence[Mapping[str, Any]], target: float = 0.06) -> dict[str, int | None]:
    """Fewest points of each kind with a median error of at most ``target``; None where none of the shares is enough."""
    found: dict[str, int | None] = {}
    for row in sorted(curve, key=lambda r: r["used"]):
        key = str(row["key"])
        if found.setdefault(key, None) is None and row["profile"] <= target:
            found[key] = int(row["used"])
    return found


def share_lines(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """The learning curve in words: median over devices of the median error, by kind of kernel and share of points."""
    kinds: dict[str, dict[float, list[float]]] = {}
    for row in curve:
        kind = str(row["key"]).removesuffix(".forward")
        kinds.setdefault(kind, {}).setdefault(float(row["share"]), []).append(float(row["profile"]))
    return [
        f"{kind}: " + ", ".join(f"{share:.0%} of the points {np.median(e):.1%}" for share, e in sorted(mine.items()))
        for kind, mine in sorted(kinds.items())
    ]


def leave_one_device_out(
    rows: Rows, accelerator: Accelerator, relatives: Sequence[Accelerator]
) -> list[dict[str, Any]]:
    """Error of a device about which only the datasheet is known: every curve is borrowed from its relatives."""
    others = [r for r in relatives if r.name != accelerator.name]
    bare = replace(accelerator, efficiency={}, kernel_table="")
    device = DeviceCost(bare, None, None, others)
    table = []
    for key, mine in sorted(by_key(rows).items()):
        tested = mine[:: max(1, len(mine) // MOST_TESTED)]
        if len(tested) < FEWEST:
            continue
        errors = _errors(tested, _each(lambda work: device.price(work).seconds))
        table.append(
            {
                "device": accelerator.name, "key": key, "tested": len(tested), "borrowed": float(np.median(errors)),
                "p90": float(np.quantile(errors, 0.9)),
            }
        )  # fmt: skip
    return table
