"""Looks up constants while an Op is priced and remembers which were used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.constants import Constant, ConstantSet, Trust
from simulator.cost.priced import Priced, weakest
from simulator.hardware.types import NetworkProfile

__all__ = ["PROTOCOL", "Book"]

PROTOCOL = Constant(
    "link.protocol", 0.92, "", 0.05, Trust.DATASHEET,
    "NCCL tuning.cc rates LL128, which carries 120 of 128 bytes, at 0.92 of the bus bandwidth",
)  # fmt: skip


class Book:
    """The constants of one network in force, and NCCL's own."""

    def __init__(self, values: ConstantSet, library: Callable[[], NetworkProfile]) -> None:
        self.values, self.library = values, library

    def use(self, constant: Constant, used: list[str]) -> float:
        """Value in force of ``constant``; its id is appended to ``used``."""
        if constant.id not in self.values.entries:
            self.values.add(constant)
        used.append(constant.id)
        return self.values[constant.id]

    def nccl(self, used: list[str]) -> Callable[[str], float]:
        """A look-up of NCCL's constants by key of the profile ``nccl-tuner``."""
        return lambda key: self.use(self.library().constants[key], used)

    def protocol(self, efficiency: float, used: list[str]) -> float:
        """Share of a link that large transfers reach: its own figure where the profile has one."""
        return efficiency if efficiency < 1.0 else min(1.0, self.use(PROTOCOL, used))

    def priced(self, seconds: float, floor: float, used: Sequence[str]) -> Priced:
        """Wrap up: the floor holds, and the weakest trust is named."""
        ids = tuple(dict.fromkeys(used))
        trust = weakest(self.values.entries[i].trust for i in ids)
        return Priced(max(seconds, floor), floor, "network", ids, trust)
