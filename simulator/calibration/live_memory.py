"""Peak bytes of live tensors: exact where the resident set of a process is only noise.

A dispatch mode sees every operator, forward and backward; each storage it meets counts from then on until it is freed.
What kernels allocate and free inside one operator is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from simulator.calibration.torch_setup import require_torch

__all__ = ["peak_bytes"]


def peak_bytes(call: Callable[[], object], device: str, resident: Iterable[Any] = ()) -> float:
    """Most bytes of tensors alive at once while ``call`` runs [B].

    Parameters
    ----------
    call
        The step.
    device
        On a GPU the allocator's own statistics are read instead.
    resident
        Tensors that exist before (parameters, gradients, optimizer states), counted as well.
    """
    torch = require_torch()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device))
    tracker = _tracker(torch)
    for tensor in resident:
        tracker.meet(tensor)
    with tracker:
        call()
    return float(tracker.peak)


def _tracker(torch: Any) -> Any:
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Tracker(TorchDispatchMode):  # type: ignore[misc, no-untyped-call, unused-ignore]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
            self.live: dict[int, tuple[Any, int]] = {}
            self.peak = 0

        def meet(self, tensor: Any) -> None:
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call, unused-ignore]
            self.live[reference.cdata] = (reference, storage.nbytes())

        def count(self) -> None:
            self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self.live.values()))

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    self.meet(leaf)
            self.count()
            return out

    return Tracker()
