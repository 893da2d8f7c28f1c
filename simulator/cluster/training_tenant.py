"""A training job as a tenant of the cluster: its step priced, its process started, its tables and its bill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulator.cluster.contention import SharedSteps, contention_table
from simulator.cluster.economics import Bill, bill, item_rows, mean_draw, money_columns
from simulator.cluster.power_loads import Activity
from simulator.cluster.power_sources import TrainingSource, at_level
from simulator.cluster.rollout import estimate_job
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.results.estimate import Estimate
from simulator.results.from_estimate import estimate_tables
from simulator.results.tables import Columns
from simulator.training.ledger import CAUSES, TrainingEvent, TrainingRun
from simulator.training.process import TrainingProcess
from simulator.training.step_traffic import scale_out
from simulator.training.survival import Survival
from simulator.training.tables import timeline_tables
from simulator.workload.failures.model import FailureModel
from simulator.workload.failures.uncertainty import count_interval
from simulator.workload.jobs import TrainingJob

if TYPE_CHECKING:
    import simpy

    from simulator.cluster.power_grid import PowerGrid

__all__ = ["TrainingTenant", "step_shares", "training_bill"]


class TrainingTenant:
    """One training job on its part of the cluster."""

    def __init__(self, job: TrainingJob, scenario: ClusterScenario) -> None:
        self.job = job
        self.cluster = scenario.cluster_of(job.name)
        self.estimate = estimate_job(job, self.cluster)
        self.process: TrainingProcess | None = None
        self.power: PowerGrid | None = None
        self.failures = scenario.failures
        self.shared: SharedSteps | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the step's estimate; and that it stands still for good."""
        found = list(self.estimate.warnings)
        if self.process is not None and not self.process.run.done and self.shared is not None and self.shared.reason:
            found.append(f"stands still since {self.shared.since:g} s: {self.shared.reason}")
        return tuple(f"{self.job.name}: {warning}" for warning in found)

    def start(self, commons: Commons) -> simpy.Event | None:
        """Begin its steps, and have its nodes watched by what fails."""
        if not self.estimate.feasible:
            return None
        place = commons.scenario.placement(self.job.name)
        nodes = range(place.first_node, place.first_node + place.nodes)
        fabric = commons.fabric if self.job.checkpoint else None
        survival = self._survival(commons.scenario.failures)
        self.process = TrainingProcess(commons.clock, self.job, self.estimate, self.cluster, nodes, fabric, survival)
        pipeline = self.estimate.details["pipeline"]
        if scale_out(pipeline):
            ranks = range(place.first, place.first + place.accelerators)
            self.shared = SharedSteps(self.job.name, pipeline, commons.fabric, ranks, self.process.stretch)
            self.process.links = self.shared
            if self.shared.reason:
                self.estimate = replace(self.estimate, feasible=False, reason=self.shared.reason)
                self.process = None
                return None
            commons.fabric.watchers.append(self.shared.reroute)
        if commons.failing is not None:
            commons.failing.watch(self.process, nodes)
        if commons.power is not None:
            self._feed(commons.power, place, commons.sizes)
        return self.process.start()

    def _feed(self, power: PowerGrid, place: Any, sizes: Sequence[int]) -> None:
        """Its power comes over feeders."""
        assert self.process is not None
        shares = step_shares(self.estimate, self.cluster)

        def seconds(level: int) -> float:
            return estimate_job(self.job, at_level(self.cluster, level), with_interval=False).seconds

        power.add(TrainingSource(self.process, place, sizes, Activity(1.0, *shares), seconds))
        self.process.on_change, self.power = power.changed, power

    def _survival(self, model: FailureModel | None) -> Survival | None:
        if model is None:
            return None
        recovery: Any = lookup("recovery", self.job.recovery)()
        mttf = model.mttf(self.job.plan.accelerators, self.cluster.groups[0].node.accelerators)
        return Survival(recovery, mttf, model.detection, model.restart, model.regroup)

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """The step's tables, with what became of the job when it ran."""
        job, answer = self.job, self._estimate_with_timeline()
        if self.process is not None and self.process.run.stuck:
            answer = replace(answer, feasible=False, reason=self.process.run.stuck)
        tables = dict(
            estimate_tables(
                job.name, answer, plan=str(job.plan), accelerators=job.accelerators, steps=job.steps,
                tokens=job.batch.tokens, samples=job.batch.global_batch_size,
            )
        )  # fmt: skip
        if self.process is None:
            return tables, {job.name: answer}
        run = self.process.close()
        metered = self.power.metered(job.name) if self.power is not None else None
        charge = training_bill(job, self.cluster, self.estimate, run.end - run.start, run.start, metered)
        row = {key: values[0] for key, values in tables["summary"].items()}
        row |= {"depth": "run", "steps": run.steps, "training_seconds": run.end - run.start}
        row |= {"effective_time_ratio": run.effective_time_ratio, "interruptions": run.interrupted}
        row |= {f"lost_{cause}": run.lost[cause] for cause in CAUSES}
        if self.failures is not None:
            row |= chance_columns(run, self.failures, job.accelerators, self.cluster.groups[0].node.accelerators)
        row |= {"clock": self.cluster.groups[0].node.accelerator.clock}
        row |= self.power.columns(job.name) if self.power is not None else {}
        row["contention_slow_down"] = run.wall / (run.wall - run.lost["network"]) if run.wall > 0 else 1.0
        row |= money_columns(charge, run.end - run.start, run.steps * job.batch.tokens)
        row |= self._to_goal(row)
        tables["summary"] = {key: [value] for key, value in row.items()}
        tables["costs"] = item_rows(charge.items)
        if self.shared is not None and run.lost["network"] > 0:
            tables["contention"] = contention_table(self.shared.fabric, job.name)
        if run.checkpoints or run.events:
            tables["events"] = _events(job.name, run)
        return tables, {job.name: answer, f"{job.name}.run": run}

    def _to_goal(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Time and money until the goal is reached, at the pace of this run: interruptions included."""
        if "steps_needed" not in row or not row["steps"]:
            return {}
        share = row["steps_needed"] / row["steps"]
        return {"time_to_train": share * row["training_seconds"], "usd_to_train": share * float(row["usd"])}

    def _estimate_with_timeline(self) -> Estimate:
        details: dict[str, Any] = dict(self.estimate.details)
        if self.estimate.feasible:
            details |= timeline_tables(details["pipeline"], details["run"])
        return replace(self.estimate, details=details)


def chance_columns(run: TrainingRun, model: FailureModel, accelerators: int, per_node: int) -> dict[str, float]:
    """Central 80 % intervals of the interruptions and of the effective time, for what is not known of the failures.

    As many interruptions as the ends of the interval, each as costly as those of this run were.
    """
    low, high = count_interval(model.expected(run.wall, accelerators, per_node), model.observed, model.site_spread)
    found = {"interruptions_low": float(low), "interruptions_high": float(high)}
    if not run.interrupted or not run.useful:
        return found
    lost = sum(run.lost[cause] for cause in ("rework", "detection", "node", "restart", "reload"))
    worst, best = (run.useful / (run.wall + (number / run.interrupted - 1.0) * lost) for number in (high, low))
    return found | {"effective_time_ratio_low": worst, "effective_time_ratio_high": best}


def _events(name: str, run: TrainingRun) -> Columns:
    """Checkpoints, failures and recoveries of a job in time order."""
    rows = [TrainingEvent(begin, "checkpoint written", f"{end - begin:.6g} s") for begin, end in run.checkpoints]
    rows = sorted([*rows, *run.events], key=lambda row: row.time)
    return {
        "time": [row.time for row in rows],
        "workload": [name] * len(rows),
        "replica": [0] * len(rows),
        "event": [row.event for row in rows],
        "detail": [row.detail for row in rows],
        "steps": [float(row.steps) for row in rows],
    }


def training_bill(
    job: TrainingJob, cluster: Cluster, estimate: Estimate, seconds: float, begin: float = 0.0,
    metered: float | None = None,
) -> Bill:  # fmt: skip
    """Energy and money of ``seconds`` of training steps from ``begin`` on [s].

    ``metered``: what its devices drew beyond idling [J], where that is known.
    """
    accelerators = job.accelerators
    draw = mean_draw(cluster, accelerators, *step_shares(estimate, cluster))
    energy = draw.energy(seconds, 0.0) if metered is None else draw.metered(seconds, metered, cluster.site.pue)
    return bill(job.name, cluster, accelerators, seconds, energy, hours=(begin, begin + seconds))


def step_shares(estimate: Estimate, cluster: Cluster) -> tuple[float, float]:
    """Shares of the peak FLOP/s and of the memory bandwidth that a step uses.

    The roofline bound over the step time says how much of each operation's own peak is used, whatever its type: HFU
    would not, it is quoted against the 16-bit peak and counts weight gradients that adapters do not have.
    """
    device = cluster.groups[0].node.accelerator
    compute = estimate.floor / estimate.seconds * device.clock * device.pace
    return compute, estimate.traffic.by_link.get("hbm", 0.0) / estimate.seconds / device.memory_bandwidth
