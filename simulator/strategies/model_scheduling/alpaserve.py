"""AlpaServe: model-parallel groups shared by several models, chosen by simulating the requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.model_scheduling.base import ModelProfile, Query

__all__ = ["AlpaServe", "Group", "mean_latency", "serve_groups"]


@dataclass(frozen=True)
class Group:
    """Devices that run models as pipelines of ``stages`` stages, one device each.

    ``overhead``: share by which cutting a model into more than one stage lengthens its work; uneven stages and their
    messages in one figure.
    """

    stages: int
    models: tuple[int, ...] = ()
    overhead: float = 0.0

    def stage_seconds(self, profile: ModelProfile) -> float:
        """Time a query occupies each stage [s]."""
        whole = profile.latency(1)
        return whole if self.stages == 1 else whole * (1.0 + self.overhead) / self.stages


def mean_latency(rate: float, latency: float, bottleneck: float | None = None) -> float:
    """Mean latency of a pipeline with Poisson arrivals and constant times: D_s + λ·D_m²/(2(1 − λ·D_m)) [s].

    ``latency`` D_s through all stages, ``bottleneck`` D_m of the slowest one (all of it by default), ``rate`` λ of all
    its models together (AlpaServe, OSDI 2023, section 3.4); infinite from λ·D_m = 1 on.
    """
    slowest = latency if bottleneck is None else bottleneck
    load = rate * slowest
    return latency + load * slowest / (2.0 * (1.0 - load)) if load < 1.0 else float("inf")


def serve_groups(queries: Sequence[Query], models: Sequence[ModelProfile], groups: Sequence[Group]) -> list[float]:
    """End of every query [s], NaN where it is refused; the queries in order of arrival.

    First come first served; a query goes to the group of its model that ends it first, and is refused at once where
    that is after its deadline: times are constant, so the prediction is what happens.
    """
    free = [[0.0] * group.stages for group in groups]
    homes = [[g for g, group in enumerate(groups) if m in group.models] for m in range(len(models))]
    seconds = [[group.stage_seconds(profile) for group in groups] for profile in models]
    ends = []
    for query in queries:
        best: tuple[float, int, list[float]] | None = None
        for g in homes[query.model]:
            time, taken = query.arrival, []
            for busy_until in free[g]:
                time = max(time, busy_until) + seconds[query.model][g]
                taken.append(time)
            if best is None or time < best[0]:
                best = time, g, taken
        if best is None or best[0] > query.deadline:
            ends.append(float("nan"))
            continue
        free[best[1]] = best[2]
        ends.append(best[0])
    return ends


@register(
    "alpaserve",
    kind="planner",
    area="serving",
    family="model_scheduling",
    cites=("Li et al. 2023 (AlpaServe), OSDI 2023",),
    catalogue=("AlpaServe",),
    validated_by="closed_form",
)
class AlpaServe:
    """Equal groups of devices and the models each holds, by greedy selection under simulation.

    Every group size that divides the devices is tried; models are added one by one to the group where the share of
    queries in time rises most, while memory allows. Stages are pipelines only: cutting operators is not tried.

    Parameters
    ----------
    devices, memory
        How many, and room for weights in each [B].
    overhead
        See :class:`Group`.
    """

    name: str

    def __init__(self, devices: int, memory: float, overhead: float = 0.0) -> None:
        if devices < 1 or memory <= 0.0 or overhead < 0.0:
            raise ConfigError(
                f"alpaserve needs at least one device, memory above 0 and an overhead of at least 0; have {devices}, "
                f"{memory:g} B, {overhead:g}"
            )
        self.devices, self.memory, self.overhead = devices, memory, overhead

    def place(self, models: Sequence[ModelProfile], queries: Sequence[Query]) -> tuple[list[Group], float]:
        """The best groups found, and the share of ``queries`` they end in time."""
        best: tuple[list[Group], float] = ([], -1.0)
        for size in range(1, self.devices + 1):
            if self.devices % size == 0:
                found = self.fill([Group(size, (), self.overhead)] * (self.devices // size), models, queries)
                best = found if found[1] > best[1] else best
        return best

    def fill(
        self, groups: list[Group], models: Sequence[ModelProfile], queries: Sequence[Query]
    ) -> tuple[list[Group], float]:
        """Add models greedily to empty groups."""
        best = groups, self.attainment(groups, models, queries)
        while True:
            tried = []
            seen: set[Group] = set()
            for g, group in enumerate(groups):
                held = sum(models[m].weights for m in group.models)
                if group in seen:  # equal groups give equal results
                    continue
                seen.add(group)
                for m, profile in enumerate(models):
                    if m not in group.models and (held + profile.weights) <= self.memory * group.stages:
                        more = replace(group, models=(*group.models, m))
                        new = [*groups[:g], more, *groups[g + 1 :]]
                        tried.append((self.attainment(new, models, queries), new))
            if not tried:
                return best
            share, groups = max(tried, key=lambda t: t[0])
            if share > best[1]:
                best = groups, share

    def attainment(self, groups: Sequence[Group], models: Sequence[ModelProfile], queries: Sequence[Query]) -> float:
        """Share of the queries that end in time."""
        ends = serve_groups(queries, models, groups)
        return sum(end == end for end in ends) / len(queries) if queries else 1.0
