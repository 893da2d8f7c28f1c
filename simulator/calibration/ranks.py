"""Processes that share the machine: kernels of one rank beside busy neighbours, and collectives between them."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from simulator.calibration.caches import layer_bytes, sweep
from simulator.calibration.cases import all_cases
from simulator.calibration.meeting import Meeting
from simulator.calibration.passes import PASSES
from simulator.calibration.runner import Outcome, run_cases
from simulator.calibration.torch_setup import keep_pages, require_torch
from simulator.errors import ConfigError

__all__ = ["SIZES", "RankOutcome", "calibrate_ranks", "spawn"]

SIZES = tuple(4.0**p for p in range(5, 14))
"""Buffers of the collectives: 1 KiB to 64 MiB."""

LEAST = 8e6
"""Bytes of the weights of a small layer."""

Curves = dict[str, list[tuple[float, float]]]


@dataclass
class RankOutcome:
    """Kernels of one rank and curves of collectives, with what could not run."""

    kernels: Outcome = field(default_factory=Outcome)
    curves: Curves = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def spawn(worker: Callable[..., object], ranks: int, *arguments: object, backend: str = "gloo") -> Any:
    """Run ``worker(rank, ranks, *arguments)`` in ``ranks`` processes joined by torch.distributed; rank 0's answer.

    Raises
    ------
    ConfigError
        If a process fails, with its last words.
    """
    torch = require_torch()
    if not torch.distributed.is_available():
        raise ConfigError("this PyTorch has no torch.distributed: collectives cannot be measured")
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        try:
            torch.multiprocessing.spawn(_entry, (worker, ranks, folder, backend, arguments), nprocs=ranks, join=True)
        except Exception as error:
            last = str(error).strip().splitlines()[-1:]
            raise ConfigError(f"{ranks} processes over {backend} failed: {' '.join(last)}") from error
        return torch.load(where / "answer.pt", weights_only=False)


def _entry(rank: int, worker: Callable[..., object], ranks: int, folder: str, backend: str, arguments: Any) -> None:
    torch = require_torch()
    keep_pages()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(max(1, (os.cpu_count() or ranks) // ranks))
    torch.distributed.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks
    )
    try:
        answer = worker(rank, ranks, *arguments)
        if rank == 0:
            torch.save(answer, f"{folder}/answer.pt")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def calibrate_ranks(ranks: int, budget: float, density: float) -> RankOutcome:
    """Kernels and collectives with ``ranks`` processes at work, in about ``budget`` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Meeting.prepared(Path(folder) / "meeting", ranks)
        found: RankOutcome = spawn(_calibrate, ranks, budget, density, file)
    return found


def _calibrate(rank: int, ranks: int, budget: float, density: float, file: Path) -> RankOutcome:
    outcome = RankOutcome()
    cases = [c for c in all_cases("cpu", density) if c.work.dtype == "fp32"]
    with Meeting(file, rank, ranks) as meeting:
        measure_collectives(ranks, budget * 0.2, outcome, meet=meeting.meet)
        outcome.kernels = run_cases(cases, "cpu", budget * 0.8, meet=meeting.meet)
    return outcome


def measure_collectives(
    ranks: int,
    budget: float,
    outcome: RankOutcome,
    sizes: Sequence[float] = SIZES,
    meet: Callable[[], object] = lambda: None,
) -> None:
    """Fill ``outcome.curves`` with the collectives that the backend has, medians of several passes over all of them.

    Sizes are those of the full buffer. Between two calls a layer of a model passes, as long as which the threads of the
    backend sleep; then the ranks ``meet``.
    """
    torch = require_torch()
    operations = _operations(torch, ranks)
    share = budget / PASSES / len(operations) / len(sizes)
    found: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in operations}
    for _ in range(PASSES):
        for name, make in operations.items():
            for index, size in enumerate(sizes):
                if name in outcome.failed:
                    break
                try:
                    seconds = _timed(make(max(ranks, int(size) // 4)), share, partial(_layer, size, meet))
                except RuntimeError as error:
                    outcome.failed[name] = str(error).splitlines()[0][:120]
                    break
                found[name][index].append(seconds / (2 if name == "send_recv" else 1))
    for name, passes in found.items():
        if name not in outcome.failed:
            points = zip(sizes, passes, strict=True)
            outcome.curves[name] = [(size, statistics.median(seconds)) for size, seconds in points]


def _layer(size: float, meet: Callable[[], object]) -> None:
    """What passes between the messages of two layers."""
    sweep(layer_bytes(LEAST, size))
    meet()


def _timed(call: Callable[[], object], share: float, before: Callable[[], object]) -> float:
    """Median seconds of as many calls as fit into ``share`` seconds; all ranks agree on how many."""
    torch = require_torch()
    call()
    start = time.perf_counter()
    before()
    call()
    once = time.perf_counter() - start
    wanted = torch.tensor([max(3, min(30, int(share / max(once, 50e-6))))])
    torch.distributed.all_reduce(wanted, op=torch.distributed.ReduceOp.MIN)
    samples = []
    for _ in range(int(wanted)):
        before()
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def _operations(torch: Any, ranks: int) -> Mapping[str, Callable[[int], Callable[[], object]]]:
    """Collectives over ``count`` fp32 numbers in the full buffer."""
    d = torch.distributed
    # Renamed in PyTorch 2.13, which warns of the old names.
    gather = getattr(d, "all_gather_single", None) or d.all_gather_into_tensor
    scatter = getattr(d, "reduce_scatter_single", None) or d.reduce_scatter_tensor

    def all_reduce(count: int) -> Callable[[], object]:
        x = torch.zeros(count)
        return lambda: d.all_reduce(x)

    def all_gather(count: int) -> Callable[[], object]:
        x, out = torch.zeros(count // ranks), torch.zeros(count // ranks * ranks)
        return lambda: gather(out, x)

    def reduce_scatter(count: int) -> Callable[[], object]:
        x, out = torch.zeros(count // ranks * ranks), torch.zeros(count // ranks)
        return lambda: scatter(out, x)

    def all_to_all(count: int) -> Callable[[], object]:
        x = torch.zeros(count // ranks * ranks)
        out = torch.zeros_like(x)
        return lambda: d.all_to_all_single(out, x)

    def broadcast(count: int) -> Callable[[], object]:
        x = torch.zeros(count)
        return lambda: d.broadcast(x, 0)

    def send_recv(count: int) -> Callable[[], object]:
        x = torch.zeros(count)
        rank = d.get_rank()

        def ping() -> None:  # there and back again, so that both ranks wait for the message
            for sender in (0, 1):
                if rank == sender:
                    d.send(x, 1 - sender)
                elif rank < 2:
                    d.recv(x, sender)

        return ping

    return {
        "all_reduce": all_reduce, "all_gather": all_gather, "reduce_scatter": reduce_scatter, "all_to_all": all_to_all,
        "broadcast": broadcast, "send_recv": send_recv,
    }  # fmt: skip
