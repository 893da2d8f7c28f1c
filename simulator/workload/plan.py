"""A Plan: how one job is spread over accelerators. A value: printed, hashed, compared, searched over."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from types import MappingProxyType

from simulator.workload.ops import Mesh
from simulator.workload.stage import Stage

__all__ = ["AXES", "GROUP_OPTIONS", "SHORT_NAMES", "Plan", "base_axis", "key_of_plans", "sub_axis"]

AXES = ("tp", "cp", "dp", "pp")
"""Mesh axes from innermost (neighbouring ranks) to outermost: Megatron's rank order tp-cp-dp-pp.

Expert parallelism re-uses the ranks of ``cp`` and ``dp`` inside a pipeline stage (Megatron's ep inside dp)."""

SHORT_NAMES = {
    "tp": "tensor_parallel", "sp": "sequence_parallel", "cp": "context_parallel", "pp": "pipeline_parallel",
    "vpp": "virtual_stages", "dp": "data_parallel", "ep": "expert_parallel",
}  # fmt: skip
"""Short forms accepted on the command line and used in the short form of a plan."""

GROUP_OPTIONS: dict[str, tuple[str, ...]] = {
    "shard_group": ("dpcp", "edp"), "parameter_group": ("dpcp", "edp"), "gradient_group": ("dpcp", "edp"),
    "optimizer_group": ("dpcp", "edp"), "secondary_group": ("dpcp", "edp"), "local_group": ("dpcp", "edp"),
    "tensor_rows": ("tp",), "tensor_depth": ("tp",), "expert_group": ("ep",),
}  # fmt: skip
"""Options whose value cuts an axis into groups of that many neighbouring ranks, with the axes they cut.

The mesh then has a sub-axis for every pair of cuts: ``dpcp[8:64]`` joins the ranks at equal places of the groups of
8 inside a group of 64 (8 ranks, 8 apart), ``dpcp[1:8]`` the neighbours of one group. Expert-replica groups take the
greatest common divisor of the asked size and the axis.
"""


def sub_axis(axis: str, inner: int, outer: int, whole: int) -> str:
    """Name of the axis that joins groups of ``inner`` ranks into groups of ``outer``; the axis itself if it is all."""
    return axis if (inner, outer) == (1, whole) else f"{axis}[{inner}:{outer}]"


def base_axis(axis: str) -> str:
    """The axis that a sub-axis cuts: ``dpcp[8:64]`` → ``dpcp``."""
    return axis.partition("[")[0]


def _group_size(value: object) -> int:
    """Size of a group, 0 where the option does not name one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


@dataclass(frozen=True)
class Plan:
    """Mesh sizes and decisions.

    Attributes
    ----------
    tensor_parallel, context_parallel, pipeline_parallel, data_parallel
        Degrees; their product is the number of accelerators.
    expert_parallel
        Ranks over which the routed experts of a layer are spread; divides context_parallel × data_parallel, times
        tensor_parallel where ``expert_tensor_parallel`` is 1.
    sequence_parallel
        Split the residual stream along the sequence over the tensor-parallel ranks (Korthikanti 2022).
    virtual_stages
        Model chunks per pipeline rank (interleaving), 1 = none.
    schedule
        Name of a registered pipeline schedule.
    zero_stage
        0: replicate; 1: shard optimizer states; 2: + gradients; 3: + parameters over data-parallel ranks.
    recompute
        Name of a registered recomputation strategy: ``none``, ``selective``, ``full`` ...
    precision
        Name of a registered precision recipe: ``bf16``, ``fp16``, ``fp8`` ...
    offload
        Name of a registered offload strategy, ``none`` by default.
    options
        Further keys of the chosen strategies, sorted by name.
    stages
        One :class:`~simulator.workload.stage.Stage` per pipeline rank where they differ; empty: all are alike. Then the
        fields above are what a stage has that says nothing else, and ``data_parallel`` is what micro-batches are
        counted by.
    """

    tensor_parallel: int = 1
    context_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: int = 1
    sequence_parallel: bool = False
    virtual_stages: int = 1
    schedule: str = "1f1b"
    zero_stage: int = 0
    recompute: str = "none"
    precision: str = "bf16"
    offload: str = "none"
    options: tuple[tuple[str, object], ...] = ()
    stages: tuple[Stage, ...] = ()

    @cached_property
    def mesh(self) -> Mesh:
        """Sizes by axis: tp, cp, dp, pp, ep, ``edp`` = replicas of an expert shard, and sub-axes of group options."""
        sizes = dict(self._sizes)
        for axis in {a for name, _ in self.options for a in GROUP_OPTIONS.get(name, ())}:
            cuts = sorted({1, sizes[axis], *(self.group_size(name, axis, 1) for name, _ in self.options)})
            pairs = ((a, b) for i, a in enumerate(cuts) for b in cuts[i:] if b % a == 0)
            sizes |= {sub_axis(axis, a, b, sizes[axis]): b // a for a, b in pairs}
        return MappingProxyType(sizes)

    def group_size(self, option: str, axis: str, default: int) -> int:
        """Ranks of ``axis`` in one group of a group option; ``default`` where it is not given."""
        asked = _group_size(self.option(option)) if axis in GROUP_OPTIONS.get(option, ()) else 0
        return math.gcd(asked, self._sizes[axis]) if asked else default

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Axes without the cuts of group options."""
        return {
            "tp": self.tensor_parallel,
            "cp": self.context_parallel,
            "dp": self.data_parallel,
            "pp": self.pipeline_parallel,
            "ep": self.expert_parallel,
            "edp": max(1, self.expert_ranks // self.expert_parallel),
            "dpcp": self.data_parallel * self.context_parallel,
        }

    @property
    def folds_experts(self) -> bool:
        """Whether tensor-parallel ranks hold whole experts of their own (option ``expert_tensor_parallel`` 1)."""
        return self.option("expert_tensor_parallel") == 1 and min(self.tensor_parallel, self.expert_parallel) > 1

    @property
    def expert_ranks(self) -> int:
        """Ranks of a pipeline stage over which experts and their replicas are spread."""
        tensor_ranks = self.tensor_parallel if self.folds_experts else 1
        return tensor_ranks * self.data_parallel * self.context_parallel

    @property
    def accelerators(self) -> int:
        """Number of ranks."""
        if self.stages:
            return sum(self.stage_size(rank) for rank in range(len(self.stages)))
        return self.tensor_parallel * self.context_parallel * self.pipeline_parallel * self.data_parallel

    @cached_property
    def stage_plans(self) -> tuple[Plan, ...]:
        """What every pipeline rank does, by itself: plans without ``stages``, equal ones the same object."""
        if not self.stages:
            return (self,) * self.pipeline_parallel
        made: dict[tuple[tuple[str, object], ...], Plan] = {}
        found = []
        for stage in self.stages:
            changes = stage.changes()
            key = tuple(changes.items())
            if key not in made:
                plan = replace(self, stages=(), **changes)  # type: ignore[arg-type]
                made[key] = next((p for p in made.values() if p == plan), plan)
            found.append(made[key])
        return tuple(found)

    def stage_size(self, rank: int) -> int:
        """Accelerators of a pipeline rank."""
        plan = self.stage_plans[rank]
        return plan.tensor_parallel * plan.context_parallel * plan.data_parallel

    @cached_property
    def unequal(self) -> bool:
        """Whether its stages have degrees or decisions of their own, not only layers and places."""
        return len({id(plan) for plan in self.stage_plans}) > 1 or any(s.accelerator for s in self.stages)

    def option(self, name: str, default: object = None) -> object:
        """A strategy option, or ``default``."""
        return dict(self.options).get(name, default)

    def with_(self, **changes: object) -> Plan:
        """A copy with some fields changed; names that are not fields become options."""
        known = {f.name for f in fields(self)}
        direct = {k: v for k, v in changes.items() if k in known}
        extra = {k: v for k, v in changes.items() if k not in known}
        options = tuple(sorted({**dict(self.options), **extra}.items())) if extra else self.options
        return replace(self, **{"options": options, **direct})  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [f"tp{self.tensor_parallel}" + ("+sp" if self.sequence_parallel else "")]
        parts += [f"{a}{n}" for a, n in (("cp", self.context_parallel), ("ep", self.expert_parallel)) if n > 1]
        parts.append(f"pp{self.pipeline_parallel}" + (f"x{self.virtual_stages}" if self.virtual_stages > 1 else ""))
        parts.append(f"dp{self.data_parallel}")
        if self.pipeline_parallel > 1:
            parts.append(self.schedule)
        parts += [f"zero{self.zero_stage}"] * (self.zero_stage > 0)
        parts += [f"recompute={self.recompute}"] * (self.recompute != "none")
        parts += [self.precision] + [f"offload={self.offload}"] * (self.offload != "none")
        parts += [f"{name}={value}" for name, value in self.options]
        parts += [f"stages[{'; '.join(map(str, self.stages))}]"] * bool(self.stages)
        return " ".join(parts)


def key_of_plans(plans: Iterable[str]) -> str:
    """What the short names in short forms of plans stand for, in the keys of a scenario; empty if there are none.

    >>> key_of_plans(["tp4+sp pp2x3 bf16", "tp4 pp1 zero1"])
    'tp tensor_parallel, sp sequence_parallel, pp pipeline_parallel, x virtual_stages, zero zero_stage'
    """
    text = " ".join(plans)
    patterns = {short: rf"(?<![a-z]){short}\d" for short in (*SHORT_NAMES, "zero")}
    patterns |= {"sp": r"\+sp\b", "vpp": r"(?<![a-z])pp\d+x"}
    names = SHORT_NAMES | {"zero": "zero_stage"}
    found = [short for short in names if re.search(patterns[short], text)]
    return ", ".join(f"{'x' if short == 'vpp' else short} {names[short]}" for short in found)
