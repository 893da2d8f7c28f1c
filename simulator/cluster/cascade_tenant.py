"""A cascade of two models as a tenant: the small one on replicas of its own, the large one behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_tenant import Outcome, ServingTenant
from simulator.cluster.tenants import Commons
from simulator.registry import lookup
from simulator.serving.cascades import CascadedDeployment, Opener
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.replica import Replica
from simulator.serving.setup import policies
from simulator.workload.requests.table import RequestTable

__all__ = ["CascadeTenant"]


class CascadeTenant(ServingTenant):
    """Everybody asks the small model, some the large one as well."""

    shares = False

    @property
    def main(self) -> Engine:
        """The engine of the large model."""
        return self.engines[1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the engines, and what quality the source declares."""
        d = self.deployment
        assert d.cascade is not None
        cls = lookup("cascade", d.cascade.method)
        declared = getattr(cls, "quality", "") or "not declared in a source read"
        notes = (
            f"{d.name}: {d.cascade.method}: quality: {declared}",
            f"{d.name}: who asks the large model is drawn, {100 * d.cascade.reroute:g} % of the requests; gaps between "
            "tokens are those of both models",
        )
        return (*super().warnings, *notes)

    def open(self, commons: Commons) -> CascadedDeployment:
        """Both deployments on one clock."""
        d = self.deployment
        choice = d.cascade
        assert choice is not None
        cascade = lookup("cascade", choice.method)(choice.reroute, choice.pruned, choice.delay)
        small, large = (self._opener(commons, engine) for engine in self.engines)
        return CascadedDeployment(
            commons.clock, d.requests, cascade, small, large, self.seed, commons.scenario.record, d.slo
        )

    def _opener(self, commons: Commons, engine: Engine) -> Opener:
        part = engine.deployment
        costs = engine.cost if self.power is None else self.costs(engine)

        def opened(requests: RequestTable, **more: Any) -> DeploymentProcess:
            return DeploymentProcess(
                commons.clock, requests, costs, engine.limits, replicas=part.replicas, seed=self.seed,
                front_end=engine.front_end(part.replicas),
                **policies(part, self.seed), **more,
            )  # fmt: skip

        return opened

    def live(self) -> Sequence[Replica]:
        """Those of the small model, then those of the large one."""
        process = cast(CascadedDeployment, self.process)
        return [*process.small.replicas, *process.large.replicas]

    def truncate(self, number: int) -> None:
        """The clock of a replica has changed."""
        process = cast(CascadedDeployment, self.process)
        first = self.engines[1].first
        if number < first:
            process.small.truncate(number)
        else:
            process.large.truncate(number - first)

    def outcome(self) -> Outcome:
        """The requests with their final answers."""
        process = cast(CascadedDeployment, self.process)
        done = process.done
        ended = done is not None and done.triggered
        return cast(Outcome, done.value) if done is not None and ended else process.result()

    def more_columns(self, run: Outcome, end: float) -> dict[str, Any]:
        """How many asked the large model."""
        process = cast(CascadedDeployment, self.process)
        return {"rerouted": int(process.rerouted.sum())}
