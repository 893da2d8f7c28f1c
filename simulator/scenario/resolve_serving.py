"""Deployments of a scenario: engines, their requests, and other models on their replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.scenario import checks
from simulator.scenario.answers import Answers
from simulator.scenario.deployments import (
    build_deployment,
    deployment_problems,
    serving_plan,
    shared,
)
from simulator.scenario.requests import read_requests_of
from simulator.scenario.resolve_base import Loc, ResolverBase
from simulator.scenario.spec import ServingSpec
from simulator.workload.jobs import Deployment
from simulator.workload.static_memory import by_static_rule

if TYPE_CHECKING:
    from simulator.workload.requests.table import RequestTable

__all__ = ["ServingResolver"]


class ServingResolver(ResolverBase):
    """Builds deployments."""

    def _deployment(self, spec: ServingSpec, loc: Loc, cluster: Cluster | None) -> Deployment | None:
        model, framework = self._software(spec, loc, "serving")
        plan = serving_plan(spec.deployment.plan)
        if cluster is not None and cluster.groups:
            device = cluster.groups[0].node.accelerator
            framework = framework.on(device.name, device.memory_capacity)
            framework = by_static_rule(framework, device.memory_usable, plan, spec.deployment.max_batched_tokens or 0)
        answers = Answers.of(model)
        self._report(loc, answers.problems(spec))
        if not self._tainted((*loc, "deployment", "plan")):
            self._report((*loc, "deployment"), checks.check_model(plan, model))
        requests = self._requests(answers.adapted(spec), loc)
        if requests is None:
            return None
        table = answers.table(requests, spec)
        deployment = answers.fitted(build_deployment(spec, model, framework, table, cluster), spec)
        if not self._tainted((*loc, "deployment")):
            self._report((*loc, "deployment"), deployment_problems(deployment, spec.deployment, cluster))
        return self._sharing(deployment, spec, loc, cluster) if spec.deployment.sharing else deployment

    def _sharing(
        self, deployment: Deployment, spec: ServingSpec, loc: Loc, cluster: Cluster | None
    ) -> Deployment | None:  # fmt: skip
        """The deployment with the other models on its replicas, each read like a deployment of its own."""
        asked = spec.deployment
        assert asked.sharing is not None
        others = []
        for number, member in enumerate(asked.sharing.models):
            plain = asked.model_copy(update={"sharing": None})
            slo = spec.slo.model_copy(update={"e2e": member.deadline or spec.slo.e2e})
            changes = {"model": member.model, "requests": member.requests, "deployment": plain, "slo": slo}
            place: Loc = (*loc, "deployment", "sharing", "models", number)
            others.append(self._deployment(spec.model_copy(update=changes), place, cluster))
        found = [other for other in others if other is not None]
        return shared(deployment, asked, found) if len(found) == len(others) else None

    def _requests(self, spec: ServingSpec, loc: Loc) -> RequestTable | None:
        if self._tainted((*loc, "requests")):
            return None
        try:
            table, notes = read_requests_of(spec.requests, self.spec.seed, self.base, self.skip_bad_rows)
        except ConfigError as error:
            for issue in error.issues:
                if issue.file:
                    self.issues.extend([issue])
                else:
                    self._error((*loc, "requests", *filter(None, issue.path.split("."))), issue.message)
            return None
        self.warnings += [f"{spec.serving}: {note}" for note in notes]
        return table
