"""The operators of eager PyTorch models, as functions: what the microbenchmarks time and the verified models run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.calibration.torch_setup import require_torch

__all__ = ["attend", "combine", "dispatch", "experts", "rotary_tables", "rotate", "route", "swiglu"]


def rotary_tables(positions: Any, head_dim: int, dtype: Any, base: float = 10000.0) -> tuple[Any, Any]:
    """Cosines and sines [positions, 1, head_dim] of rotary embeddings (Su et al. 2021, arXiv 2104.09864)."""
    torch = require_torch()
    inverse = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim)
    angles = positions.to(torch.float32)[:, None] * inverse[None, :]
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _half(x: Any, cos: Any, sin: Any) -> Any:
    torch = require_torch()
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def rotate(qkv: Any, heads: int, kv_heads: int, head_dim: int, cos: Any, sin: Any) -> tuple[Any, Any, Any]:
    """Queries, keys and values [batch, seq, heads, head_dim] of a fused projection, the first two rotated."""
    batch, seq = qkv.shape[:2]
    q, k, v = qkv.split((heads * head_dim, kv_heads * head_dim, kv_heads * head_dim), dim=-1)
    q, k = q.view(batch, seq, heads, head_dim), k.view(batch, seq, kv_heads, head_dim)
    return _half(q, cos, sin), _half(k, cos, sin), v.view(batch, seq, kv_heads, head_dim)


def attend(q: Any, k: Any, v: Any, causal: bool, mask: Any = None) -> Any:
    """Scaled dot-product attention of [batch, seq, heads, head_dim]; grouped queries without copies of the keys.

    ``mask`` [batch, 1, 1, keys] says which keys of each sequence exist.
    """
    functional = require_torch().nn.functional
    grouped = q.shape[2] != k.shape[2]
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return out.transpose(1, 2)


def swiglu(both: Any) -> Any:
    """Gate and value side by side: silu(gate)·value (Shazeer 2020, arXiv 2002.05202)."""
    gate, value = both.chunk(2, dim=-1)
    return require_torch().nn.functional.silu(gate) * value


def route(logits: Any, per_token: int) -> tuple[Any, Any]:
    """Weights and expert numbers [tokens, per_token] of a softmax router."""
    torch = require_torch()
    weights, chosen = torch.topk(torch.softmax(logits, dim=-1), per_token, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), chosen


def dispatch(x: Any, chosen: Any, experts: int) -> tuple[Any, Any, list[int]]:
    """Rows of ``x`` in the order of their experts, the token of each row, and the rows of every expert."""
    torch = require_torch()
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    sizes = torch.bincount(flat, minlength=experts).tolist()
    return x[order // chosen.shape[1]], order, sizes


def experts(rows: Any, weights: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Every expert's linear layer on its own rows: the grouped GEMM of an eager framework."""
    torch = require_torch()
    linear = torch.nn.functional.linear
    return torch.cat([linear(part, w) for part, w in zip(rows.split(list(sizes)), weights, strict=True)])


def combine(rows: Any, weights: Any, order: Any, tokens: int) -> Any:
    """Weighted sum of the rows that belong to each token."""
    torch = require_torch()
    per_token = weights.shape[1]
    weighted = rows * weights.reshape(-1)[order].to(rows.dtype)[:, None]
    out = torch.zeros(tokens, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return out.index_add(0, order // per_token, weighted)
