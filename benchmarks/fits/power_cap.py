"""Fit of the clock share below which voltage no longer falls (simulator/hardware/power.py).

Prefill is compute bound, so its rate follows the clock. The readings are those of six RTX 3090 that serve one model
with a prompt of 198,000 tokens under six power limits; the deepest two lie beyond what any such relation follows (the
card throttles in steps there) and are shown, not fitted. The peak is the card's rating; the idle power is that of the
shipped rule (a tenth of the peak).

    python benchmarks/fits/power_cap.py
"""

from __future__ import annotations

import math

from simulator.hardware import power
from simulator.hardware.types import PowerProfile

SOURCE = "https://llmgarage.ai/power-limit-tokens-per-second-benchmark (February 2026)"
PEAK, IDLE = 350.0, 35.0
PREFILL = {350: 9893.0, 300: 9326.0, 250: 8436.0, 200: 5941.0, 150: 2549.0, 100: 1390.0}
"""Power limit per card [W] → prompt tokens per second."""
FITTED = (300, 250, 200)


def speed(limit: float, floor: float) -> float:
    """Clock share under a limit, for a voltage floor."""
    share = (limit - IDLE) / (PEAK - IDLE)
    return float(share ** (1 / 3)) if share >= floor**3 else share / floor**2


def loss(floor: float) -> float:
    """Sum of squared log errors."""
    return sum(math.log(speed(w, floor) / (PREFILL[w] / PREFILL[350])) ** 2 for w in FITTED)


def main() -> None:
    """Print the fit and every reading beside what the shipped constant says."""
    best = min((0.5 + 0.005 * i for i in range(101)), key=loss)
    print(f"voltage floor {best:.3f} (shipped {power.VOLTAGE_FLOOR}); {SOURCE}")
    for watts, rate in PREFILL.items():
        said, measured = power.clock_under(PowerProfile(IDLE, PEAK), watts), rate / PREFILL[350]
        print(f"{watts:4d} W  measured {measured:.3f}  predicted {said:.3f}  {said / measured - 1:+.1%}")


if __name__ == "__main__":
    main()
