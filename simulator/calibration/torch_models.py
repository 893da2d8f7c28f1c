"""Real PyTorch models from a ModelSpec: the block stacks that verification runs, in plain eager modules.

Projections are fused as the lowering has them (one GEMM for queries, keys and values; one for gate and value).
"""

from __future__ import annotations

from typing import Any

from simulator.calibration.torch_setup import dtype_of, require_torch
from simulator.workload.model import ModelSpec

__all__ = ["KVCache", "build_model"]


def build_model(model: ModelSpec, dtype: str, device: str, recompute: bool = False) -> Any:
    """A ``torch.nn.Module`` for ``model``: decoder-only, full attention, dense or routed MLPs."""
    torch = require_torch()
    torch.manual_seed(0)
    from simulator.calibration.torch_layers import Decoder

    made = Decoder(model, recompute)
    for parameter in made.parameters():
        if parameter.dim() > 1:  # as GPT-2: wider weights saturate the loss, and denormal gradients are slow on CPUs
            torch.nn.init.normal_(parameter, std=0.02)
    return made.to(device=device, dtype=dtype_of(dtype))


class KVCache:
    """Keys and values of every layer [batch, length, kv_heads, head_dim], filled place by place."""

    def __init__(self, model: ModelSpec, batch: int, length: int, dtype: str, device: str) -> None:
        torch = require_torch()
        spec = model.layers[0][0].attention
        assert spec is not None
        shape = (model.num_hidden_layers, 2, batch, length, spec.num_key_value_heads, spec.head_dim)
        self.store = torch.zeros(shape, dtype=dtype_of(dtype), device=device)
        self.mask: Any = None

    def extend(self, layer: int, k: Any, v: Any, at: int) -> tuple[Any, Any]:
        """Store the new keys and values from place ``at`` on, and return all up to them."""
        keys, values = self.store[layer]
        end = at + k.shape[1]
        keys[:, at:end], values[:, at:end] = k, v
        return keys[:, :end], values[:, :end]
