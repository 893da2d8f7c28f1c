"""Modules of the models that verification runs. Imports PyTorch: import this module only where it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from simulator.calibration import eager
from simulator.workload.model import LayerSpec, ModelSpec

if TYPE_CHECKING:
    from simulator.calibration.torch_models import KVCache

__all__ = ["Decoder", "Layer"]


def _norm(layer: LayerSpec, width: int) -> Any:
    return nn.LayerNorm(width) if layer.norm == "layer" else nn.RMSNorm(width, eps=1e-6)


class Dense(nn.Module):
    """The plain MLP: up, activation, down."""

    def __init__(self, layer: LayerSpec, hidden: int) -> None:
        super().__init__()
        mlp = layer.mlp
        assert mlp is not None
        self.gated = mlp.gated
        self.up = nn.Linear(hidden, mlp.intermediate_size * (2 if mlp.gated else 1), bias=mlp.bias)
        self.down = nn.Linear(mlp.intermediate_size, hidden, bias=mlp.bias)

    def forward(self, x: Any) -> Any:
        """Hidden states [batch, length, hidden]."""
        x = self.up(x)
        return self.down(eager.swiglu(x) if self.gated else nn.functional.gelu(x))


class Routed(nn.Module):
    """Routed experts: router, dispatch, experts, combine."""

    def __init__(self, layer: LayerSpec, hidden: int) -> None:
        super().__init__()
        mlp = layer.mlp
        assert mlp is not None
        self.count, self.per_token = mlp.num_experts, mlp.num_experts_per_tok
        width = mlp.moe_intermediate_size

        def weights(rows: int, columns: int) -> Any:
            return nn.ParameterList(
                nn.Parameter(torch.randn(rows, columns) / columns**0.5) for _ in range(mlp.num_experts)
            )

        self.router = nn.Linear(hidden, mlp.num_experts, bias=False)
        self.up, self.down = weights(2 * width, hidden), weights(hidden, width)

    def forward(self, x: Any) -> Any:
        """Hidden states [batch, length, hidden]."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = eager.route(self.router(flat), self.per_token)
        rows, order, sizes = eager.dispatch(flat, chosen, self.count)
        rows = eager.swiglu(eager.experts(rows, list(self.up), sizes))
        rows = eager.experts(rows, list(self.down), sizes)
        return eager.combine(rows, weights, order, flat.shape[0]).view_as(x)


class Layer(nn.Module):
    """One transformer block."""

    def __init__(self, layer: LayerSpec, hidden: int, index: int, rotary: bool) -> None:
        super().__init__()
        spec, self.index, self.rotary = layer.attention, index, rotary
        assert spec is not None and layer.mlp is not None
        self.heads, self.kv_heads, self.width = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
        self.norm1, self.norm2 = _norm(layer, hidden), _norm(layer, hidden)
        self.qkv = nn.Linear(hidden, (self.heads + 2 * self.kv_heads) * self.width, bias=spec.qkv_bias)
        self.out = nn.Linear(self.heads * self.width, hidden, bias=spec.output_bias)
        self.mlp = Routed(layer, hidden) if layer.mlp.is_moe else Dense(layer, hidden)

    def forward(self, x: Any, rotation: Any, cache: KVCache | None = None, at: int = 0) -> Any:
        """Hidden states [batch, length, hidden]; with a cache the new tokens stand at ``at``."""
        qkv = self.qkv(self.norm1(x))
        if self.rotary:
            q, k, v = eager.rotate(qkv, self.heads, self.kv_heads, self.width, *rotation)
        else:
            shape = (*qkv.shape[:2], -1, self.width)
            q, k, v = qkv.view(shape).split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if cache is not None:
            k, v = cache.extend(self.index, k, v, at)
        mask = None if cache is None or cache.mask is None else cache.mask[..., : k.shape[1]]
        mixed = eager.attend(q, k, v, x.shape[1] > 1, mask)
        x = x + self.out(mixed.reshape(*x.shape[:2], -1))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Embedding, blocks and head."""

    def __init__(self, model: ModelSpec, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        layers, rotary = model.layer_list(), model.position_embedding_type == "rope"
        spec = layers[0].attention
        assert spec is not None
        self.width = spec.head_dim
        self.tables: tuple[Any, Any] | None = None
        self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
        self.positions = None if rotary else nn.Embedding(model.learned_positions, model.hidden_size)
        self.layers = nn.ModuleList(Layer(one, model.hidden_size, i, rotary) for i, one in enumerate(layers))
        self.norm = _norm(layers[-1], model.hidden_size)
        self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        if model.tie_word_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Any, cache: KVCache | None = None, at: int = 0, first: int | None = None) -> Any:
        """Logits [batch, length, vocabulary]; with a cache of the last token alone."""
        position = at if first is None else first
        places = torch.arange(position, position + ids.shape[1], device=ids.device)
        x = self.embedding(ids)
        rotation = None
        if self.positions is not None:
            x = x + self.positions(places)
        else:
            rotation = self.rotation(x, position)
        for layer in self.layers:
            if self.recompute:
                x = torch.utils.checkpoint.checkpoint(layer, x, rotation, use_reentrant=False)
            else:
                x = layer(x, rotation, cache, at)
        if cache is not None:
            x = x[:, -1:]  # only the last token of a prompt is continued
        return self.head(self.norm(x))

    def rotation(self, x: Any, first: int = 0) -> tuple[Any, Any]:
        """Cosines and sines of the places of ``x`` from ``first`` on; tables are kept, as engines keep them."""
        end = first + x.shape[1]
        if self.tables is None or self.tables[0].shape[0] < end:
            with torch.inference_mode(False), torch.no_grad():
                every = torch.arange(1 << (end - 1).bit_length(), device=x.device)
                self.tables = eager.rotary_tables(every, self.width, x.dtype)
        cos, sin = self.tables
        return cos[first:end], sin[first:end]

    def run_layers(self, x: Any) -> Any:
        """The blocks alone, of one pipeline stage."""
        rotation = self.rotation(x) if self.positions is None else None
        for layer in self.layers:
            x = layer(x, rotation)
        return x
