"""How well half of a collective's sizes predict the others, and other devices one that nobody measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from simulator.constants import ConstantSet
from simulator.cost.book import Book
from simulator.cost.collectives import wire_bytes
from simulator.cost.measured import interpolate, lenders, tuner
from simulator.cost.scale_up import ScaleUpCost
from simulator.hardware.types import Accelerator, Curve

__all__ = ["Curves", "collective_lines", "held_out_collectives"]

Curves = Mapping[tuple[str, str, int], Sequence[tuple[float, float]]]
"""(library, operation, ranks) → (bytes, seconds)."""

BULK = 2**20
PARTS = ("below 1 MiB", "from 1 MiB")


def held_out_collectives(curves: Curves, accelerator: Accelerator) -> list[dict[str, Any]]:
    """Errors of every second size predicted from the others, of bytes on the wire over the bandwidth of the link, and
    of prices borrowed from measured collectives of other devices; below 1 MiB, where latency counts, and above."""
    bandwidth = accelerator.scale_up.link.bandwidth or math.inf
    table = []
    for (library, operation, ranks), points in sorted(curves.items()):
        kept, asked = points[::2], points[1:-1:2]
        if len(asked) < 2:
            continue
        curve = Curve(tuple(x for x, _ in kept), tuple(s for _, s in kept))
        name = operation.replace("alltoall", "all_to_all")
        lent = _borrowed(accelerator, library != "nccl")
        for part in PARTS:
            mine = [p for p in asked if (p[0] < BULK) == (part == PARTS[0])]
            if not mine:
                continue
            errors = [abs(interpolate(curve, x) / s - 1) for x, s in mine]
            formula = [abs(wire_bytes(name, ranks, x) / bandwidth / s - 1) for x, s in mine]
            others = [abs(lent(name, ranks, x) / s - 1) for x, s in mine]
            table.append(
                {
                    "device": accelerator.name, "key": f"{library} {name} {ranks}, {part}", "used": len(kept),
                    "tested": len(mine), "profile": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9)),
                    "curve": None, "roofline": float(np.median(formula)), "held": None,
                    "borrowed": float(np.median(others)),
                }
            )  # fmt: skip
    return table


def _borrowed(accelerator: Accelerator, one_shot: bool) -> Callable[[str, int, float], float]:
    """Seconds of a collective on a device whose own measurements are left out."""
    book = Book(ConstantSet({}), tuner)
    known = [one for one in lenders() if one.accelerator.name != accelerator.name]
    inside = ScaleUpCost(accelerator.scale_up, accelerator, one_shot, lambda: known, book)
    return lambda name, ranks, size: inside.price(name, ranks, size).seconds


def collective_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Medians of :func:`held_out_collectives` over devices and ranks by library and operation, and by device."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        curve, _, part = str(row["key"]).partition(", ")
        found.setdefault(f"{curve.rpartition(' ')[0]}, {part}", []).append(row)
        found.setdefault(f"{row['device']} {curve.split()[0]}, {part}", []).append(row)
    return [
        f"{what}: {len(mine)} curves, "
        + ", ".join(f"{name} {np.median([r[name] for r in mine]):.1%}" for name in ("profile", "roofline", "borrowed"))
        for what, mine in sorted(found.items())
    ]
