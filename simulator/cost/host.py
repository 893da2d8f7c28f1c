"""Seconds that a host needs to launch a layer: counted calls times constants that every framework shares.

An eager framework runs one Python program per rank. What a layer costs it is the number of operators that the program
calls, in the forward and from autograd, and the number of collectives; both are facts of its source and stand in
``workloads/frameworks/*.yaml``. What one call costs is a property of PyTorch and the processor, not of the framework,
and is fitted once over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from simulator.constants import Constant, Trust
from simulator.cost.network import CommGroup
from simulator.workload.framework import Framework
from simulator.workload.ops import Phase

__all__ = ["CHECK", "CHECK_INSIDE", "COLLECTIVE", "GROUP", "OPERATOR", "SLICE", "HostCost"]

OPERATOR = Constant(
    "host.operator", 17e-6, "s", 0.15, Trust.FITTED,
    "benchmarks/fits/training_host.py: host-bound steps of nanotron (gkarfakis19/Rapid-LLM @317a2cb, H100), one "
    "source; its prior is 12 us",
)  # fmt: skip
COLLECTIVE = Constant(
    "host.collective", 40e-6, "s", 0.5, Trust.FITTED,
    "benchmarks/fits/training_host.py: as host.operator, steps of nanotron, which do not move it from its prior",
)  # fmt: skip
CHECK = Constant(
    "host.collective_check", 0.32e-3, "s", 0.15, Trust.MEASURED,
    "benchmarks/fits/checked_collectives.py: all-gathers of 64 to 256 ranks timed inside the jobs of the "
    "nanotron sweep (gkarfakis19/Rapid-LLM @317a2cb), none of its step times",
)  # fmt: skip
CHECK_INSIDE = Constant(
    "host.collective_check_inside", 0.22e-3, "s", 0.15, Trust.FITTED,
    "benchmarks/fits/checked_collectives.py: steps of the nanotron sweep (gkarfakis19/Rapid-LLM @317a2cb) whose tensor "
    "parallelism stays in a node; 0.21, 0.23 and 0.22 ms for groups of 2, 4 and 8; one source",
)  # fmt: skip

SLICE = Constant(
    "host.slice", 3e-6, "s", 0.25, Trust.FITTED,
    "benchmarks/fits/zero3_slices.py: steps of DeepSpeed's ZeRO-3 (Narayanan 2021, table 2, and DeepSpeed on Azure "
    "2022); 2.25 us without the former, 3.25 us without the latter",
)  # fmt: skip
"""A view or a copy that a loop over ranks calls for each: no module, no autograd."""

GROUP = Constant(
    "host.group", 9e-6, "s", 0.2, Trust.MEASURED,
    "benchmarks/fits/grouped_linears.py: a GEMM of a few rows in loops of Transformer Engine's grouped GEMM on B200, "
    "80 to 256 of them a call (MooreThreads/SimuMax @4dcaae5), 8.6 to 11.0 us, median 9.2; one source",
)  # fmt: skip
"""One GEMM of a grouped linear, launched from a loop in C++: no Python, no autograd."""

OWN = {
    OPERATOR.id: "host_per_operator", COLLECTIVE.id: "host_per_collective",
    CHECK.id: "host_per_check", CHECK_INSIDE.id: "host_per_check_inside", SLICE.id: "host_per_slice",
}  # fmt: skip
"""Keys of a framework's own constants in place of the shared ones, by the id of the latter."""


