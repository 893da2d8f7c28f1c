"""Kernels as an eager model runs them on a device, in the state of the caches in which a model does.

What is near and what is far is said in :mod:`simulator.calibration.caches`. When training, autograd records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from simulator.calibration import eager
from simulator.calibration.caches import (
    FAR,
    Kernel,
    alternating,
    copies,
    keeping,
    layer_bytes,
    passed_over,
    pieces,
    scratch,
    swept,
)
from simulator.calibration.torch_setup import dtype_of, require_torch
from simulator.workload.model import ModelSpec
from simulator.workload.ops import DTYPE_BYTES, Work

__all__ = ["Build", "attention_call", "decode_call", "elementwise_call", "gemm_call", "optimizer_call"]

Build = Callable[[str], Kernel]
TENSORS = 16
"""Parameters that the optimizer's bytes are spread over."""


def gemm_call(direction: str, work: Work) -> Build:
    """A linear layer, or one of its gradients; groups of ``work`` split the rows.

    ``work`` states C[m, n] = A[m, k]·B[k, n] of its own direction.
    """
    sizes = {"forward": (work.m, work.n, work.k), "backward": (work.m, work.k, work.n)}
    m, n, k = sizes.get(direction, (work.k, work.n, work.m))
    groups = max(1, work.groups)
    rows = [m // groups] * groups

    def build(device: str) -> Kernel:
        torch = require_torch()
        kind = dtype_of(work.dtype)
        width = torch.empty(0, dtype=kind).element_size()
        training = work.dtype == "fp32" or direction != "forward"
        size = 1.0 * groups * n * k * width
        passed = layer_bytes(size, 1.0 * m * (n + k) * width)

        def weights() -> list[Any]:
            return [pieces(kind, device, n, k).requires_grad_(training) for _ in range(groups)]

        x, gradient = pieces(kind, device, m, k).requires_grad_(training), pieces(kind, device, m, n)
        if direction == "weight_gradient":
            made = lambda: _weight_gradient(device, kind, rows, n, k, gradient)  # noqa: E731
            return alternating(made, 4.0 * groups * n * k, device, passed, recorded=False)
        turns = [weights() for _ in range(copies(size, device, passed))]
        passed_over(w for some in turns for w in some)
        pool = cycle(turns)
        if direction == "backward":
            with torch.no_grad():
                parts = gradient.split(rows)
            whole = _joined(lambda: [g.mm(w) for g, w in zip(parts, next(pool), strict=True)])
            return swept(whole, device, (gradient,), passed)
        linear = torch.nn.functional.linear
        call: Callable[[], object] = lambda: linear(x, next(pool)[0])  # noqa: E731
        if groups > 1:
            call = lambda: eager.experts(x, next(pool), rows)  # noqa: E731
        if training:
            return keeping(call, 1.0 * m * n * width, device, (x,), passed)
        return swept(call, device, (x,), passed)

    return build


def _weight_gradient(
    device: str, kind: Any, rows: list[int], n: int, k: int, gradient: Any
) -> tuple[Callable[[], object], Sequence[Any]]:
    """Saved activations are far, and so are the gradients, which stay allocated and are added to."""
    torch = require_torch()
    kept = [scratch(device, n, k) for _ in rows]
    with torch.no_grad():
        saved = pieces(kind, device, sum(rows), k)
        passed_over([saved])
        parts, grads = saved.split(rows), gradient.split(rows)
    call = lambda: [s.add_(g.t().mm(p)) for s, g, p in zip(kept, grads, parts, strict=True)]  # noqa: E731
    return call, (gradient,)


def _joined(parts: Callable[[], list[Any]]) -> Callable[[], object]:
    torch = require_torch()

    def call() -> object:
        made = parts()
        return made[0] if len(made) == 1 else torch.cat(made)

    return call


def attention_call(work: Work, training: bool) -> Build:
    """Causal self-attention, or its backward; an inference stores keys and values first, for which there is no Op."""

    def build(device: str) -> Kernel:
        torch = require_torch()
        kind = dtype_of(work.dtype)
        passed = layer_bytes(_layer_weights(work.heads * work.head_dim, work.dtype), work.bytes / 4)

        def make(heads: int, places: int = work.q_len) -> Any:
            return pieces(kind, device, work.batch, places, heads, work.head_dim).requires_grad_(training)

        def gradient() -> tuple[Callable[[], object], Sequence[Any]]:
            q, k, v = make(work.heads), make(work.kv_heads), make(work.kv_heads)
            out = eager.attend(q, k, v, True)
            upstream = torch.ones_like(out)
            return _gradient((out,), (q, k, v), (upstream,)), (upstream,)

        if work.backward:
            return alternating(gradient, work.bytes, device, passed)
        q, k, v = make(work.heads), make(work.kv_heads), make(work.kv_heads)
        if training:
            return keeping(lambda: eager.attend(q, k, v, True), work.bytes / 3, device, (q, k, v), passed)
        cache = [make(work.kv_heads, work.q_len + 8)[:, : work.q_len] for _ in range(2)]
        call = lambda: _stored(q, k, v, cache, 0, True)  # noqa: E731
        return swept(call, device, (q, k, v), passed)

    return build


def _stored(q: Any, k: Any, v: Any, cache: Sequence[Any], at: int, causal: bool) -> Any:
    cache[0][:, at : at + k.shape[1]], cache[1][:, at : at + k.shape[1]] = k, v
    return eager.attend(q, cache[0], cache[1], causal)


def _layer_weights(hidden: int, dtype: str) -> float:
    """Bytes of the 12 h² weights of a plain layer."""
    return 12.0 * hidden**2 * DTYPE_BYTES[dtype]


def _gradient(outputs: Sequence[Any], inputs: Sequence[Any], upstream: Sequence[Any]) -> Callable[[], object]:
    """The backward of ``outputs``, run again and again on one graph."""
    torch = require_torch()
    return lambda: torch.autograd.grad(outputs, tuple(inputs), upstream, retain_graph=True)


def decode_call(work: Work) -> Build:
    """One token of every sequence is stored in a longer cache and attends to its first ``kv_len`` places."""

    def build(device: str) -> Kernel:
        kind, length = dtype_of(work.dtype), int(work.kv_len)
        shape = (work.batch, length + 64, work.kv_heads, work.head_dim)
        q = pieces(kind, device, work.batch, 1, work.heads, work.head_dim)
        k, v = (pieces(kind, device, work.batch, 1, work.kv_heads, work.head_dim) for _ in range(2))
        passed = layer_bytes(_layer_weights(work.heads * work.head_dim, work.dtype), 0.0)
        turns = [
            [pieces(kind, device, *shape)[:, :length] for _ in range(2)]
            for _ in range(copies(work.bytes, device, passed))
        ]
        passed_over(cache for both in turns for cache in both)
        pool = cycle(turns)
        call = lambda: _stored(q, k, v, next(pool), length - 1, False)  # noqa: E731
        return swept(call, device, (q, k, v), passed)

    return build


def optimizer_call(name: str, count: int) -> Build:
    """Clipping by the global norm, or a fused AdamW step that zeroes the gradients, over ``count`` fp32 parameters.

    All of a rank's parameters come at the end of a backward: what the step touched last is elsewhere.
    """

    def build(device: str) -> Kernel:
        torch = require_torch()
        parameters = [torch.nn.Parameter(torch.randn(count // TENSORS, device=device)) for _ in range(TENSORS)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        if name == "clip":
            clip = lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # noqa: E731
            return swept(clip, device, (), FAR["cpu"], recorded=True)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        return swept(step, device, [p.grad for p in parameters], FAR["cpu"], recorded=True)

    return build


def elementwise_call(
    operator: str, model: ModelSpec, tokens: int, dtype: str, training: bool, size: float
) -> Build | None:
    """A memory-bound operator of ``model`` that moves ``size`` bytes; None if eager PyTorch has no such kernel."""
    name, _, backward = operator.partition(".")
    if name not in _MAKERS:
        return None

    def build(device: str) -> Kernel:
        torch = require_torch()
        torch.manual_seed(0)
        make: Callable[[], Made] = lambda: _MAKERS[name](  # noqa: E731
            torch, model, tokens, dtype_of(dtype), device, training
        )
        passed = layer_bytes(_layer_weights(model.hidden_size, dtype), size)
        if backward:
            return alternating(lambda: _backward(name, *make()), size, device, passed)
        forward, inputs = make()
        near = [] if name in ("embedding", "positions") else inputs[:1]  # a table is far, and so is a residual
        if training:
            return keeping(forward, size, device, near, passed)
        return swept(forward, device, near, passed)

    return build


def _backward(
    name: str, forward: Callable[[], Any], inputs: Sequence[Any]
) -> tuple[Callable[[], object], Sequence[Any]]:
    """The backward of an operator, and the gradients that it starts from."""
    torch = require_torch()
    out = forward()
    outputs = [o for o in (out if isinstance(out, tuple) else (out,)) if o.requires_grad]
    upstream = [torch.ones_like(o) for o in outputs]
    if name in ("embedding", "positions"):  # the dense gradient of the table is made and added to what is there
        return lambda: out.backward(upstream[0], retain_graph=True), upstream
    # The residual stream feeds a norm and an addition: autograd adds the two gradients after the norm's.
    residual = [inputs[0]] if name.endswith("norm") else []
    upstream += [torch.ones_like(r) for r in residual]
    return _gradient((*outputs, *residual), inputs, upstream), upstream


Made = tuple[Callable[[], Any], tuple[Any, ...]]


def _new(torch: Any, dtype: Any, device: str, training: bool, *shape: int) -> Any:
    return pieces(dtype, device, *shape).requires_grad_(training)


def _layer_norm(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    norm = torch.nn.LayerNorm(model.hidden_size, dtype=dtype, device=device)
    x = _new(torch, dtype, device, training, 1, tokens, model.hidden_size)
    return (lambda: norm(x)), (x, norm.weight, norm.bias)


def _rms_norm(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    norm = torch.nn.RMSNorm(model.hidden_size, eps=1e-6, dtype=dtype, device=device)
    x = _new(torch, dtype, device, training, 1, tokens, model.hidden_size)
    return (lambda: norm(x)), (x, norm.weight)


def _add(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    a, b = (_new(torch, dtype, device, training, 1, tokens, model.hidden_size) for _ in range(2))
    return (lambda: a + b), (a, b)


def _width(model: ModelSpec) -> int:
    mlp = model.layers[0][0].mlp
    assert mlp is not None
    return mlp.intermediate_size or mlp.moe_intermediate_size


def _rows(model: ModelSpec, tokens: int) -> int:
    mlp = model.layers[0][0].mlp
    assert mlp is not None
    return tokens * max(1, mlp.num_experts_per_tok)


def _gelu(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    x = _new(torch, dtype, device, training, 1, tokens, _width(model))
    return (lambda: torch.nn.functional.gelu(x)), (x,)


def _swiglu(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    x = _new(torch, dtype, device, training, _rows(model, tokens), 2 * _width(model))
    return (lambda: eager.swiglu(x)), (x,)


def _rotary(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    spec = model.layers[0][0].attention
    assert spec is not None
    heads, kv_heads, width = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
    # A served token belongs to a sequence of its own; a trained one to a long sequence.
    shape = (1, tokens) if training else (tokens, 1)
    x = _new(torch, dtype, device, training, *shape, (heads + 2 * kv_heads) * width)
    cos, sin = eager.rotary_tables(torch.arange(shape[1], device=device), width, dtype)
    return (lambda: eager.rotate(x, heads, kv_heads, width, cos, sin)), (x,)


def _embedding(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    table = _new(torch, dtype, device, training, model.vocab_size, model.hidden_size)
    ids = torch.randint(0, model.vocab_size, (1, tokens), device=device)
    return (lambda: torch.nn.functional.embedding(ids, table)), (table,)


def _positions(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    x = _new(torch, dtype, device, training, 1, tokens, model.hidden_size)
    table = _new(torch, dtype, device, training, model.learned_positions, model.hidden_size)
    places = torch.arange(tokens, device=device) % model.learned_positions
    return (lambda: x + torch.nn.functional.embedding(places, table)), (x, table)


def _cross_entropy(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    logits = _new(torch, torch.float32, device, training, tokens, model.vocab_size)
    target = torch.randint(0, model.vocab_size, (tokens,), device=device)
    return (lambda: torch.nn.functional.cross_entropy(logits, target)), (logits,)


def _cast(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    x = _new(torch, dtype, device, training, tokens, model.vocab_size)
    return (lambda: x.float()), (x,)


def _topk(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    mlp = model.layers[0][0].mlp
    assert mlp is not None
    logits = _new(torch, dtype, device, training, tokens, mlp.num_experts)
    return (lambda: eager.route(logits, mlp.num_experts_per_tok)[0]), (logits,)


def _moe(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> tuple[Any, ...]:
    mlp = model.layers[0][0].mlp
    assert mlp is not None
    x = _new(torch, dtype, device, training, tokens, model.hidden_size)
    logits = torch.randn(tokens, mlp.num_experts, device=device)
    weights, chosen = eager.route(logits, mlp.num_experts_per_tok)
    return x, weights.to(dtype).requires_grad_(training), chosen, mlp.num_experts


def _dispatch(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    x, _, chosen, experts = _moe(torch, model, tokens, dtype, device, training)
    return (lambda: eager.dispatch(x, chosen, experts)[0]), (x,)


def _combine(torch: Any, model: ModelSpec, tokens: int, dtype: Any, device: str, training: bool) -> Made:
    x, weights, chosen, experts = _moe(torch, model, tokens, dtype, device, training)
    with torch.no_grad():
        _, order, _ = eager.dispatch(x, chosen, experts)
    rows = _new(torch, dtype, device, training, _rows(model, tokens), model.hidden_size)
    return (lambda: eager.combine(rows, weights, order, tokens)), (rows, weights)


_MAKERS: dict[str, Callable[..., Made]] = {
    "layer_norm": _layer_norm, "rms_norm": _rms_norm, "add": _add, "gelu": _gelu, "swiglu": _swiglu,
    "rotary": _rotary, "embedding": _embedding, "positions": _positions, "cross_entropy": _cross_entropy,
    "cast": _cast, "topk": _topk,
    "dispatch": _dispatch, "combine": _combine,
}  # fmt: skip
