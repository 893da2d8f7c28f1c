"""Many models on the same accelerators, as a tenant: profiles priced, queries scheduled, a row per model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from simulator.cluster.economics import bill, item_rows, mean_draw, money_columns
from simulator.cluster.serving_tenant import iteration_row
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.errors import ConfigError
from simulator.results.from_estimate import estimate_tables
from simulator.results.from_serving import serving_tables
from simulator.results.tables import Columns, concat
from simulator.serving.estimate import estimate_deployment, replica_cost
from simulator.serving.model_sharing import SharingRun
from simulator.serving.shared_models import Devices, SharedModels
from simulator.strategies.model_scheduling.base import ModelProfile, Query
from simulator.strategies.protocols import BatchShape
from simulator.workload.jobs import Deployment, Member
from simulator.workload.ops import TensorClass, Tier

if TYPE_CHECKING:
    import simpy

__all__ = ["SharingTenant"]

_ALONE = ("time", "traffic", "sources")
"""Tables of every model's own engine."""

_MOST = 32
"""Largest batch that is profiled."""


class SharingTenant:
    """A deployment whose replicas are shared by several models."""

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, number: int) -> None:
        self.deployment = deployment
        assert deployment.sharing is not None
        self.sharing = deployment.sharing
        self.cluster = scenario.cluster_of(deployment.name)
        self.estimates = [estimate_deployment(m.deployment, self.cluster, "step") for m in self.sharing.members]
        self.reason = "; ".join(
            f"{m.deployment.model.name}: {e.reason}"
            for m, e in zip(self.sharing.members, self.estimates, strict=True)
            if not e.feasible
        )
        self.process: SharedModels | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the members' estimates, and what a query is."""
        name = self.deployment.name
        notes = [f"{name}: {w}" for e in self.estimates for w in e.warnings]
        notes.append(f"{name}: a query is one answer of mean length, and a batch of b of them takes alpha·b + beta")
        notes.append(f"{name}: busy devices draw as if each query ran alone")
        return tuple(dict.fromkeys(notes))

    def _profile(self, member: Member, weights: float) -> ModelProfile:
        """A batch of b takes alpha·b + beta: a line through one mean input and 32, or what the budget takes."""
        d = member.deployment
        cost = replica_cost(d, self.cluster)
        size = max(1, round(float(d.requests.input_tokens.mean())))
        outputs = float(d.requests.output_tokens.mean())
        most = max(2, min(_MOST, d.max_num_batched_tokens // size))

        def seconds(batch: int) -> float:
            first = cost.iteration(BatchShape(((size, 0),) * batch, 0, 0))
            if outputs <= 1.0:
                return first
            context = int(size + outputs / 2)
            return first + (outputs - 1.0) * cost.iteration(BatchShape((), batch, batch * context, context))

        one, many = seconds(1), seconds(most)
        alpha = max((many - one) / (most - 1), 1e-9)
        return ModelProfile(
            d.model.name, alpha, max(one - alpha, 0.0), weights, most, member.family, member.accuracy, member.cost
        )  # fmt: skip

    def _shares(self, run: SharingRun) -> tuple[float, float]:
        """Shares of peak FLOP/s and of memory bandwidth while a device is busy: those of one query of each model,
        weighted by the time that its queries take."""
        device = self.cluster.groups[0].node.accelerator
        whole = flops = moved = 0.0
        for number, member in enumerate(self.sharing.members):
            d = member.deployment
            cost, answered = replica_cost(d, self.cluster), int(np.isfinite(run.finish[run.model == number]).sum())
            size = max(1, round(float(d.requests.input_tokens.mean())))
            tokens = max(0.0, float(d.requests.output_tokens.mean()) - 1.0)
            steps = [(1.0, BatchShape(((size, 0),), 0, 0)), (tokens, BatchShape((), 1, size, size))]
            for times, batch in steps if tokens else steps[:1]:
                whole += answered * times * cost.iteration(batch)
                flops += answered * times * cost.flops(batch) / device.peak(d.plan.precision)
                moved += answered * times * cost.traffic(batch)["hbm"] / device.memory_bandwidth
        return (flops / whole, moved / whole) if whole else (0.0, 0.0)

    def start(self, commons: Commons) -> simpy.Event | None:
        """Open for queries."""
        if self.reason:
            return None
        device = self.cluster.groups[0].node.accelerator
        ranks = self.deployment.plan.accelerators
        weights = [
            sum(s.by_class.get(TensorClass.PARAM.value, 0.0) for s in e.memory.stages if s.tier is Tier.HBM)
            * self.deployment.plan.tensor_parallel
            for e in self.estimates
        ]
        profiles = [self._profile(m, w) for m, w in zip(self.sharing.members, weights, strict=True)]
        room = device.memory_usable * self.deployment.memory_utilization * ranks
        devices = Devices(self.deployment.replicas, room, device.host_link.achievable * ranks)
        limits = [m.deployment.slo.e2e or math.inf for m in self.sharing.members]
        self.queries = self._queries(limits)
        try:
            self.process = SharedModels(
                commons.clock, profiles, self.queries, self.sharing.policy, dict(self.sharing.options), devices, limits
            )
        except (ConfigError, TypeError, ValueError) as error:
            self.reason = f"sharing by '{self.sharing.policy}': {error}"
            return None
        return self.process.start()

    def _queries(self, limits: list[float]) -> list[Query]:
        """Of all members, in order of arrival."""
        rows = sorted(
            (float(time), number)
            for number, member in enumerate(self.sharing.members)
            for time in member.deployment.requests.arrival
        )
        members = self.sharing.members
        return [
            Query(i, number, time, time + limits[number], members[number].urgent, members[number].wanted_accuracy)
            for i, (time, number) in enumerate(rows)
        ]

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """A row for all queries, and one for each model's."""
        d = self.deployment
        size: dict[str, Any] = {"accelerators": d.accelerators, "plan": str(d.plan), "replicas": d.replicas}
        if self.process is None:
            return serving_tables(d.name, {}, {}, feasible=False, reason=self.reason, **size), {}
        done = self.process.done
        ended = done is not None and done.triggered
        run = cast(SharingRun, done.value) if done is not None and ended else self.process.result()
        span = float(np.nanmax(run.finish)) if np.isfinite(run.finish).any() else 0.0
        draw = mean_draw(self.cluster, d.plan.accelerators, *self._shares(run))
        energy = draw.energy(run.busy, max(0.0, span * d.replicas - run.busy))
        charge = bill(d.name, self.cluster, d.plan.accelerators * d.replicas, span, energy)
        whole = _row(run, np.ones(len(run.arrival), dtype=bool)) | money_columns(charge, span, len(run.arrival))
        whole |= {"utilization": run.busy / (span * d.replicas) if span else math.nan, "weight_loading": run.loading}
        parts: list[Mapping[str, Columns]] = [serving_tables(d.name, whole, {}, **size)]
        for number, member in enumerate(self.sharing.members):
            name, estimate = f"{d.name} {member.deployment.model.name}", self.estimates[number]
            row = _row(run, run.model == number) | iteration_row(estimate)
            # Memory is not among them: an estimate is of an engine with the device to itself.
            alone = {key: table for key, table in estimate_tables(name, estimate).items() if key in _ALONE}
            parts.append({**serving_tables(name, row, {}, **size), **alone})
        tables = {key: concat(p[key] for p in parts if key in p) for key in ("summary", *_ALONE)}
        return {**tables, "costs": item_rows(charge.items)}, {f"{d.name}.run": run}


def _row(run: SharingRun, mine: Any) -> dict[str, Any]:
    """Summary of some of the queries."""
    arrival, finish, deadline = run.arrival[mine], run.finish[mine], run.deadline[mine]
    done = ~np.isnan(finish)
    span = float(finish[done].max() - arrival.min()) if done.any() else math.nan
    in_time = int((finish[done] <= deadline[done]).sum())
    row: dict[str, Any] = {
        "requests": int(done.sum()), "rejected": int((~done).sum()), "unfinished": 0, "duration": span,
        "requests_per_s": done.sum() / span, "slo_attainment": in_time / len(done) if len(done) else math.nan,
        "slo_goodput": in_time / span, "output_tokens": int(done.sum()),
    }  # fmt: skip
    if done.any():
        latency = finish[done] - arrival[done]
        row |= {"e2e_mean": float(latency.mean())}
        row |= {f"e2e_{n}": float(np.percentile(latency, q)) for n, q in (("median", 50), ("p90", 90), ("p99", 99))}
    if (~done).any():
        row["rejections"] = {"too late to end in time": int((~done).sum())}
    return row
