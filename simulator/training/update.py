"""The update at the end of a step: clipping and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.constants import Trust
from simulator.cost.priced import Priced
from simulator.engine.streams import run_streams
from simulator.registry import lookup
from simulator.strategies.offload.copies import is_tied_copy
from simulator.training.block_time import BlockPricer, PhaseTime
from simulator.training.memory import is_shared
from simulator.training.stages import Chunk
from simulator.workload.ops import Block, OpKind, Stream, Tensor, TensorClass, Tier, Work
from simulator.workload.plan import Plan

__all__ = ["flash_update", "host_update", "optimizer_time", "updates_on_device"]


def optimizer_time(chunks: Sequence[Chunk], pricer: BlockPricer, beside: float = 0.0) -> PhaseTime:
    """Clipping and Adam over the states a rank owns: memory-bound passes where the states live.

    Clipping reads every gradient once; the update reads gradient and states and writes states and parameter. What a
    framework does to gradients and parameters besides is counted in its file (``gradient_passes``, ``update_bytes``).
    Kernels are fused over many tensors (multi-tensor apply) and pass over everything that the rank holds, so all its
    blocks are priced as one: no block's states are still in a cache when the next pass comes to them. States outside
    HBM are updated by the host: see :func:`host_update`.

    Parameters
    ----------
    chunks
        What the rank holds.
    pricer
        Prices.
    beside
        Forward and backward time of the step [s] under which a delayed update hides; 0 = count all of it.
    """
    mesh, device, framework = pricer.mesh, pricer.device, pricer.framework
    gradient = parameter = states = besides = 0.0
    shared: set[str] = set()
    away: list[tuple[Block, int]] = []
    for chunk in chunks:
        for block, count in chunk.blocks:
            by_class = dict.fromkeys(TensorClass, 0.0)
            parameters = 0
            for tensor in block.states:
                if is_shared(block, tensor):  # a tied head's table is updated once
                    if tensor.name in shared:
                        continue
                    shared.add(tensor.name)
                by_class[tensor.cls] += tensor.bytes(mesh) * _is_updated(tensor)
                parameters += tensor.elements(mesh) * (tensor.cls is TensorClass.PARAM)
            optim = by_class[TensorClass.OPTIM]
            if not optim:
                continue
            if any(t.cls is TensorClass.OPTIM and t.tier is not Tier.HBM for t in block.states):
                away.append((block, count))
                continue
            # The shard of a gradient or parameter that matches the optimizer shard is all that is touched.
            share = _owned_share(block, pricer)
            gradient += count * by_class[TensorClass.GRAD] * share[0]
            parameter += count * by_class[TensorClass.PARAM] * share[1]
            states += count * optim
            besides += count * framework.gradient_passes * by_class[TensorClass.GRAD]
            besides += count * framework.update_bytes * parameters * share[1]
    total = PhaseTime()
    if states:
        works = (
            Work(OpKind.ELEMENTWISE, "fp32", flops=gradient / 2, bytes=gradient, operator="clip"),
            Work(OpKind.ELEMENTWISE, "fp32", flops=states, bytes=gradient + 2 * states + parameter, operator="adam"),
            Work(OpKind.ELEMENTWISE, "fp32", bytes=besides, operator="besides"),
        )
        prices = [device.price(w) for w in works]
        seconds = sum(p.seconds for p in prices)
        total = PhaseTime(
            seconds,
            sum(p.floor for p in prices),
            {"optimizer": seconds},
            {"hbm": sum(w.bytes for w in works)},
            {prices[0].trust: seconds},
            0.0,
            frozenset(i for p in prices for i in p.constants),
        )
    if not away:
        return total
    return total + (
        flash_update(away, pricer) if updates_on_device(pricer.layout.plan) else host_update(away, pricer, beside)
    )


class _HostQueues:
    """Drives, processors and host-to-device link as in-order queues, with what their work costs and moves."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.streams: list[Stream | str] = []
        self.after: list[list[int]] = []
        self.trust: dict[Trust, float] = {}
        self.constants: set[str] = set()

    def add(self, price: Priced, stream: Stream | str, after: list[int]) -> int:
        """Queue work on ``stream`` behind the numbered works ``after``; answers its own number."""
        self.seconds.append(price.seconds)
        self.streams.append(stream)
        self.after.append(after)
        self.trust[price.trust] = self.trust.get(price.trust, 0.0) + price.seconds
        self.constants.update(price.constants)
        return len(self.seconds) - 1