class HostCost:
    """Host time of one framework.

    Parameters
    ----------
    framework
        Counts of operators, or ``host_per_layer`` where it has none.
    scale
        Factors on constants by id.
    """

    def __init__(self, framework: Framework, scale: Mapping[str, float] | None = None) -> None:
        self.framework, self._scale = framework, dict(scale or {})
        own = framework.constants
        self._operator, self._collective = (own.get(OWN[c.id], c) for c in (OPERATOR, COLLECTIVE))
        self._check, self._check_inside = (own.get(OWN[c.id], c) for c in (CHECK, CHECK_INSIDE))
        self._slice = own.get(OWN[SLICE.id], SLICE)
        self._per_layer = framework.constants.get("host_per_layer")
        self._per_step = framework.constants.get("host_per_step")
        self._per_message = framework.constants.get("host_per_message")
        self.counted = framework.operators_forward > 0

    @property
    def constants(self) -> tuple[Constant, ...]:
        """What :meth:`layer` rests on."""
        if not self.counted:
            return (self._per_layer,) if self._per_layer else ()
        checks = (self._check, self._check_inside) if self.framework.checked_collectives else ()
        slices = (self._slice,) if self.framework.gathers_by_parameter else ()
        groups = (GROUP,) if self.framework.gemm_per_expert else ()
        return (self._operator, self._collective, *checks, *slices, *groups)

    @property
    def step_constants(self) -> tuple[Constant, ...]:
        """What :meth:`step` rests on."""
        each = self.framework.operators_per_parameter or self.framework.operators_per_shard
        counted = (self._operator,) if each else ()
        slices = (self._slice,) if self.framework.gathers_by_parameter else ()
        return (*(c for c in (self._per_step, self._per_message) if c), *counted, *slices)

    def layer(
        self, passes: Mapping[Phase, float], copies: int, groups: Iterable[CommGroup], experts: int = 0,
        latent: bool = False,
    ) -> float:  # fmt: skip
        """Time to launch a pass through ``copies`` equal layers [s].

        Parameters
        ----------
        passes
            Phases that occur in the pass, and the share of the forward's kernels that each repeats (1 but where part
            of a layer is recomputed).
        copies
            Layers.
        groups
            Group of each collective call of the pass.
        experts
            Routed experts of a layer that the rank holds; 0: the layers have none.
        latent
            Whether its attention is over keys and values of low rank.
        """
        if not self.counted:
            return copies * self._value(self._per_layer) * sum(passes.values())
        forward = passes.get(Phase.FORWARD, 0.0) + passes.get(Phase.RECOMPUTE, 0.0)
        backward = (passes.get(Phase.BACKWARD, 0.0) + passes.get(Phase.WEIGHT_GRADIENT, 0.0)) / 2
        f = self.framework
        counts = [f.operators_forward, f.operators_backward]
        if latent:
            counts[0] += f.operators_latent_forward
            counts[1] += f.operators_latent_backward
        each = 0.0
        if experts:
            counts[0] += f.operators_routed_forward + experts * f.operators_per_expert_forward
            counts[1] += f.operators_routed_backward + experts * f.operators_per_expert_backward
            if f.gemm_per_expert:  # two linears: a GEMM each forward, two backward
                each = experts * (2.0 * forward + 4.0 * backward) * self._value(GROUP)
        seconds = copies * ((forward * counts[0] + backward * counts[1]) * self._value(self._operator) + each)
        return seconds + sum(self._value(self._collective) + self.check(group) for group in groups)

    def check(self, group: CommGroup) -> float:
        """Time that a group spends on the host before one of its collectives may begin [s].

        One rank asks all others in turn (pytorch ProcessGroupGloo::monitoredBarrier): those of its node over the
        loopback, the others over the network.
        """
        if not self.framework.checked_collectives or group.ranks < 2:
            return 0.0
        beyond = group.ranks - group.ranks_per_node
        return self._value(self._check_inside) * group.ranks_per_node + self._value(self._check) * beyond

    def shards(self, parameters: int, ranks: int) -> float:
        """Time to slice so many parameter tensors into the parts of the ranks, and to copy the parts back [s]."""
        each = self.framework.operators_per_shard * self._value(self._operator)
        return each * parameters * ranks if ranks > 1 else 0.0

    def slices(self, count: float) -> float:
        """Time of so many views and copies of one rank's part of a tensor each [s]."""
        return count * self._value(self._slice)

    @property
    def behind_loss(self) -> float:
        """Time from reading the loss of a micro-batch to the first kernel of its backward [s]."""
        return self.framework.operators_behind_loss * self._value(self._operator)

    @property
    def message(self) -> float:
        """Time that sender and receiver of a pipeline message spend on the host around it [s]."""
        return self._value(self._per_message)

    def step(self, parameters: int) -> float:
        """Host time of a training step beside its layers, of a rank that holds so many parameter tensors [s]."""
        counted = parameters * self.framework.operators_per_parameter * self._value(self._operator)
        return self._value(self._per_step) + counted

    def _value(self, constant: Constant | None) -> float:
        return constant.value * self._scale.get(constant.id, 1.0) if constant else 0.0
