"""How many measured kernels lie inside the 80 % interval of their price, and how wide it has to be.

The deviation of a kernel is measured/predicted − 1; its sigma on that side comes from the constants of the price, moved
one by one as :func:`~simulator.cost.sensitivity.interval` does. An interval holds if 80 % of the deviations are
within 1.2816 sigmas, so the factor that a sigma lacks is the 80 % quantile of |deviation|/sigma over 1.2816.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.calibration.fitting import Peaks, fit_curves
from simulator.calibration.holdout import Rows, by_key, constants_of, sample
from simulator.constants import Trust
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import Row, write_rows
from simulator.cost.sensitivity import Z80, interval
from simulator.hardware.types import Accelerator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Spread", "beyond", "borrowed", "fitted", "spread", "tabled", "widening"]

MOST = 150
"""Kernels of one kind that are looked at."""

FEWEST = 25


@dataclass(frozen=True)
class Spread:
    """Kernels of one kind on one device: what they deviate by, and the sigma of their prices.

    Attributes
    ----------
    deviation, sigma
        Per kernel, relative; sigma is that of the side on which the measured time lies.
    """

    device: str
    key: str
    deviation: NDArray[np.float64]
    sigma: NDArray[np.float64]

    @property
    def inside(self) -> float:
        """Share of the kernels in the 80 % interval."""
        return float(np.mean(np.abs(self.deviation) <= Z80 * self.sigma))

    @property
    def factor(self) -> float:
        """What the sigma would have to be multiplied by for 80 % to be inside."""
        return widening(self.deviation, self.sigma)

    def row(self, what: str) -> dict[str, Any]:
        """For a table."""
        return {
            "prices": what, "device": self.device, "key": self.key, "kernels": len(self.deviation),
            "median error": float(np.median(np.abs(self.deviation))), "sigma": float(np.median(self.sigma)),
            "inside 80 % interval": self.inside,
        }  # fmt: skip


def widening(deviation: NDArray[np.float64], sigma: NDArray[np.float64]) -> float:
    """Factor on ``sigma`` with which 80 % of the deviations lie inside the 80 % interval."""
    return float(np.quantile(np.abs(deviation) / np.maximum(sigma, 1e-9), 0.8)) / Z80


def spread(rows: Sequence[Row], device: DeviceCost, name: str, key: str) -> Spread:
    """Deviations of ``rows`` (thinned) from the prices of ``device``, with the prices' sigmas."""
    deviations, sigmas = [], []
    for row in _thinned(rows):
        price = device.price(row.work)
        found = interval(
            lambda scale, work=row.work: device.moved(scale).price(work).seconds,  # type: ignore[misc]
            device.constants, price.constants,
        )  # fmt: skip
        deviation = row.seconds / price.seconds - 1
        width = found.high - price.seconds if deviation > 0 else price.seconds - found.low
        deviations.append(deviation)
        sigmas.append(width / price.seconds / Z80)
    return Spread(name, key, np.array(deviations), np.array(sigmas))


def fitted(rows: Rows, accelerator: Accelerator, relatives: Sequence[Accelerator]) -> list[Spread]:
    """Prices of the shipped profile: its own curves, and borrowed ones where it has none."""
    device = DeviceCost(replace(accelerator, kernel_table=""), None, None, _others(accelerator, relatives))
    return [spread(mine, device, accelerator.name, key) for key, mine in _kinds(rows)]


def borrowed(rows: Rows, accelerator: Accelerator, relatives: Sequence[Accelerator]) -> list[Spread]:
    """The device left out: prices from its datasheet and what relatives lend."""
    bare = replace(accelerator, efficiency={}, kernel_table="")
    device = DeviceCost(bare, None, None, _others(accelerator, relatives))
    return [spread(mine, device, accelerator.name, key) for key, mine in _kinds(rows)]


def tabled(rows: Rows, accelerator: Accelerator, share: float = 0.1, seed: int = 0) -> list[Spread]:
    """Prices from a table of a ``share`` of the rows, judged on the others inside the box of the measured sizes."""
    used, rest = sample(rows, share, seed)
    return _by_table(used, rest, accelerator, Trust.MEASURED)


def beyond(rows: Rows, accelerator: Accelerator) -> list[Spread]:
    """A table of a fifth of the smaller half of each kind of kernel, judged outside the box of the measured sizes."""
    used: list[Row] = []
    rest: list[Row] = []
    for mine in by_key(rows).values():
        middle = float(np.median([row.work.flops for row in mine]))
        used += [row for row in mine if row.work.flops <= middle][::5]
        rest += [row for row in mine if row.work.flops > middle]
    return _by_table(used, rest, accelerator, Trust.FITTED)


def _by_table(used: Sequence[Row], rest: Sequence[Row], accelerator: Accelerator, trust: Trust) -> list[Spread]:
    fits = fit_curves(used, Peaks(dict(accelerator.peak_flops), accelerator.memory_bandwidth, accelerator.sm_count))
    constants = constants_of(accelerator.name, fits, f"fit to {len(used)} points")
    with TemporaryDirectory() as folder:
        table = Path(folder) / "kernels.csv"
        write_rows(table, used)
        device = DeviceCost(replace(accelerator, efficiency=constants, kernel_table=str(table)), None, None, ())
        found = []
        for key, mine in _kinds(rest):
            asked = [row for row in _thinned(mine, 4 * MOST) if device.price(row.work).trust is trust]
            if len(asked) >= FEWEST:
                found.append(spread(asked, device, accelerator.name, key))
    return found


def _others(accelerator: Accelerator, relatives: Sequence[Accelerator]) -> list[Accelerator]:
    return [r for r in relatives if r.name != accelerator.name]


def _kinds(rows: Rows) -> list[tuple[str, Sequence[Row]]]:
    return [(key, mine) for key, mine in sorted(by_key(rows).items()) if len(mine) >= FEWEST]


def _thinned(rows: Sequence[Row], most: int = MOST) -> Sequence[Row]:
    return rows[:: max(1, len(rows) // most)]