def host_update(blocks: Sequence[tuple[Block, int]], pricer: BlockPricer, beside: float = 0.0) -> PhaseTime:
    """An optimizer on the host, block by block on three queues: drives, processors, host-to-device link.

    States on NVMe are read before and written after a block's update; parameters that stay in HBM are copied in while
    the next block is updated (ZeRO-Offload's tiling). When it starts is the strategy's choice: after the step, beside
    the last micro-batch's backward as gradients arrive, one step late under the next step's computation, or apart from
    the steps (Angel-PTM), which then never wait.
    """
    tiers, mode = pricer.tiers, _update_mode(pricer.layout.plan)
    order = [block for block, count in reversed(blocks) for _ in range(count)]  # gradients arrive last layer first
    beside_backward = mode == "overlap" and beside > 0
    queues, hidden, done = _HostQueues(), 0.0, -1
    traffic = {"host": 0.0, "nvme": 0.0}
    written: Priced | None = None  # states of the block before, written behind the next block's reads
    for block in order:
        sizes, waits = _update_bytes(block, pricer), list[int]()
        if beside_backward:
            backward = pricer.backward(block).seconds
            waits.append(queues.add(Priced(backward, 0.0, "memory", (), Trust.MEASURED), "backward", []))
            hidden += backward
        if sizes.drives:
            waits.append(queues.add(tiers.copy(Tier.NVME, Tier.HOST, sizes.drives), Stream.NVME, []))
            traffic["nvme"] += 2 * sizes.drives
        if written:
            queues.add(written, Stream.NVME, [done])
        written = tiers.copy(Tier.HOST, Tier.NVME, sizes.drives) if sizes.drives else None
        done = queues.add(tiers.host_update(sizes.touched), "host", waits)
        if sizes.inwards:
            queues.add(tiers.copy(Tier.HOST, Tier.HBM, sizes.inwards), Stream.H2D, [done])
            traffic["host"] += sizes.inwards
    if written:
        queues.add(written, Stream.NVME, [done])
    makespan = run_streams(queues.seconds, queues.streams, queues.after).makespan
    exposed = max(0.0, makespan - (beside if mode == "delayed" else hidden)) if mode != "decoupled" else 0.0
    floor = 0.0
    if mode == "after":
        floor = sum(tiers.host_update(_update_bytes(b, pricer).touched).floor * n for b, n in blocks)
    return PhaseTime(
        exposed, min(floor, exposed), {"optimizer": exposed}, traffic, queues.trust, 0.0, frozenset(queues.constants)
    )


def flash_update(blocks: Sequence[tuple[Block, int]], pricer: BlockPricer) -> PhaseTime:
    """An optimizer on the device whose states stream from drives and back, block by block on three queues.

    Gradients and states are read, updated while the next block is read, and written with the parameters behind it.
    """
    device, tiers = pricer.device, pricer.tiers
    queues, moved = _HostQueues(), 0.0
    for block in (block for block, count in blocks for _ in range(count)):
        sizes = _update_bytes(block, pricer)
        written = sizes.drives + sizes.parameter
        read = sizes.touched - written  # gradient and states
        fetched = queues.add(tiers.copy(Tier.NVME, Tier.HBM, read), Stream.NVME, [])
        work = Work(OpKind.ELEMENTWISE, "fp32", flops=sizes.drives, bytes=sizes.touched, operator="adam")
        done = queues.add(device.price(work), Stream.COMPUTE, [fetched])
        queues.add(tiers.copy(Tier.HBM, Tier.NVME, written), "writes", [done])
        moved += read + written
    seconds = run_streams(queues.seconds, queues.streams, queues.after).makespan
    traffic = {"host": moved, "nvme": moved, "hbm": moved}
    parts = {"optimizer": seconds}
    return PhaseTime(seconds, 0.0, parts, traffic, queues.trust, 0.0, frozenset(queues.constants))


def updates_on_device(plan: Plan) -> bool:
    """Whether the plan's offload strategy leaves the update to the device."""
    return plan.offload != "none" and bool(getattr(lookup("offload", plan.offload), "updates_on_device", False))


def _update_mode(plan: Plan) -> str:
    """What the plan's offload strategy says, ``after`` where it says nothing."""
    if plan.offload == "none":
        return "after"
    strategy = lookup("offload", plan.offload)()
    return str(strategy.update_mode(plan)) if hasattr(strategy, "update_mode") else "after"


@dataclass(frozen=True)
class _UpdateBytes:
    """Bytes of one block's update: touched in host memory, read from (and written to) drives, copied to the device.

    ``parameter`` is the part of the parameters that the rank updates.
    """

    touched: float
    drives: float
    inwards: float
    parameter: float


def _update_bytes(block: Block, pricer: BlockPricer) -> _UpdateBytes:
    mesh = pricer.mesh
    share = _owned_share(block, pricer)
    own = [t for t in block.states if not is_tied_copy(block, t, pricer.layout.plan)]
    optim = [t for t in own if t.cls is TensorClass.OPTIM]
    gradient = sum(t.bytes(mesh) for t in own if t.cls is TensorClass.GRAD and _is_updated(t)) * share[0]
    parameter = sum(t.bytes(mesh) for t in own if t.cls is TensorClass.PARAM) * share[1]
    states = sum(t.bytes(mesh) for t in optim)
    drives = sum(t.bytes(mesh) for t in optim if t.tier is Tier.NVME)
    on_device = any(t.cls is TensorClass.PARAM and t.tier is Tier.HBM for t in block.states)
    return _UpdateBytes(gradient + 2 * states + parameter, drives, parameter if on_device else 0.0, parameter)


def _is_updated(tensor: Tensor) -> bool:
    """Not what a communication strategy keeps beside a gradient (errors, outer states): Adam does not read that."""
    return ".grad." not in tensor.name


def _owned_share(block: Block, pricer: BlockPricer) -> tuple[float, float]:
    """Share of the resident gradients and parameters whose optimizer states live on this rank."""
    mesh = pricer.mesh
    optim = sum(t.elements(mesh) for t in block.states if t.name.endswith(".exp_avg"))
    gradient = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.GRAD and _is_updated(t))
    parameter = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.PARAM)
    return min(1.0, optim / gradient if gradient else 0.0), min(1.0, optim / parameter if parameter else 0.0)
