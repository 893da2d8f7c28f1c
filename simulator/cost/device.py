"""Seconds of one Op on one accelerator: launch + smooth maximum of compute and memory time, never below the roofline.

GEMM
    t = t0 + ((F / (e_f·P))^p + (Q / (e_b·BW))^p)^(1/p), with F FLOPs, Q bytes, P and BW of the datasheet. Fitted to
    about 24,000 shapes per device: median error 6-9 % in bf16 where max(F/P, Q/BW) is off by 23-43 %.
grouped GEMM
    The same with FLOPs rounded up to whole tiles and waves: experts see few rows and libraries cannot split K there.
attention
    See :mod:`simulator.cost.attention`.
experts
    Blocks of served mixtures by the engine's library, where it was timed: :mod:`simulator.cost.expert_kernels`.
elementwise, copy
    t = t0 + bytes / (e·BW); kernels of a training step that gather and scatter the rows of experts have an e of their
    own (``permute``).

A kernel of a model on a processor that is its own host also waits for Python: the constant ``sequence.between`` of
its profile (``between_recorded`` where autograd records), measured on models, is added to each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from simulator.constants import Constant, ConstantSet, Trust
from simulator.cost.attention import Attention, DecodeCoefficients
from simulator.cost.expert_kernels import price_experts
from simulator.cost.experts import is_block, kernels_of, unaligned
from simulator.cost.kernel_table import BEYOND_SIGMA, KernelTable, coordinates, load_rows
from simulator.cost.kernels import (
    CAST_BYTES,
    EAGER_LAUNCH,
    GRAPH_LAUNCH,
    SELECTION,
    SUMMED_IN_HALF,
    UNPACKED_EXPERT_BYTES,
    UNPACKED_EXPERT_START,
    expert_spread,
    grouped_gemm_flops,
    smooth_max,
    unaligned_experts,
    unpacked_experts,
)  # fmt: skip
from simulator.cost.own_kernels import OWN_KERNELS, OwnKernels
from simulator.cost.priced import FREE, Bound, Priced, weakest
from simulator.cost.resolve import Resolver, curve_dtype, fitted_accelerators
from simulator.hardware.types import Accelerator
from simulator.workload.framework import Framework
from simulator.workload.operators import INDEX, SELECT
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

__all__ = ["OWN_KERNELS", "DeviceCost"]

BETWEEN, BETWEEN_RECORDED = "sequence.between", "sequence.between_recorded"
"""Time between kernels of a model on a processor that is its own host, without and with autograd."""

TENSOR_SCALED = "tensor_scaled"
"""Curve of fp8 GEMMs in a training step: one scale per tensor. ``gemm.fp8`` belongs to kernels of serving engines."""

PERMUTATIONS = ("dispatch", "combine", "sort")
"""Operators of a training step that gather rows for experts and put them back: slower than reading in order."""

_tables: dict[tuple[str, int, str], KernelTable] = {}
"""Measured kernels by file, its age and the framework whose launches are in the curve."""


class DeviceCost:
    """Prices work that one accelerator does alone.

    Parameters
    ----------
    accelerator
        The device.
    framework
        Engine that launches the kernels: attention kernel generation, CUDA graphs. None: a current eager engine.
    scale
        Factors on constants by id (for intervals and what-if questions); 1 where absent.
    relatives
        Devices to borrow constants from; by default the shipped ones with measured curves.
    recorded
        Kernels of a training step, which autograd records.

    Notes
    -----
    ``Work.flops`` are FLOPs *executed*: a causal kernel's half of the scores, and for attention's backward 2.5 times
    the forward's (a fused kernel recomputes the scores). ``Work.dtype`` of a decode attention is the type of the cache.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        framework: Framework | None = None,
        scale: Mapping[str, float] | None = None,
        relatives: Sequence[Accelerator] | Callable[[], Sequence[Accelerator]] = fitted_accelerators,
        recorded: bool = False,
    ) -> None:
        self.accelerator = accelerator
        self.framework = framework
        self._recorded = recorded
        self._relatives = relatives
        self._resolver = Resolver(accelerator, relatives)
        self._resolver.constants.scale.update(scale or {})
        self._start()

    def _start(self) -> None:
        self._values = self._resolver.constants
        self._memo: dict[Work, Priced] = {}
        self._attention = Attention(self)
        self.engine = OwnKernels(self)

    @property
    def constants(self) -> ConstantSet:
        """Constants used so far, with the factors in force; it grows as new kinds of work are priced."""
        return self._values

    def moved(self, scale: Mapping[str, float]) -> DeviceCost:
        """The same device with the constants in ``scale`` multiplied; what was resolved is shared."""
        other = object.__new__(DeviceCost)
        other.accelerator, other.framework, other._resolver = self.accelerator, self.framework, self._resolver
        other._relatives, other._recorded = self._relatives, self._recorded
        other._start()
        other._values = self._values.moved(scale)
        return other

    def price(self, work: Work) -> Priced:
        """Time of ``work`` and what it rests on.

        Raises
        ------
        ValueError
            If ``work`` is communication, which :class:`~simulator.cost.network.NetworkCost` prices.
        """
        known = self._memo.get(work)
        if known is None:
            known = self._memo[work] = self._in_sequence(self.alone(work))
        return known

    def alone(self, work: Work) -> Priced:
        """Time of ``work`` as a benchmark of one kernel measures it."""
        return self._corrected(work, self._price(work))

    def tabulated(self, work: Work) -> bool:
        """Whether kernels of this kind were measured on the device."""
        return self._table is not None and coordinates(work)[0] in self._table.keys

    def curve(self, work: Work) -> float:
        """Seconds by the fitted curve alone, without the kernels measured on the device [s]."""
        return self._price(work).seconds

    def decode_attention_coefficients(self, work_template: Work) -> DecodeCoefficients:
        """Coefficients ``(constant, per_sequence, per_context_token)`` [s] of decode attention.

        ``work_template`` is the decode attention of any batch and context; its sizes per sequence and per token of
        context are what counts.
        """
        found = self._attention.decode_coefficients(work_template)
        return found._replace(constant=found.constant + self._between([]))

    def decode_attention(self, batch: int, total_context: float, work_template: Work) -> float:
        """Seconds of decode attention for ``batch`` sequences with ``total_context`` tokens together (affine in it)."""
        constant, per_sequence, per_token = self.decode_attention_coefficients(work_template)
        return constant + per_sequence * batch + per_token * total_context

    # -- used by the kernel families -----------------------------------------------------------------------------

    def value(self, key: str, used: list[str]) -> float:
        """Value of the device's constant ``key``; its id is appended to ``used``."""
        name = self._resolver.id(key)
        used.append(name)
        return self._values[name]

    def share(self, key: str, used: list[str]) -> float:
        """A share of a datasheet rate, at most 1: with more, a time would fall below the roofline."""
        return min(1.0, self.value(key, used))

    def shared(self, constant: Constant, used: list[str]) -> float:
        """Value of a constant that belongs to kernels of many devices."""
        used.append(self._resolver.add(constant))
        return self._values[constant.id]

    def launch(self, key: str, used: list[str], without: str = "") -> float:
        """Fixed time of a kernel [s], less that of one that was timed with it and does not run (``without``).

        Tables are of eager launches: in a CUDA graph the host's launch share falls to the graph's node time.
        """
        fixed = max(0.0, self.value(key, used) - (self.value(without, used) if without else 0.0))
        if self.framework is None or not self.framework.cuda_graphs:
            return fixed
        graph, eager = self.shared(GRAPH_LAUNCH, used), self.shared(EAGER_LAUNCH, used)
        return max(min(graph, fixed), fixed - max(0.0, eager - graph))

    def floor(self, work: Work) -> float:
        """Roofline bound of ``work`` [s]."""
        compute = work.flops / self.accelerator.rate(work.dtype) if work.flops else 0.0
        return max(compute, (work.bytes - work.near) / self.accelerator.memory_bandwidth)

    def reading(self, work: Work, curve: str, used: list[str]) -> float:
        """Seconds per byte of ``work`` by the rates of ``curve``; bytes a benchmark found in the cache come faster."""
        pace = 1.0 / self.share(f"{curve}.memory", used)
        if work.near > 0.0:
            near = min(1.0, work.near / work.bytes)
            pace += near * (1.0 / self.value(f"{curve}.cached", used) - pace)
        return pace / self.accelerator.memory_bandwidth

    def priced(self, work: Work, seconds: float, bound: Bound, used: Sequence[str]) -> Priced:
        """Wrap up: the floor holds, and the weakest trust is named."""
        floor = self.floor(work)
        ids = tuple(dict.fromkeys(used))
        trust = weakest(self._values.entries[i].trust for i in ids)
        return Priced(max(seconds, floor), floor, bound, ids, trust)

    def _corrected(self, work: Work, fitted: Priced) -> Priced:
        """The fitted price, corrected by kernels measured on the device where there are some."""
        table = self._table
        if table is None or (found := table.correction(work)) is None:
            return fitted
        name = f"{self.accelerator.name}.table.{found.key}"
        source = f"kernels measured on this device, interpolated: {Path(self.accelerator.kernel_table).name}"
        if found.inside:
            used = list[str]()
            factor = self.shared(Constant(name, 1.0, "", found.sigma, Trust.MEASURED, source), used)
            # Measured at full speed; at a lower one the same residual holds on the slower curve.
            slowed = self.accelerator.clock * self.accelerator.pace < 1.0
            body = fitted.seconds if slowed else table.base(work)
            used += fitted.constants if slowed else ()
            return self.priced(work, factor * found.factor * body, fitted.bound, used)
        used = list(fitted.constants)
        source = f"sizes outside the measured ones, fitted curve: {Path(self.accelerator.kernel_table).name}"
        beyond = Constant(f"{name}.beyond", 1.0, "", BEYOND_SIGMA, Trust.FITTED, source)
        factor = self.shared(beyond, used)
        return self.priced(work, factor * found.factor * fitted.seconds, fitted.bound, used)

    def _between(self, used: list[str]) -> float:
        """Seconds from one kernel of a model to the next; 0 for devices that a host launches ahead."""
        gap = BETWEEN_RECORDED if self._recorded else BETWEEN
        return self.value(gap, used) if gap in self.accelerator.efficiency else 0.0

    def _in_sequence(self, priced: Priced) -> Priced:
        used = list[str]()
        gap = self._between(used)
        if not gap or priced is FREE:
            return priced
        return replace(priced, seconds=priced.seconds + gap, constants=(*priced.constants, *used))

    @cached_property
    def _table(self) -> KernelTable | None:
        """Measured kernels; their residuals are taken against the curve with every constant at its value."""
        path = self.accelerator.kernel_table
        if not path:
            return None
        key = (path, Path(path).stat().st_mtime_ns, self.framework.name if self.framework else "")
        known = _tables.get(key)
        if known is None:
            plain = DeviceCost(_at_full_speed(self.accelerator), self.framework, None, self._relatives)
            known = _tables[key] = KernelTable(load_rows(path), plain.curve)
        return known

    # -- families --------------------------------------------------------------------------------------------------

    def _price(self, work: Work) -> Priced:
        if work.kind in (OpKind.COLLECTIVE, OpKind.P2P):
            raise ValueError(f"{work.kind} is communication: price it with NetworkCost")
        if work.flops <= 0 and work.bytes <= 0 and work.message <= 0:
            return FREE
        if work.experts and (known := price_experts(self, work)) is not None:
            return known
        if is_block(work):
            return self._block(work)
        if work.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM):
            return self._gemm(work)
        if work.kind is OpKind.ATTENTION:
            return self._attention.price(work)
        if work.kind is OpKind.COPY and work.message > 0:
            return self._host_copy(work)
        return self._elementwise(work)

    def _block(self, work: Work) -> Priced:
        parts = [self._price(part) for part in kernels_of(work)]
        used = [name for part in parts for name in part.constants]
        bound = max(parts, key=lambda part: part.seconds).bound
        return self.priced(work, sum(part.seconds for part in parts), bound, used)

    def _curve_of(self, work: Work) -> str:
        """Section of the curve of a GEMM: grouped ones have their own where they were fitted on the device."""
        dtype = curve_dtype(self.accelerator, work.dtype.removesuffix(SUMMED_IN_HALF))
        grouped = work.kind is OpKind.GROUPED_GEMM and f"grouped_gemm.{dtype}.compute" in self.accelerator.efficiency
        return f"grouped_gemm.{dtype}" if grouped else f"gemm.{dtype}"

    def _gemm(self, work: Work) -> Priced:
        device, used = self.accelerator, list[str]()
        work, cast = self.engine.product(work, used)
        curve, start = self._curve_of(work), 0.0
        if work.dtype == "fp8" and curve == "gemm.fp8" and work.casts and self._recorded:
            curve, cast = f"{curve}.{TENSOR_SCALED}", self._cast(work, used)
        if work.casts and self._recorded:
            work = _cast_operands(work)
        flops = grouped_gemm_flops(work, device.sm_count) if work.kind is OpKind.GROUPED_GEMM else work.flops
        compute = flops / (self.share(f"{curve}.compute", used) * device.rate(work.dtype))
        memory = work.bytes * self.reading(work, curve, used)
        # The rows of experts are made narrow where they are sent off and where they are activated: here is no cast, and
        # not its launch either, which the curve's holds.
        if work.kind is OpKind.GEMM and work.casts and self._resolver.has(curve, "cast"):
            made = (2.0 + DTYPE_BYTES[work.dtype]) * work.m * work.k
            cast = made / (self.share(f"{curve}.cast", used) * device.memory_bandwidth)
        if self.engine.constants or work.dtype.endswith(SUMMED_IN_HALF):
            compute, memory = self.engine.times(work, compute, memory, used)
        if work.kind is OpKind.GROUPED_GEMM and work.dtype == "fp4" and "fp4" not in device.peak_flops:
            dense = self.engine.constants.get("gemm_share_unpacked")
            compute /= self.shared(unpacked_experts(dense, device.architecture), used)
            memory, start = max(memory, self._unpacking(work, used)), self.shared(UNPACKED_EXPERT_START, used)
        uncast = work.kind is OpKind.GROUPED_GEMM and self._resolver.has(curve, "cast")
        uncast = uncast or (curve.endswith(TENSOR_SCALED) and work.operator == "weight_gradient")
        launch = start + self.launch(f"{curve}.launch", used, without="elementwise.launch" if uncast else "")
        together = smooth_max(compute, memory, self.value(f"{curve}.sharpness", used))
        if work.kind is OpKind.GROUPED_GEMM:
            if unaligned(work):
                own, shared = f"{curve}.unaligned", unaligned_experts(device.architecture, work.dtype)
                together *= self.value(own, used) if own in device.efficiency else self.shared(shared, used)
            if curve.startswith("gemm"):
                together *= self.shared(expert_spread(device.architecture, work.dtype), used)
            launch += (work.groups - 1) * self._launch_of_each(used)
        bound: Bound = "launch" if launch > together else "compute" if compute >= memory else "memory"
        return self.priced(work, launch + together + cast, bound, used)

    def _launch_of_each(self, used: list[str]) -> float:
        """Fixed time of every further GEMM of a grouped linear [s], where each is launched by itself.

        Transformer Engine deals them to four streams, which hide none of it: benchmarks/fits/grouped_linears.py.
        """
        apart = self._recorded and self.framework is not None and self.framework.gemm_per_expert
        return self.launch("gemm.bf16.launch", used) if apart else 0.0

    def _unpacking(self, work: Work, used: list[str]) -> float:
        """Time in which fp4 weights are unpacked [s]; 0 where the device's multiprocessors are not known."""
        return self.engine.by_clock(work.bytes, self.shared(UNPACKED_EXPERT_BYTES, used))

    def _cast(self, work: Work, used: list[str]) -> float:
        """Time in which the input of an fp8 GEMM is cast [s]; a weight gradient finds both operands cast."""
        if work.operator == "weight_gradient":
            return 0.0
        share = self.share("elementwise.memory", used)
        return CAST_BYTES * work.m * work.k / (share * self.accelerator.memory_bandwidth)

    def _elementwise(self, work: Work) -> Priced:
        device, used = self.accelerator, list[str]()
        if work.rows and (by_rows := self._by_rows(work, used)) is not None:
            return by_rows
        # Engines that serve index rows inside the expert kernel; a measured table knows its own kernels.
        moves_rows = self._recorded and work.operator.partition(".")[0] in PERMUTATIONS and not device.kernel_table
        share = self.share("permute.memory" if moves_rows else "elementwise.memory", used)
        memory = work.bytes / (share * device.memory_bandwidth)
        if self.engine.cached(work.bytes):
            work, memory = replace(work, near=work.bytes), self.engine.passing(work.bytes, used)
        compute = work.flops / device.rate(work.dtype) if work.flops else 0.0
        launch = work.kernels * self.launch("elementwise.launch", used)
        body = max(memory, compute)
        bound: Bound = "launch" if launch > body else "memory" if memory >= compute else "compute"
        return self.priced(work, launch + body, bound, used)

    def _by_rows(self, work: Work, used: list[str]) -> Priced | None:
        """Time of a kernel of a mixture that goes by rows; nothing where the device's multiprocessors are not known."""
        if work.operator == SELECT and self.accelerator.sm_count:
            body = work.rows * self.shared(SELECTION, used) / self.accelerator.sm_count
        elif work.operator == INDEX and self.framework is not None:
            body = work.rows * self.shared(self.framework.constants["index_per_row"], used)
        else:
            return None
        return self.priced(work, self.launch("elementwise.launch", used) + body, "compute", used)

    def _host_copy(self, work: Work) -> Priced:
        """A transfer of ``message`` bytes between the device and its host."""
        link = self.accelerator.host_link
        floor = work.message / link.bandwidth
        return Priced(link.latency + work.message / link.achievable, floor, "network", (), weakest(()))


def _cast_operands(work: Work) -> Work:
    """A product whose operands are read in fp8, after they were cast, not in the 16 bits in which they are stored."""
    narrow = (2.0 - DTYPE_BYTES[work.dtype]) * (work.m * work.k + work.groups * work.n * work.k)
    return replace(work, bytes=max(0.0, work.bytes - narrow))


def _at_full_speed(device: Accelerator) -> Accelerator:
    """The device as it was measured."""
    return replace(device, clock=1.0, pace=1.0, memory_bandwidth=device.memory_bandwidth / device.pace)
