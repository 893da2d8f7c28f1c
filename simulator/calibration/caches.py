"""The caches as a kernel finds them in a model: its weights and what was saved long ago are far, its inputs near.

A kernel timed again and again on the same tensors finds all of them in the nearest cache. In a model it finds there
only what the kernel before has written. Weights, saved activations and the memory that a kept output is written to were
last touched many kernels ago; on a server processor with 2 MB of private cache such kernels take up to twice as long.
So

* weights, saved activations and accumulators are cycled through more memory than one thread's share of the caches,
* outputs that training keeps are kept here too, as many as a model of some depth has,
* where nothing is kept (inference), the weights and activations of a layer pass through the caches in between,
* and the kernel's direct inputs are touched just before it runs.

An accelerator's caches are small beside its bandwidth, and its allocator hands out memory without page faults: there
only the weights are cycled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from math import prod
from typing import Any

from simulator.calibration.torch_setup import require_torch

__all__ = ["Kernel", "alternating", "copies", "keeping", "nearby", "pieces", "scratch", "swept"]

FAR = {"cpu": 128e6, "cuda": 48e6}
"""Bytes between two uses of a weight: CPU kernels slow down from 16 to 64 MB on and no further, GPUs cache 40 to 50."""

MOST = {"cpu": 32, "cuda": 16}
"""Copies of one tensor at most: kernels between the forward of a layer and its backward, in models of few layers."""

KERNELS = 12
"""Kernels of a layer: memory that one of them gives back is next written by its like in the following layer, when the
layer's weights and as many activations have passed."""


@dataclass(frozen=True)
class Kernel:
    """What is timed, and what is done before each time to put caches into the state of a model."""

    run: Callable[[], object]
    prepare: Callable[[], object] | None = None

    def __call__(self) -> object:
        """Run once, prepared."""
        if self.prepare is not None:
            self.prepare()
        return self.run()


def copies(size: float, device: str) -> int:
    """How many tensors of ``size`` bytes a kernel is to cycle through."""
    kind = device.partition(":")[0]
    return max(1, min(MOST[kind], round(FAR[kind] / max(size, 1.0))))


@lru_cache(maxsize=4)
def _arena(dtype: Any, device: str) -> Any:
    """Random numbers, once for all kernels: making them anew would take longer than timing."""
    torch = require_torch()
    block = torch.randn(1 << 20, device=device).to(dtype)
    return block.repeat(round(2 * FAR[device.partition(":")[0]] / (block.numel() * block.element_size())))


_cursor: dict[tuple[Any, str], int] = {}


def pieces(dtype: Any, device: str, *shape: int) -> Any:
    """A tensor of random numbers that no piece of the last 100 MB or so shares."""
    torch = require_torch()
    arena, count = _arena(dtype, device), prod(shape)
    if count > arena.numel() // 2:
        return torch.randn(*shape, dtype=dtype, device=device)
    at = _cursor.get((dtype, device), 0)
    at = at if at + count <= arena.numel() else 0
    _cursor[dtype, device] = -(-(at + count) // 64) * 64
    return arena[at : at + count].view(*shape)


def scratch(device: str, *shape: int) -> Any:
    """Zeros in fp32 to add to."""
    return require_torch().zeros(*shape, dtype=require_torch().float32, device=device)


def nearby(tensors: Iterable[Any]) -> Callable[[], None]:
    """Touches the tensors as a kernel that has just written them; autograd does not see it."""
    kept = [t.data for t in tensors]

    def touch() -> None:
        for tensor in kept:
            tensor.add_(0)

    return touch


def keeping(call: Callable[[], object], size: float, device: str, inputs: Sequence[Any] = ()) -> Kernel:
    """A forward of training: its output of about ``size`` bytes is kept for the backward, its inputs are near."""
    if device != "cpu":
        return Kernel(call)
    kept: deque[object] = deque()
    most, touch = copies(size, device), nearby(inputs)

    def prepare() -> None:
        if len(kept) >= most:
            kept.popleft()
        touch()

    return Kernel(lambda: kept.append(call()), prepare)


def alternating(make: Callable[[], tuple[Callable[[], object], Sequence[Any]]], size: float, device: str) -> Kernel:
    """A kernel whose tensors of about ``size`` bytes are far: copies take turns.

    ``make`` answers a call and its near inputs.
    """
    made = [make() for _ in range(copies(size, device) if device == "cpu" else 1)]
    if len(made) == 1:
        return Kernel(made[0][0])
    turns: Iterator[tuple[Callable[[], object], Callable[[], None]]] = cycle(
        [(call, nearby(inputs)) for call, inputs in made]
    )
    now: list[Callable[[], object]] = []

    def prepare() -> None:
        call, touch = next(turns)
        now[:] = [call]
        touch()

    return Kernel(lambda: now[0](), prepare)


def swept(call: Callable[[], object], device: str, inputs: Sequence[Any], activations: float, weights: float) -> Kernel:
    """A kernel that moves ``activations`` bytes in a layer with ``weights`` bytes, when such a layer has passed."""
    if device != "cpu":
        return Kernel(call)
    torch = require_torch()
    between = min(FAR["cpu"], weights + KERNELS * activations)
    stream, touch = _arena(torch.float32, device)[: int(between) // 4], nearby(inputs)

    def prepare() -> None:
        stream.sum()
        touch()

    return Kernel(call, prepare)
