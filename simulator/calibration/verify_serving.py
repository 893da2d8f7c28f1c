"""Prefill, token-by-token decode and a small continuous-batching loop, measured beside predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from simulator.calibration.cases import eager_framework, gpt_model, llama_model, moe_model
from simulator.calibration.passes import Verdict
from simulator.calibration.torch_models import KVCache, build_model
from simulator.calibration.torch_setup import require_torch
from simulator.calibration.verify import Comparison, Seen, one_node, timed
from simulator.hardware.types import Node
from simulator.serving.iteration import ReplicaCost
from simulator.strategies.protocols import BatchShape
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["ServingCase", "compare_serving", "loop_shapes", "predict_serving", "run_serving", "serving_cases"]

DTYPE = "bf16"


@dataclass(frozen=True)
class ServingCase:
    """Prefill of one prompt (``batch`` 0), decode of ``batch`` sequences at ``context``, or a loop over ``prompts``."""

    model: ModelSpec
    batch: int = 0
    context: int = 0
    prompts: tuple[int, ...] = ()
    outputs: int = 0

    @property
    def kind(self) -> str:
        """``prefill``, ``decode`` or ``loop``."""
        return "loop" if self.prompts else "decode" if self.batch else "prefill"

    @property
    def name(self) -> str:
        """For the table."""
        if self.prompts:
            return f"{self.model.name} {len(self.prompts)} requests, batch {self.batch}, {self.outputs} tokens each"
        return f"{self.model.name} " + (f"b{self.batch} context {self.context}" if self.batch else f"s{self.context}")


def serving_cases(quick: bool = False) -> list[ServingCase]:
    """Three kinds of model, batches and contexts, and one loop.

    Weights are 90 MB and more: far above the caches, as those of any model that is served. What fits into them decodes
    up to twice as fast (docs/calibration.md).
    """
    if quick:
        small = llama_model(512, 4)
        return [ServingCase(small, 0, 128), ServingCase(small, 4, 128), ServingCase(small, 2, 0, (32, 64, 48), 4)]
    llama, gpt, moe = llama_model(1024, 4), gpt_model(768, 6), moe_model(512, 6)
    return [
        *(ServingCase(llama, 0, s) for s in (128, 512)),
        *(ServingCase(llama, b, c) for b, c in ((1, 128), (1, 1024), (8, 128), (8, 1024), (32, 256))),
        ServingCase(llama, 4, 0, (64, 128, 256, 96, 160, 32, 192, 64), 8),
        ServingCase(gpt, 0, 256),
        *(ServingCase(gpt, b, c) for b, c in ((1, 256), (4, 512), (16, 256))),
        *(ServingCase(moe, b, 256) for b in (0, 1, 16)),
        *(ServingCase(llama_model(1536, 3), b, 256) for b in (1, 16)),
    ]


@lru_cache(maxsize=1)
def _model(model: ModelSpec, device: str) -> Any:
    return build_model(model, DTYPE, device).eval()


def run_serving(case: ServingCase, device: str, budget: float = 0.8, clock: str = "wall") -> Seen:
    """Run a serving case again and again."""
    torch = require_torch()
    model = _model(case.model, device)
    call = _loop(case, model, device) if case.prompts else _iteration(case, model, device)

    def run() -> None:
        with torch.inference_mode():
            call()

    return Seen(timed(run, device, budget, clock))


def predict_serving(case: ServingCase, node: Node, device: str) -> float:
    """Seconds of the iterations of a serving case on a machine."""
    return sum(_cost(case.model, node, device).iteration(shape) for shape in shapes_of(case))


def compare_serving(case: ServingCase, node: Node, device: str, found: Verdict) -> Comparison:
    """Predict a serving case of which several passes say ``found``."""
    said = predict_serving(case, node, device)
    return Comparison(case.kind, case.name, found.kept, said, said, said, quiet=found.quiet, set_aside=found.set_aside)


@lru_cache(maxsize=8)
def _cost_of(model: ModelSpec, node_name: str, device: str, holder: _Holder) -> ReplicaCost:
    framework = eager_framework(device)
    return ReplicaCost(model, Plan(), framework, holder.node, one_node(holder.node).fabric, DTYPE)


class _Holder:
    """A node as a key of the cache: compared by identity."""

    def __init__(self, node: Node) -> None:
        self.node = node


_holders: dict[int, _Holder] = {}


def _cost(model: ModelSpec, node: Node, device: str) -> ReplicaCost:
    holder = _holders.setdefault(id(node), _Holder(node))
    return _cost_of(model, node.name, device, holder)


def shapes_of(case: ServingCase) -> list[BatchShape]:
    """The iterations that a case runs."""
    if case.prompts:
        return loop_shapes(case.prompts, case.outputs, case.batch)
    if case.batch:
        return [BatchShape((), case.batch, case.batch * (case.context + 1))]
    return [BatchShape(((case.context, 0),), 0, 0)]


def _iteration(case: ServingCase, model: Any, device: str) -> Callable[[], object]:
    torch = require_torch()
    batch = max(1, case.batch)
    cache = KVCache(case.model, batch, case.context + 8, DTYPE, device)
    ids = torch.randint(0, case.model.vocab_size, (batch, 1 if case.batch else case.context), device=device)
    at = case.context if case.batch else 0
    return lambda: model(ids, cache, at)  # up to the logits: sampling is the engine's (host_per_sequence)


# -- the loop ----------------------------------------------------------------------------------------------------------


def loop_shapes(prompts: Sequence[int], outputs: int, slots: int) -> list[BatchShape]:
    """Iterations of continuous batching: a waiting prompt is prefilled when a slot is free, else all slots decode.

    Slots are aligned at their newest token, so every sequence is padded to the longest.
    """
    shapes = []
    for kind, *sizes in _schedule(prompts, outputs, slots):
        if kind == "prefill":
            shapes.append(BatchShape(((sizes[0], 0),), 0, 0))
        else:
            shapes.append(BatchShape((), slots, slots * (sizes[0] + 1)))
    return shapes


def _schedule(prompts: Sequence[int], outputs: int, slots: int) -> list[tuple[str, int, int]]:
    """(``prefill``, prompt, slot) and (``decode``, place, 0) in order; a place is the cache index that is written."""
    waiting, left, steps = list(prompts), [0] * slots, list[tuple[str, int, int]]()
    at = max(prompts)
    while waiting or any(left):
        free = next((i for i, n in enumerate(left) if n == 0), None)
        if waiting and free is not None:
            steps.append(("prefill", waiting.pop(0), free))
            left[free] = outputs - 1
        else:
            steps.append(("decode", at, 0))
            at += 1
            left = [max(0, n - 1) for n in left]
    return steps


def _loop(case: ServingCase, model: Any, device: str) -> Callable[[], object]:
    torch = require_torch()
    steps = _schedule(case.prompts, case.outputs, case.batch)
    longest = 1 + max(place for kind, place, _ in steps if kind == "decode")
    cache = KVCache(case.model, case.batch, longest + 1, DTYPE, device)
    mask = torch.zeros(case.batch, 1, 1, longest + 1, dtype=torch.bool, device=device)
    prompts = {n: torch.randint(0, case.model.vocab_size, (1, n), device=device) for n in set(case.prompts)}

    def run() -> None:
        mask.zero_()
        ids = torch.zeros(case.batch, 1, dtype=torch.long, device=device)
        at = max(case.prompts)
        for kind, size, slot in steps:
            if kind == "prefill":
                own = KVCache(case.model, 1, size, DTYPE, device)
                ids[slot] = model(prompts[size], own, 0, at - size).argmax(-1)[0]
                cache.store[:, :, slot, at - size : at] = own.store[:, :, 0]
                mask[slot, ..., : at - size], mask[slot, ..., at - size :] = False, True
            else:
                at = size
                cache.mask = mask
                ids = model(ids, cache, at).argmax(-1)
                at += 1

    return run
