"""What the fits to kernels of aiconfigurator-core (extra ``measured``) share: a device's timings, and verbs to call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache

from simulator.calibration import aiconfigurator
from simulator.cost.kernel_table import Row
from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import Accelerator

__all__ = ["call", "measured"]


@cache
def measured(device: str) -> tuple[tuple[Row, ...], Accelerator]:
    """Kernels of a device of the package, and the shipped profile of that device."""
    return tuple(aiconfigurator.read_kernels(device)[0]), load_accelerator(aiconfigurator.ACCELERATORS[device])


def call(verbs: Mapping[str, Callable[[], None]]) -> None:
    """Call each of the verbs that the command line names; without one, or with an unknown one, say which there are."""
    asked = sys.argv[1:]
    if not asked or set(asked) - set(verbs):
        sys.exit(f"say which: {', '.join(verbs)}")
    for name in asked:
        verbs[name]()
