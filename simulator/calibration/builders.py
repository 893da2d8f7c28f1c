"""Callables that run one kernel on a device, in the form in which an eager model runs it.

Weights come from a pool larger than the caches, as in a model whose other layers have run in between; activations are
what the kernel before has just written. When training, autograd records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from simulator.calibration import eager
from simulator.calibration.torch_setup import dtype_of, require_torch
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Work

__all__ = ["attention_call", "decode_call", "elementwise_call", "gemm_call", "optimizer_call"]

Build = Callable[[str], Callable[[], object]]
POOL = 48e6
"""Bytes of weights that are cycled through, above the private caches of current processors."""


def _pool(make: Callable[[], Any], size: float) -> Any:
    return cycle([make() for _ in range(max(1, min(16, round(POOL / size))))])


def _without_autograd(call: Callable[[], object]) -> Callable[[], object]:
    torch = require_torch()

    def run() -> object:
        with torch.inference_mode():
            return call()

    return run


def gemm_call(direction: str, m: int, n: int, k: int, dtype: str, groups: int = 1) -> Build:
    """A linear layer of ``m`` rows from ``k`` to ``n`` features, or one of its gradients; ``groups`` split the rows."""

    def build(device: str) -> Callable[[], object]:
        torch = require_torch()
        kind = dtype_of(dtype)
        new: Callable[..., Any] = lambda *shape: torch.randn(*shape, dtype=kind, device=device)  # noqa: E731
        training = dtype == "fp32" or direction != "forward"
        sizes = [m // groups] * groups

        def weights() -> list[Any]:
            return [new(n, k).requires_grad_(training) for _ in range(groups)]

        pool = _pool(weights, groups * n * k * new(1).element_size())
        x, gradient = new(m, k).requires_grad_(training), new(m, n)
        linear = torch.nn.functional.linear
        if direction == "forward":
            if groups == 1:
                call: Callable[[], object] = lambda: linear(x, next(pool)[0])  # noqa: E731
            else:
                call = lambda: eager.experts(x, next(pool), sizes)  # noqa: E731
            return call if training else _without_autograd(call)
        with torch.no_grad():
            parts, grads = x.detach().split(sizes), gradient.split(sizes)
        if direction == "backward":
            run = _joined(lambda: [g.mm(w) for g, w in zip(grads, next(pool), strict=True)])
        else:
            kept = [torch.zeros(n, k, dtype=torch.float32, device=device) for _ in range(groups)]
            # Gradients stay allocated and are added to, as the lowering has it.
            run = lambda: [s.add_(g.t().mm(p)) for s, g, p in zip(kept, grads, parts, strict=True)]  # noqa: E731
        return _without_autograd(run)

    return build


def _joined(parts: Callable[[], list[Any]]) -> Callable[[], object]:
    torch = require_torch()

    def call() -> object:
        made = parts()
        return made[0] if len(made) == 1 else torch.cat(made)

    return call


def attention_call(work: Work, training: bool) -> Build:
    """Causal self-attention, or its backward."""

    def build(device: str) -> Callable[[], object]:
        torch = require_torch()
        kind = dtype_of(work.dtype)

        def make(heads: int) -> Any:
            shape = (work.batch, work.q_len, heads, work.head_dim)
            return torch.randn(*shape, dtype=kind, device=device).requires_grad_(training)

        q, k, v = make(work.heads), make(work.kv_heads), make(work.kv_heads)
        if not work.backward:
            call: Callable[[], object] = lambda: eager.attend(q, k, v, True)  # noqa: E731
            return call if training else _without_autograd(call)
        out = eager.attend(q, k, v, True)
        return _gradient(out, (q, k, v))

    return build


def _gradient(out: Any, inputs: Sequence[Any], *more: Any) -> Callable[[], object]:
    """The backward of ``out`` (and of ``more`` outputs), run again and again on one graph."""
    torch = require_torch()
    outputs = (out, *more)
    upstream = tuple(torch.ones_like(o) for o in outputs)
    return lambda: torch.autograd.grad(outputs, tuple(inputs), upstream, retain_graph=True)


def decode_call(work: Work) -> Build:
    """One token of every sequence against the first ``kv_len`` places of a longer cache."""

    def build(device: str) -> Callable[[], object]:
        torch = require_torch()
        kind, length = dtype_of(work.dtype), int(work.kv_len)
        shape = (work.batch, length + 64, work.kv_heads, work.head_dim)
        q = torch.randn(work.batch, 1, work.heads, work.head_dim, dtype=kind, device=device)
        pool = _pool(
            lambda: [torch.randn(*shape, dtype=kind, device=device)[:, :length] for _ in range(2)], max(1.0, work.bytes)
        )

        def call() -> object:
            keys, values = next(pool)
            return eager.attend(q, keys, values, False)

        return _without_autograd(call)

    return build


def optimizer_call(name: str, count: int) -> Build:
    """Clipping by the global norm, or a fused AdamW step that zeroes the gradients, over ``count`` fp32 parameters."""

    def build(device: str) -> Callable[[], object]:
        torch = require_torch()
        parameters = [torch.nn.Parameter(torch.randn(count // 4, device=device)) for _ in range(4)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        if name == "clip":
            return lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        return step

    return build


def elementwise_call(operator: str, model: ModelSpec, tokens: int, dtype: str, training: bool) -> Build | None:
    """A memory-bound operator of ``model`` at ``tokens`` tokens; None if there is no such kernel in eager PyTorch."""
    name, _, backward = operator.partition(".")
    if name not in _MAKERS:
        return None

    def build(device: str) -> Callable[[], object]:
        torch = require_torch()
        torch.manual_seed(0)
        forward, inputs = _MAKERS[name](torch, model, tokens, dtype_of(dtype), device, training)
        if not backward:
            return forward if training else _without_autograd(forward)
        out = forward()
        if name in ("embedding", "positions"):  # the dense gradient of the table is made and added to what is there
            upstream = torch.ones_like(out)
            return lambda: out.backward(upstream, retain_graph=True)
        outputs = [o for o in (out if isinstance(out, tuple) else (out,)) if o.requires_grad]
        # The residual stream feeds a norm and an addition: autograd adds the two gradients after the norm's.
        residual = [inputs[0]] if name.endswith("norm") else []
        return _gradient(outputs[0], inputs, *outputs[1:], *residual)

    return build


Made = tuple[Callable[[], Any], tuple[Any, ...]]


def _new(torch: Any, dtype: Any, device: str, training: bool, *shape: int) -> Any:
    return torch.randn(*shape, dtype=dtype, device=device).requires_grad_(training)


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
    if training:
        return (lambda: eager.rotate(x, heads, kv_heads, width, cos, sin)), (x,)
    cache = [torch.zeros(tokens, 64, kv_heads, width, dtype=dtype, device=device) for _ in range(2)]

    def decode() -> Any:  # with the store into the cache, for which the lowering has no Op of its own
        q, k, v = eager.rotate(x, heads, kv_heads, width, cos, sin)
        cache[0][:, 7:8], cache[1][:, 7:8] = k, v
        return q

    return decode, (x,)


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
