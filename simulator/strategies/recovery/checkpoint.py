"""Recovery from a saved state: in storage, in the memory of peers, or saved when something has failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from simulator.registry import register
from simulator.strategies.cluster_protocols import JobFacts, Protection, Restoration
from simulator.workload.plan import Plan

__all__ = ["CheckpointRestart", "Gemini", "JustInTime", "daly_interval", "survival_probability", "young_interval"]


def young_interval(save: float, mttf: float) -> float:
    """Work between two checkpoints that loses the least time, to first order [s]: √(2·save·mttf).

    Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (1974).
    """
    return math.sqrt(2.0 * save * mttf)


def daly_interval(save: float, mttf: float) -> float:
    """As :func:`young_interval`, to higher order.

    √(2δM)·(1 + ⅓·√(δ/2M) + (1/9)·δ/2M) − δ for δ < 2M, else M: Daly, "A higher order estimate of the optimum
    checkpoint interval for restart dumps", FGCS 22 (2006), equation 37.
    """
    if save >= 2.0 * mttf:
        return mttf
    ratio = save / (2.0 * mttf)
    return math.sqrt(2.0 * save * mttf) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save


@register(
    "checkpoint-restart", kind="policy", area="cluster", family="recovery",
    cites=("Young, CACM 1974", "Daly, FGCS 2006", "Mohan et al., CheckFreq, FAST 2021"), validated_by="closed_form",
)  # fmt: skip
class CheckpointRestart:
    """Wait for a full set of nodes, start again, read the last checkpoint from storage."""

    name: str

    def check(self, plan: Plan) -> str:
        """Any layout can be saved and loaded."""
        return ""

    def protect(self, job: JobFacts) -> Protection:
        """Nothing beyond the checkpoints that the job writes anyway."""
        return Protection()

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """Everything since the last checkpoint is done again."""
        return Restoration("storage")


def survival_probability(nodes: int, copies: int, lost: int) -> float:
    """Probability that ``lost`` of ``nodes`` machines failing at once leaves a copy of every state in memory.

    Machines form groups of ``copies`` that hold each other's states, so that a group must not be lost as a whole;
    exact for every number of losses, by inclusion and exclusion over the groups. GEMINI (SOSP 2023, section 4) gives
    its first term as a bound, 1 − (N/m)·C(N−m, k−m)/C(N, k), which is exact below 2m losses.

    Raises
    ------
    ValueError
        If ``copies`` does not divide ``nodes``.
    """
    if copies < 1 or nodes % copies:
        raise ValueError(f"{nodes} machines do not form groups of {copies}")
    groups = nodes // copies
    hit = sum(
        (-1) ** (j + 1) * math.comb(groups, j) * math.comb(nodes - j * copies, lost - j * copies)
        for j in range(1, min(groups, lost // copies) + 1)
    )
    return float(1.0 - hit / math.comb(nodes, lost))


@register(
    "gemini", kind="policy", area="cluster", family="recovery", cites=("Wang et al., GEMINI, SOSP 2023",),
    catalogue=("GEMINI",), validated_by="closed_form",
)  # fmt: skip
class Gemini:
    """Every step leaves a copy of the state in the host memory of peers, sent in the idle gaps of the network.

    Parameters
    ----------
    copies
        Of each node's state, its own included; nodes form groups of as many, the last one takes what remains.
    """

    name: str

    def __init__(self, copies: int = 2) -> None:
        self.copies = copies

    def check(self, plan: Plan) -> str:
        """Any layout."""
        return ""

    def protect(self, job: JobFacts) -> Protection:
        """Copies go out every k steps, the smallest k for which their bytes fit into the gaps of the network."""
        share = job.state / job.nodes
        sent = (self.copies - 1) * share
        gap = max(job.step - job.scale_out_time, 0.05 * job.step) * job.network
        every = max(1, math.ceil(sent / gap)) if math.isfinite(gap) else 1
        # A second buffer holds the copy that is under way: a half-written one is worth nothing.
        return Protection(memory_every=every, network=sent / every, host_memory=2 * self.copies * share)

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """From memory, unless a whole group is gone: then from storage."""
        groups = max(1, job.nodes // self.copies)
        size = dict.fromkeys(range(groups), self.copies) | {groups - 1: job.nodes - (groups - 1) * self.copies}
        lost = Counter(min(p // self.copies, groups - 1) for p in missing)
        if any(count >= size[group] for group, count in lost.items()):
            return Restoration("storage")
        share = job.state / job.nodes
        return Restoration("memory", moves=share if missing else 0.0, local=share / job.per_node / job.host_link)


@register(
    "just-in-time", kind="policy", area="cluster", family="recovery",
    cites=("Gupta et al., Just-In-Time Checkpointing, EuroSys 2024",), validated_by="closed_form",
)  # fmt: skip
class JustInTime:
    """Healthy data-parallel copies save the state after a failure, so that one step is lost at most."""

    name: str

    def check(self, plan: Plan) -> str:
        """A copy of every state must be left."""
        if plan.data_parallel < 2:
            return "just-in-time checkpoints are written by another data-parallel copy, but data_parallel is 1"
        if plan.zero_stage >= 1:
            return (
                f"zero_stage {plan.zero_stage} leaves no second copy of the optimizer states to save: use zero_stage 0 "
                f"or another recovery"
            )
        return ""

    def protect(self, job: JobFacts) -> Protection:
        """Nothing is saved before something fails."""
        return Protection()

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """Save, restart, read; from the last checkpoint when all copies of a part are gone."""
        return Restoration("storage") if not copies_left(job, missing) else Restoration("step", saves_first=True)


def copies_left(job: JobFacts, missing: Sequence[int]) -> bool:
    """Whether every pipeline stage still has a data-parallel copy no node of which is missing."""
    stages = job.plan.pipeline_parallel
    ranks = job.plan.accelerators // stages // job.plan.data_parallel
    broken: dict[int, set[int]] = {}
    per_stage = job.plan.accelerators // stages
    for position in missing:
        first = position * job.per_node
        for rank in range(first, first + job.per_node):
            stage, inside = divmod(rank, per_stage)
            broken.setdefault(stage, set()).add(inside // ranks)
    return all(len(copies) < job.plan.data_parallel for copies in broken.values())
