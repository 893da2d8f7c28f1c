"""Packing known rates onto devices: Nexus in time (duty cycles), Gpulet and MIG in space (shares of a device)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.model_scheduling.base import ModelProfile

__all__ = ["MIG_SHARES", "MPS_SHARES", "DutyCycle", "Gpulet", "Nexus", "Partition", "Session"]

MPS_SHARES = (0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Shares a device is cut into by percentage (NVIDIA MPS); those of the Gpulet paper, USENIX ATC 2022."""
MIG_SHARES = (1 / 7, 2 / 7, 3 / 7, 4 / 7, 1.0)
"""Compute slices of NVIDIA's multi-instance GPU (A100, H100): 1, 2, 3, 4 or all 7 of 7."""


@dataclass(frozen=True)
class Session:
    """Queries of one model at a ``rate`` [1/s], each to be answered within ``slo`` [s]."""

    model: ModelProfile
    rate: float
    slo: float


@dataclass(frozen=True)
class DutyCycle:
    """A device that runs one batch of each session every ``period`` [s]: pairs (index of the session, batch)."""

    period: float
    batches: tuple[tuple[int, int], ...]

    def busy(self, sessions: Sequence[Session]) -> float:
        """Share of the period that is computed."""
        return sum(sessions[s].model.latency(b) for s, b in self.batches) / self.period


@register(
    "nexus",
    kind="planner",
    area="serving",
    family="model_scheduling",
    cites=("Shen et al. 2019 (Nexus), SOSP 2019, algorithm 1",),
    catalogue=("Nexus",),
    validated_by="closed_form",
)
class Nexus:
    """Squishy bin packing: full devices for what saturates them, the rest merged into shared duty cycles.

    A query waits for up to one period and then for its batch: period + latency(batch) ≤ SLO. Prefix batching and the
    split of an SLO over the models of a query are not part of it.

    Parameters
    ----------
    memory
        Room for weights in a device [B].
    """

    name: str

    def __init__(self, memory: float = math.inf) -> None:
        self.memory = memory

    def plan(self, sessions: Sequence[Session]) -> list[DutyCycle]:
        """One entry per device.

        Raises
        ------
        ConfigError
            If a session's SLO is shorter than twice its latency alone: no period can meet it.
        """
        full: list[DutyCycle] = []
        rest: list[tuple[DutyCycle, dict[int, float]]] = []
        for index, session in enumerate(sessions):
            whole, cycle, rate = self._alone(index, session)
            full += whole
            if cycle is not None:
                rest.append((cycle, {index: rate}))
        rest.sort(key=lambda node: -node[0].busy(sessions))
        merged: list[tuple[DutyCycle, dict[int, float]]] = []
        for cycle, rates in rest:
            options = []
            for at, (other, others) in enumerate(merged):
                joint = self._merge(sessions, cycle, other, rates | others)
                if joint is not None:
                    options.append((joint.busy(sessions), -at, joint))
            if options:
                _, at, joint = max(options, key=lambda o: o[:2])
                merged[-at] = joint, rates | merged[-at][1]
            else:
                merged.append((cycle, rates))
        return full + [cycle for cycle, _ in merged]

    def _alone(self, index: int, session: Session) -> tuple[list[DutyCycle], DutyCycle | None, float]:
        """Saturated devices, and the cycle and rate of what is left."""
        model, slo = session.model, session.slo
        fits = [b for b in range(1, model.max_batch + 1) if 2.0 * model.latency(b) <= slo]
        if not fits or model.weights > self.memory:
            raise ConfigError(
                f"model '{model.name}': an SLO of {slo:g} s needs to be at least twice its latency alone "
                f"({2 * model.latency(1):g} s) and its weights to fit {self.memory:g} B; relax the SLO or leave it out"
            )
        best = fits[-1]
        throughput = best / model.latency(best)
        count = int(session.rate / throughput)
        whole = [DutyCycle(model.latency(best), ((index, best),))] * count
        rate = session.rate - count * throughput
        if rate <= 1e-9 * session.rate:
            return whole, None, 0.0
        # Cycles shorter than it takes to gather the batch are for rates that would otherwise wait beyond the SLO.
        cycles = [(b, min(b / rate, slo - model.latency(b))) for b in fits]
        batch, period = min(
            (c for c in cycles if model.latency(c[0]) <= c[1]), key=lambda c: model.latency(c[0]) / c[1]
        )
        return whole, DutyCycle(period, ((index, batch),)), rate

    def _merge(
        self, sessions: Sequence[Session], one: DutyCycle, other: DutyCycle, rates: dict[int, float]
    ) -> DutyCycle | None:
        """Both on one device at the shorter period, or ``None`` where they do not fit."""
        period = min(one.period, other.period)
        # The tolerance is for products like 0.125 s · 64/s that are whole numbers.
        batches = tuple((s, max(1, math.ceil(period * rate - 1e-9))) for s, rate in rates.items())
        if sum(sessions[s].model.latency(b) for s, b in batches) > period * (1 + 1e-9):
            return None
        if sum(sessions[s].model.weights for s in rates) > self.memory:
            return None
        return DutyCycle(period, batches)


