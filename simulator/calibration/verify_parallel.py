"""Two processes over gloo: data, tensor and pipeline parallelism, really run and predicted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulator.calibration.cases import eager_framework, llama_model
from simulator.calibration.passes import Verdict
from simulator.calibration.ranks import spawn
from simulator.calibration.timing import Timing, summary
from simulator.calibration.torch_models import build_model
from simulator.calibration.torch_setup import require_torch
from simulator.calibration.verify import Comparison, one_node, training_step
from simulator.errors import ConfigError
from simulator.hardware.types import Node
from simulator.training.step import estimate_step
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["ParallelCase", "compare_parallel", "halved", "parallel_cases", "rank_node", "run_parallel"]

RANKS = 2


@dataclass(frozen=True)
class ParallelCase:
    """One training step of two processes; ``batch`` is the global one."""

    kind: str
    model: ModelSpec
    batch: int
    sequence: int

    @property
    def plan(self) -> Plan:
        """The plan that it runs."""
        axis = {"data-parallel": "data_parallel", "tensor-parallel": "tensor_parallel"}.get(
            self.kind, "pipeline_parallel"
        )
        return Plan(precision="fp32").with_(**{axis: RANKS})

    @property
    def micro_batch(self) -> int:
        """Sequences per micro-batch: two micro-batches fill the pipeline."""
        return self.batch if self.kind == "tensor-parallel" else self.batch // 2


def parallel_cases(quick: bool = False) -> list[ParallelCase]:
    """One case of each kind."""
    model = llama_model(256, 2) if quick else llama_model(512, 4)
    return [ParallelCase(kind, model, 4, 128) for kind in ("data-parallel", "tensor-parallel", "pipeline-parallel")]


def run_parallel(device: str, quick: bool, seconds: float) -> list[Timing]:
    """Run every case once, about ``seconds`` each.

    Raises
    ------
    ConfigError
        If the processes fail, or the device cannot be two ranks.
    """
    if device != "cpu":
        raise ConfigError("two processes are run on CPUs only: one accelerator cannot be two ranks")
    found: list[Timing] = spawn(_run_all, RANKS, parallel_cases(quick), seconds)
    return found


def compare_parallel(profile: str, device: str, quick: bool, found: Sequence[Verdict]) -> list[Comparison]:
    """Predict every case with the profile of one rank that lies beside ``profile``.

    Parameters
    ----------
    found
        What the passes of each case say.

    Raises
    ------
    ConfigError
        If there is no such profile.
    """
    node = rank_node(profile)
    comparisons = []
    for case, one in zip(parallel_cases(quick), found, strict=True):
        batch = Batch(case.batch, case.micro_batch, case.sequence)
        job = TrainingJob(case.kind, case.model, eager_framework(device), batch, case.plan)
        estimate = estimate_step(job, one_node(node))
        if not estimate.feasible:
            raise ConfigError(f"{case.kind}: {estimate.reason}")
        interval = estimate.interval
        low, high = (interval.low, interval.high) if interval is not None else (estimate.seconds,) * 2
        name = f"{case.model.name} b{case.batch} s{case.sequence}"
        comparisons.append(
            Comparison(
                case.kind, name, one.kept, estimate.seconds, low, high, quiet=one.quiet, set_aside=one.set_aside
            )
        )  # fmt: skip
    return comparisons


def rank_node(profile: str) -> Node:
    """Node of two ranks, with the collectives measured between them made known to the cost model.

    Raises
    ------
    ConfigError
        If there is none beside ``profile``.
    """
    from simulator.calibration.verify_all import find_node
    from simulator.cost.measured import Lender, add_lender
    from simulator.data import names
    from simulator.hardware.profiles import load_network

    is_file = profile.endswith(".yaml")
    node = find_node(f"{profile.removesuffix('.yaml')}-rank.yaml" if is_file else f"{profile}-rank")
    network = f"gloo-{Path(profile).stem if is_file else profile}"
    if network not in names("hardware_profiles/networks"):
        folder = Path(profile).parent.parent if is_file else Path("hardware_profiles")
        add_lender(Lender(load_network(str(folder / "networks" / f"{network}.yaml")), node.accelerator))
    return node


# -- what runs in the processes ----------------------------------------------------------------------------------------


def _run_all(rank: int, ranks: int, cases: list[ParallelCase], seconds: float) -> list[Timing]:
    make = {"data-parallel": _data, "tensor-parallel": _tensor, "pipeline-parallel": _pipeline}
    steps = [make[case.kind](case, rank) for case in cases]
    return [_median(step, seconds) for step in steps]


def _median(step: Callable[[], object], seconds: float) -> Timing:
    """Median of as many steps as fit; the ranks agree on the number.

    What threads waited for a processor is not taken off, as it is elsewhere: ranks have more threads than processors
    (gloo's beside their own), and wait for one another.
    """
    d, torch = require_torch().distributed, require_torch()
    start = time.perf_counter()
    step()
    wanted = torch.tensor([max(3, min(15, int(seconds / (time.perf_counter() - start))))])
    d.all_reduce(wanted, op=d.ReduceOp.MIN)
    samples = []
    for _ in range(int(wanted)):
        d.barrier()
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return summary([(took, 0.0) for took in samples], samples, 3)


def _optimizer(model: Any) -> Any:
    return require_torch().optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def _data(case: ParallelCase, rank: int) -> Callable[[], object]:
    """Replicas with one flat bucket of gradients."""
    torch = require_torch()
    model = build_model(case.model, "fp32", "cpu")
    optimizer = _optimizer(model)
    ids = torch.randint(0, case.model.vocab_size, (case.micro_batch, case.sequence))
    flat = torch.zeros(sum(p.numel() for p in model.parameters()))
    at = 0
    for parameter in model.parameters():
        parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()

    def reduce(*_: object) -> None:
        torch.distributed.all_reduce(flat)
        flat.div_(RANKS)

    return lambda: training_step(model, optimizer, ids, reduce)


def halved(model: ModelSpec) -> ModelSpec:
    """The part of a dense model that one of two tensor-parallel ranks holds."""
    layer, count = model.layers[0]
    attention, mlp = layer.attention, layer.mlp
    assert attention is not None and mlp is not None
    attention = replace(
        attention,
        num_attention_heads=attention.num_attention_heads // RANKS,
        num_key_value_heads=max(1, attention.num_key_value_heads // RANKS),
    )
    mine = replace(layer, attention=attention, mlp=replace(mlp, intermediate_size=mlp.intermediate_size // RANKS))
    return replace(model, layers=((mine, count),), vocab_size=model.vocab_size // RANKS)


def _tensor(case: ParallelCase, rank: int) -> Callable[[], object]:
    """Megatron's 1-D tensor parallelism with a vocabulary-parallel embedding, head and loss."""
    torch = require_torch()
    enter, leave = _regions(torch)
    model = build_model(halved(case.model), "fp32", "cpu")
    for layer in model.layers:
        for begin, end in ((layer.qkv, layer.out), (layer.mlp, layer.mlp)):
            begin.register_forward_pre_hook(lambda module, inputs: (enter(inputs[0]),))
            end.register_forward_hook(lambda module, inputs, out: leave(out))
    share = case.model.vocab_size // RANKS
    ids = torch.randint(0, case.model.vocab_size, (case.batch, case.sequence))
    torch.distributed.broadcast(ids, 0)
    local = ids - rank * share
    mine = (local >= 0) & (local < share)
    local = local.clamp(0, share - 1)
    model.embedding.register_forward_hook(lambda module, inputs, out: leave(out * mine[..., None]))
    model.head.register_forward_pre_hook(lambda module, inputs: (enter(inputs[0]),))
    optimizer = _optimizer(model)

    def step() -> None:
        logits = model(local)
        top = logits.detach().amax(-1, keepdim=True)
        torch.distributed.all_reduce(top, op=torch.distributed.ReduceOp.MAX)
        total = leave((logits - top).exp().sum(-1))
        own = leave(logits.gather(-1, local[..., None])[..., 0] * mine)
        (total.log() + top[..., 0] - own).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def _regions(torch: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Entry (gradients are reduced) and exit (activations are reduced) of a tensor-parallel region."""

    class Enter(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            gradient = gradient.contiguous()
            torch.distributed.all_reduce(gradient)
            return gradient

    class Leave(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            x = x.contiguous().clone() if x.requires_grad else x
            torch.distributed.all_reduce(x)
            return x

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient

    return Enter.apply, Leave.apply


def _pipeline(case: ParallelCase, rank: int) -> Callable[[], object]:
    """Two stages and two micro-batches, one forward one backward."""
    torch = require_torch()
    d = torch.distributed
    whole = build_model(case.model, "fp32", "cpu")
    cut = len(whole.layers) // RANKS
    whole.layers = whole.layers[:cut] if rank == 0 else whole.layers[cut:]
    stage = torch.nn.ModuleList(
        [whole.embedding, whole.layers] if rank == 0 else [whole.layers, whole.norm, whole.head]
    )
    optimizer = _optimizer(stage)
    ids = torch.randint(0, case.model.vocab_size, (case.micro_batch, case.sequence))
    shape = (case.micro_batch, case.sequence, case.model.hidden_size)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    def first() -> None:
        made, sent = [], []
        for _ in range(RANKS):
            made.append(whole.run_layers(whole.embedding(ids)))
            sent.append(d.isend(made[-1].detach(), 1))
        for out in made:
            gradient = torch.empty(shape)
            d.recv(gradient, 1)
            out.backward(gradient)
        for one in sent:
            one.wait()
        update()

    def last() -> None:
        sent = []
        for _ in range(RANKS):
            x = torch.empty(shape)
            d.recv(x, 0)
            x.requires_grad_()
            logits = whole.head(whole.norm(whole.run_layers(x))).flatten(0, 1)
            torch.nn.functional.cross_entropy(logits, ids.reshape(-1)).backward()
            sent.append(d.isend(x.grad, 0))
        for one in sent:
            one.wait()
        update()

    return first if rank == 0 else last
