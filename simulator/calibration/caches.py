"""The caches as a kernel finds them in a model: its weights and what was saved long ago are far, its inputs near.

A kernel timed again and again on the same tensors finds all of them in the nearest cache, and its code too. In a model
it finds there only what the kernel before has written. Weights, saved activations and the memory that a kept output is
written to were last touched many kernels ago; on a server processor with 2 MB of private cache such kernels take up to
twice as long. So

* between two runs as many bytes pass through the caches as one layer of a model moves: its weights and activations;
* weights, saved activations and accumulators are cycled through so many copies that, with what passes, more memory lies
  between two uses than one thread's share of the caches,
* outputs that training keeps are kept here too, as many as a model of some depth has,
* and the kernel's direct inputs are touched just before it runs.

An accelerator's caches are small beside its bandwidth, and its allocator hands out memory without page faults: there
only the weights are cycled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from math import prod
from typing import Any

from simulator.calibration.torch_setup import require_torch

__all__ = [
    "FAR",
    "Kernel",
    "alternating",
    "copies",
    "keeping",
    "layer_bytes",
    "nearby",
    "passed_over",
    "pieces",
    "scratch",
    "swept",
]

FAR = {"cpu": 128e6, "cuda": 48e6}
"""Bytes between two uses of a weight: CPU kernels slow down from 16 to 64 MB on and no further, GPUs cache 40 to 50."""

MOST = {"cpu": 16, "cuda": 16}
"""Copies of one tensor at most: with a layer passing between two runs, 8, 16 and 32 take the same time on CPUs."""

KERNELS = 12
"""Kernels of a layer: memory that one of them gives back is next written by its like in the following layer, when the
layer's weights and as many activations have passed."""


@dataclass(frozen=True)
class Kernel:
    """What is timed, and what is done before each time to put caches into the state of a model.

    ``recorded``: by autograd. A kernel that is not runs in an inference, which is entered once for many kernels.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] | None = None
    recorded: bool = False

    def __call__(self) -> object:
        """Run once, prepared."""
        with self.mode():
            if self.prepare is not None:
                self.prepare()
            return self.run()

    def mode(self) -> AbstractContextManager[object]:
        """What to enter before anything is run."""
        mode: AbstractContextManager[object] = nullcontext() if self.recorded else require_torch().inference_mode()
        return mode


def layer_bytes(weights: float, activations: float) -> float:
    """Bytes that pass between two runs of a kernel which moves ``activations`` in a layer with ``weights`` [B]."""
    return min(FAR["cpu"], weights + KERNELS * activations)


def copies(size: float, device: str, passed: float = 0.0) -> int:
    """How many tensors of ``size`` bytes a kernel is to cycle through if ``passed`` bytes lie between two runs."""
    kind = device.partition(":")[0]
    between = FAR[kind] - (passed if kind == "cpu" else 0.0)
    return max(1, min(MOST[kind], round(between / max(size, 1.0))))


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


def passed_over(tensors: Iterable[Any]) -> None:
    """Read once what takes turns, so that its first turn finds it as far away as all others do."""
    for tensor in tensors:
        tensor.data.sum()


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


@lru_cache(maxsize=1)
def _others() -> Any:
    """What the rest of a layer touches, which no kernel uses."""
    return require_torch().ones(round(FAR["cpu"]) // 4)


def sweep(size: float) -> None:
    """Let ``size`` bytes pass through the caches nearest to the processors.

    They are the same every time: a layer's weights and activations stay in a large last-level cache, and the code of
    kernels and of Python with them. With other bytes every time, kernels of a few microseconds take a third longer than
    in a model.
    """
    _others()[: int(size) // 4].sum()


def _before(inputs: Iterable[Any], passed: float) -> Callable[[], None]:
    """What is done before each run: ``passed`` bytes pass, and the kernel before writes the inputs."""
    touch = nearby(inputs)

    def prepare() -> None:
        sweep(passed)
        touch()

    return prepare


def swept(
    call: Callable[[], object], device: str, inputs: Sequence[Any], passed: float, recorded: bool = False
) -> Kernel:
    """A kernel with near inputs, run when ``passed`` bytes of a layer have passed."""
    return Kernel(call, _before(inputs, passed) if device == "cpu" else None, recorded)


def keeping(call: Callable[[], object], size: float, device: str, inputs: Sequence[Any], passed: float) -> Kernel:
    """A forward of training: its output of about ``size`` bytes is kept for the backward."""
    if device != "cpu":
        return Kernel(call, recorded=True)
    kept: deque[object] = deque()
    most, before = copies(size, device, passed), _before(inputs, passed)

    def prepare() -> None:
        if len(kept) >= most:
            kept.popleft()
        before()

    return Kernel(lambda: kept.append(call()), prepare, recorded=True)


def alternating(
    make: Callable[[], tuple[Callable[[], object], Sequence[Any]]],
    size: float,
    device: str,
    passed: float,
    recorded: bool = True,
) -> Kernel:
    """A kernel whose tensors of about ``size`` bytes are far: copies take turns.

    ``make`` answers a call and its near inputs.
    """
    if device != "cpu":
        return Kernel(make()[0], recorded=recorded)
    made = [make() for _ in range(copies(size, device, passed))]
    turns: Iterator[tuple[Callable[[], object], Callable[[], None]]] = cycle(
        [(call, _before(inputs, passed)) for call, inputs in made]
    )
    now: list[Callable[[], object]] = []

    def prepare() -> None:
        call, before = next(turns)
        now[:] = [call]
        before()

    return Kernel(lambda: now[0](), prepare, recorded)