@dataclass(frozen=True)
class Partition:
    """A share of a device for one session, which runs batches of ``batch`` one after the other."""

    device: int
    share: float
    session: int
    batch: int
    rate: float


@register(
    "gpulet",
    kind="planner",
    area="serving",
    family="model_scheduling",
    cites=("Choi et al. 2022 (Gpulet), USENIX ATC 2022",),
    catalogue=("Gpulet, GSLICE, PREMA, MPS/MIG",),
    validated_by="closed_form",
)
class Gpulet:
    """The smallest share of a device that meets each session's rate and SLO, best fit over the devices.

    A share f gives alpha·batch·``knee``/min(f, ``knee``) + beta: kernels use no more than the knee of a device, and the
    fixed part does not depend on the share. This curve is an assumption; measured ones differ by model.

    Parameters
    ----------
    shares
        Sizes a device can be cut into: :data:`MPS_SHARES` or :data:`MIG_SHARES`.
    knee
        Share beyond which a model gets no faster.
    interference
        Share by which everything takes longer next to others on a device (0 on MIG, which isolates memory paths).
    """

    name: str

    def __init__(self, shares: Sequence[float] = MPS_SHARES, knee: float = 1.0, interference: float = 0.0) -> None:
        if not shares or not all(0.0 < s <= 1.0 for s in shares) or not 0.0 < knee <= 1.0 or interference < 0.0:
            raise ConfigError(
                f"shares and knee lie in (0, 1], interference from 0 on: {shares}, {knee}, {interference}"
            )
        self.shares, self.knee, self.interference = tuple(sorted(shares)), knee, interference

    def latency(self, model: ModelProfile, batch: int, share: float) -> float:
        """Seconds of a batch on a share of a device."""
        slowdown = self.knee / min(share, self.knee)
        alone = model.alpha * batch * slowdown + model.beta
        return alone * (1.0 + self.interference) if share < 1.0 else alone

    def capacity(self, session: Session, share: float) -> tuple[float, int]:
        """Most queries per second within the SLO on a share, and the batch that gives it; (0, 0): none.

        A query waits for at most one batch and then for its own: 2·latency ≤ SLO.
        """
        fits = [
            (b / self.latency(session.model, b, share), b)
            for b in range(1, session.model.max_batch + 1)
            if 2.0 * self.latency(session.model, b, share) <= session.slo
        ]
        return max(fits, default=(0.0, 0))

    def plan(self, sessions: Sequence[Session]) -> list[Partition]:
        """Partitions that carry all rates; devices are numbered from 0 and as many as are needed.

        Raises
        ------
        ConfigError
            If a whole device cannot meet a session's SLO.
        """
        pieces: list[tuple[float, int, int, float]] = []
        for index, session in enumerate(sessions):
            most, batch = self.capacity(session, self.shares[-1])
            if not batch:
                raise ConfigError(
                    f"model '{session.model.name}': even the largest share cannot answer within {session.slo:g} s; "
                    "relax the SLO"
                )
            left = session.rate
            while left > most:
                pieces.append((self.shares[-1], index, batch, most))
                left -= most
            if left > 0.0:
                share = next(s for s in self.shares if self.capacity(session, s)[0] >= left)
                pieces.append((share, index, self.capacity(session, share)[1], left))
        room: list[float] = []
        plan = []
        for share, index, batch, rate in sorted(pieces, key=lambda p: (-p[0], p[1])):
            fitting = [(left, device) for device, left in enumerate(room) if left >= share - 1e-9]
            if fitting:
                _, device = min(fitting)
            else:
                device = len(room)
                room.append(1.0)
            room[device] -= share
            plan.append(Partition(device, share, index, batch, rate))
        return plan
