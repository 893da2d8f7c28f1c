"""Fit of what inverting a symmetric matrix takes (simulator/training/second_order.py).

A blocked Cholesky factorisation and the inverse from it go column by column through panels that are too small to fill
a device, and multiply the rest: ``t = c·d + d³ / (e·P)`` for a d×d matrix on a device of fp32 peak P. Rows are the
inversions of one BERT layer (ten factors as wide as the model, two as its MLP) that PipeFisher's authors timed.

    python benchmarks/fits/inversions.py
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from simulator.training.second_order import COLUMN, INVERSION

SOURCE = "github.com/kazukiosawa/pipe-fisher prof/*_time_memory_*.csv @16ee8db, column time_inv"
PEAK = {"p100": 9.3e12, "v100": 15.7e12, "rtx3090": 35.6e12}
"""fp32 without tensor cores [FLOP/s], datasheets (P100 with PCIe, as in Piz Daint)."""
ROWS = {
    ("p100", 768): 71.7e-3, ("p100", 1024): 126.7e-3, ("v100", 768): 49.1e-3, ("v100", 1024): 80.8e-3,
    ("rtx3090", 768): 38.5e-3, ("rtx3090", 1024): 62.0e-3,
}  # fmt: skip
"""Device and hidden width of the layer → seconds of all its inversions."""


def layer(peak: float, hidden: int, column: float, share: float) -> float:
    """Seconds of the twelve inversions of a layer."""
    sizes = [hidden] * 10 + [4 * hidden] * 2
    return sum(column * d + d**3 / (share * peak) for d in sizes)


def fit(devices: list[str]) -> tuple[float, float]:
    """Time of a column [s] and share of the peak that fit the rows of ``devices`` best."""
    rows = [(PEAK[device], hidden, seconds) for (device, hidden), seconds in ROWS.items() if device in devices]

    def residual(x: np.ndarray) -> list[float]:
        return [float(np.log(layer(p, h, *np.exp(x)) / s)) for p, h, s in rows]

    column, share = np.exp(least_squares(residual, np.log([2e-6, 0.2])).x)
    return float(column), float(share)


def main() -> None:
    """Print the constants, and every device as predicted by the other two."""
    column, share = fit(list(PEAK))
    print(f"column {1e6 * column:.2f} us (shipped {1e6 * COLUMN.value:.2f}), share {share:.3f} ({INVERSION.value})")
    print(SOURCE)
    for (device, hidden), seconds in ROWS.items():
        blind = layer(PEAK[device], hidden, *fit([d for d in PEAK if d != device]))
        mine = layer(PEAK[device], hidden, COLUMN.value, INVERSION.value)
        print(
            f"{device:8s} {hidden:5d}  measured {1e3 * seconds:6.1f} ms  shipped {mine / seconds - 1:+.1%}"
            f"  fitted on the others {blind / seconds - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
