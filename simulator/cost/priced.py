"""What the cost model answers for one Op: seconds, the bound below them, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from simulator.constants import Trust

__all__ = ["FREE", "Bound", "Priced", "weakest"]

Bound = Literal["compute", "memory", "launch", "network"]

_ORDER = {trust: rank for rank, trust in enumerate(Trust)}


def weakest(trusts: Iterable[Trust]) -> Trust:
    """The least trusted of ``trusts``; ``MEASURED`` when there is none."""
    return max(trusts, key=_ORDER.__getitem__, default=Trust.MEASURED)


@dataclass(frozen=True, slots=True)
class Priced:
    """Time of one Op on one rank.

    Attributes
    ----------
    seconds
        Expected time [s].
    floor
        Bound that no execution can beat [s]: max(FLOPs / peak, bytes / bandwidth), or bytes / link bandwidth.
    bound
        What most of the time goes to.
    constants
        Ids of the constants used.
    trust
        The weakest trust among them.
    """

    seconds: float
    floor: float
    bound: Bound
    constants: tuple[str, ...]
    trust: Trust


FREE = Priced(0.0, 0.0, "launch", (), Trust.MEASURED)
"""Price of no work at all."""
