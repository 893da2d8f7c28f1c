"""A deployment whose parallel plan follows its machines, as a tenant: context on the fabric, what machines cost."""

from __future__ import annotations

from typing import Any

from simulator.cluster.context_flows import ContextFlows
from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_tenant import Outcome, ServingTenant
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.registry import lookup
from simulator.results.tables import Columns
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.machines import Machines
from simulator.serving.plan_changes import Shape
from simulator.serving.pools_transfer import kv_wire_bytes
from simulator.serving.replanning import Replanning
from simulator.strategies.replanning.base import Layout
from simulator.strategies.serving_protocols import BatchShape
from simulator.workload.fleets import Instances
from simulator.workload.jobs import Deployment
from simulator.workload.ops import TensorClass, Tier

__all__ = ["InstancesTenant"]


class InstancesTenant(ServingTenant):
    """A model on machines that come and go: one of several layouts at a time."""

    shares = False  # its pipelines have no fixed places
    machines: Machines
    replanning: Replanning

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, number: int) -> None:
        super().__init__(deployment, scenario, number)
        assert deployment.instances is not None
        self.asked: Instances = deployment.instances
        self.fails = scenario.failures is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the engines, and what changes of the plan assume."""
        name, notes = self.deployment.name, []
        if not self.asked.startup:
            notes.append(f"{name}: no start-up time is given: instances can be used as soon as they come")
        if not self.asked.restart and not lookup("replanning", self.asked.policy)().carries:
            notes.append(f"{name}: no restart time is given: engines that start anew only load their weights")
        if self.fails:
            notes.append(f"{name}: failures do not strike its instances, only what 'instances' says")
        if self.process is not None and not self.replanning.pipelines:
            notes.append(f"{name}: no plan fits the instances that are left: requests wait for ever")
        return (*super().warnings, *notes)

    def open(self, commons: Commons) -> DeploymentProcess:
        """The deployment, its plan in the hands of what watches the machines."""
        process = super().open(commons)
        assert isinstance(process, DeploymentProcess)
        d, asked = self.deployment, self.asked
        self.machines = Machines(commons.clock, asked, asked.count, asked.accelerators, self.seed)
        self.replanning = Replanning(
            commons.clock, process, self.machines, lookup("replanning", asked.policy)(),
            self.shapes, ContextFlows(commons, d.name, asked.load_from),
            weights=_weights(self.main), cache_bytes=lambda tokens: kv_wire_bytes(d.model, tokens, d.kv_dtype),
            rate=asked.rate or d.requests.rate, restart=asked.restart,
        )  # fmt: skip
        self.replanning.start()
        return process

    @property
    def shapes(self) -> list[Shape]:
        """What a pipeline may be, as good as its engine is priced."""
        return [_shape(engine) for engine in self.engines]

    def rented(self, engine: Engine, end: float) -> float:
        """Replica seconds of a layout; machines that serve in none, for now, are charged to the first."""
        used = self.replanning.pipeline_seconds(end)
        number = self.engines.index(engine)
        if number:
            return used[number]
        sizes = [e.deployment.plan.accelerators for e in self.engines]
        total = self.machines.paid(end) * self.asked.accelerators
        rest = total - sum(seconds * size for seconds, size in zip(used, sizes, strict=True))
        return used[0] + max(0.0, rest) / sizes[0]

    @property
    def price_share(self) -> float:
        """Of the spot market."""
        return self.asked.price

    def more_columns(self, run: Outcome, end: float) -> dict[str, Any]:
        """What the machines and the plan did; shares are of the time that pipelines were part of the plan."""
        changes = self.replanning.changes[1:]
        stalls = [c.stall for c in changes if c.stall == c.stall]
        there = sum(self.replanning.pipeline_seconds(end))
        used = sum(r.busy_time for r in run.replicas)
        return {
            "instances_mean": self.machines.paid(end) / (end or 1.0),
            "revocations": self.machines.revoked,
            "restarts": self.replanning.lost + sum(c.restarted for c in changes),
            "plan_changes": len(changes),
            "plan_stall_mean": sum(stalls) / len(stalls) if stalls else float("nan"),
            "plan_stall_max": max(stalls, default=float("nan")),
            "context_moved_bytes": sum(c.moved for c in changes),
            "context_reused_bytes": sum(c.reused for c in changes),
            "context_loaded_bytes": sum(c.loaded for c in changes),
            "requests_moved": sum(c.kept for c in changes),
            "utilization": used / there if there else float("nan"),
        }

    def more_tables(self) -> dict[str, Columns]:
        """The plan over time, and what happened to the machines."""
        name, changes, log = self.deployment.name, self.replanning.changes, self.machines.log
        columns = ("time", "plan", "reason", "stall", "reused", "moved", "loaded", "kept", "restarted")
        plans: Columns = {"workload": [name] * len(changes), "instances": [c.machines for c in changes]}
        plans = {**plans, **{column: [getattr(c, column) for c in changes] for column in columns}}
        ended = [(c.time + c.stall, -1, "plan in force", c.plan) for c in changes]
        began = [(c.time, -1, "plan changes", f"to {c.plan}: {c.reason}") for c in changes[1:]]
        rows = sorted([*log, *began, *(row for row in ended if row[0] == row[0])], key=lambda row: row[0])
        events: Columns = {
            "time": [row[0] for row in rows], "workload": [name] * len(rows), "replica": [row[1] for row in rows],
            "event": [row[2] for row in rows], "detail": [row[3] for row in rows],
        }  # fmt: skip
        return {"plans": plans, "events": events}


def _shape(engine: Engine) -> Shape:
    """The pipelines of an engine: micro-batches in all its stages for the throughput, one request for the latency."""
    d, cost = engine.deployment, engine.cost
    plan, table = d.plan, d.requests
    prompt, answer = max(1, round(float(table.input_tokens.mean()))), float(table.output_tokens.mean())
    context = int(prompt + answer / 2)

    def decode(size: int) -> float:
        return cost.iteration(BatchShape((), size, size * context, context))

    prefill = cost.iteration(BatchShape(((prompt, 0),), 0, 0))
    size = max(1, min(d.max_num_seqs, engine.limits.kv_blocks * d.block_size // context) // plan.pipeline_parallel)
    rate = plan.pipeline_parallel * size / (size * prefill + answer * decode(size))
    layout = Layout(1, plan.pipeline_parallel, plan.tensor_parallel, rate, prefill + answer * decode(1))
    seats = min(d.max_num_seqs, engine.limits.kv_blocks * d.block_size // round(prompt + answer))
    return Shape(layout, engine.first, d.replicas, seats * round(prompt + answer))


def _weights(engine: Engine) -> float:
    """Of one whole model [B]."""
    stages = [s for s in engine.estimate.memory.stages if s.tier is Tier.HBM]
    ranks = engine.deployment.plan.tensor_parallel
    return ranks * sum(s.by_class.get(TensorClass.PARAM.value, 0.0) for s in stages)
