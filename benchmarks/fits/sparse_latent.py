"""What attention over chosen tokens reaches in an engine's own kernels on Hopper, and what decodes take beyond those
that are counted: ``sparse_share_hopper``, ``sparse_decode_hopper`` and, of dense latent attention,
``latent_decode_hopper`` of workloads/frameworks/*.yaml, from timings of aiconfigurator-core (extra ``measured``).

Timed: everything from the input of the first projection to the output of the last, DeepSeek-V3.2 and DeepSeek-V3 with
16 and 128 heads on a GPU, fp8 weights in blocks, a cache in 16 bits. The share is that of the slope between 512 and
1,024 sequences of 1,024 tokens, the time beyond the median of timed less counted over up to 64 sequences. Contexts of
2,048 tokens and more are taken for vLLM: its version 0.24 passes over places of the top-k that are not filled, which
0.13 computes. Errors are of up to 256 sequences, as shipped and with the constants of the other device.

    python benchmarks/fits/sparse_latent.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from simulator.calibration import aiconfigurator
from simulator.calibration.aiconfigurator import LatentTiming
from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.serving.attention_terms import SoftmaxTerm, attention_term
from simulator.serving.sparse_terms import sparse_term
from simulator.serving.token_costs import served_block
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

ENGINES = {"vllm": "vllm-latest", "trtllm": "tensorrt-llm-1.2"}
DEVICES = ("h100_sxm", "h200_sxm")
HEADS = 128
FEW, MANY = 64, 256
PAIR = 2048 * 64 * 2.0 * (2 * 512 + 64)
"""FLOPs of a thread block: 64 heads of one token over the top-k."""

Constants = dict[str, float]


class Counted:
    """Seconds that the simulator counts on one device with given constants of the engine's kernels."""

    def __init__(self, device: str, engine: str, model: str, own: Constants) -> None:
        known = load_framework(ENGINES[engine])
        made = {k: Constant(f"fit.{k}", v, "", 0.0, Trust.ASSUMED, "of the fit") for k, v in own.items()}
        plain = {k: c for k, c in known.constants.items() if not k.endswith("_hopper")}
        self.framework = replace(known, constants={**plain, **made})
        self.device = DeviceCost(load_accelerator(aiconfigurator.ACCELERATORS[device]), self.framework)
        self.model = load_model(model)
        self.layer = list(self.model.layers)[-1][0]
        self._linear = dict[tuple[int, int], float]()
        self._terms = dict[int, Callable[[int, float], tuple[float, float, int]]]()

    def linear(self, batch: int, heads: int) -> float:
        """The projections, and what stands between them."""
        if (batch, heads) not in self._linear:
            plan, seconds = Plan(tensor_parallel=HEADS // heads, precision="fp8"), 0.0
            for op in served_block(self.layer, self.model, plan, self.framework, batch).forward:
                mine = op.name.startswith("attention.") and op.name not in ("attention.norm", "attention.add")
                if mine and op.kind not in (OpKind.COLLECTIVE, OpKind.ATTENTION):
                    seconds += self.device.price(work_of(op, plan.mesh)).seconds
            self._linear[batch, heads] = seconds
        return self._linear[batch, heads]

    def seconds(self, timing: LatentTiming) -> float:
        """All of it."""
        heads = timing.heads
        if heads not in self._terms:
            assert self.layer.attention is not None
            term = attention_term(self.layer.attention, self.device, HEADS // heads, "bf16", precision="fp8")
            assert isinstance(term, SoftmaxTerm)
            self._terms[heads] = (sparse_term(term) if self.layer.attention.index_topk else term).decode
        attention = self._terms[heads](timing.batch, timing.batch * timing.context)[0]
        return self.linear(timing.batch, heads) + attention


def timings(device: str, engine: str, sparse: bool) -> list[LatentTiming]:
    found = aiconfigurator.read_latent_decodes(device, engine, sparse=sparse)
    least = 2048 if sparse and engine == "vllm" else 0
    return [t for t in found if t.heads in (16, HEADS) and t.kv_dtype == "bf16" and least <= t.context <= 8192]


def share(device: str, engine: str) -> float:
    """Share of the 16-bit rate, from the time that 512 more sequences take."""
    counted, found = Counted(device, engine, "deepseek-v3.2", {}), list[float]()
    every = aiconfigurator.read_latent_decodes(device, engine, sparse=True)
    of = {(t.heads, t.batch): t.seconds for t in every if t.kv_dtype == "bf16" and 1000 < t.context < 1050}
    for heads in (16, HEADS):
        beside = counted.linear(1024, heads) - counted.linear(512, heads)
        more = of[heads, 1024] - of[heads, 512] - beside
        found.append(512 * max(1, heads // 64) * PAIR / more / counted.device.accelerator.rate("bf16"))
    return statistics.mean(found)


def beyond(device: str, engine: str, model: str, own: Constants) -> float:
    """Median of timed less counted [s]."""
    counted = Counted(device, engine, model, own)
    few = [t for t in timings(device, engine, model == "deepseek-v3.2") if t.batch <= FEW]
    return statistics.median(t.seconds - counted.seconds(t) for t in few)


def error(device: str, engine: str, model: str, own: Constants) -> float:
    """Median relative error."""
    counted = Counted(device, engine, model, own)
    few = [t for t in timings(device, engine, model == "deepseek-v3.2") if t.batch <= MANY]
    return statistics.median(abs(counted.seconds(t) / t.seconds - 1) for t in few)


def fit(device: str, engine: str) -> tuple[Constants, Constants]:
    """Constants of chosen tokens and of dense latent attention."""
    sparse = {"sparse_share_hopper": share(device, engine)} if engine == "trtllm" else {}
    sparse["sparse_decode_hopper"] = max(1e-9, beyond(device, engine, "deepseek-v3.2", sparse))
    dense = {"latent_decode_hopper": beyond(device, engine, "deepseek-v3", {"latent_decode_hopper": 1e-9})}
    return sparse, dense


def _said(own: Constants) -> str:
    parts = (f"{k} {v:.3f}" if "share" in k else f"{k} {v * 1e6:.1f} us" for k, v in own.items())
    return ", ".join(parts)


def main(devices: Sequence[str] = DEVICES) -> None:
    for engine in ENGINES:
        fitted = {device: fit(device, engine) for device in devices}
        for device in devices:
            other = next(d for d in devices if d != device)
            for which, model in enumerate(("deepseek-v3.2", "deepseek-v3")):
                plain = error(device, engine, model, {})
                with_other = error(device, engine, model, fitted[other][which])
                print(f"{engine} {device} {model}: {_said(fitted[device][which])}; error {plain:.0%} without,"
                      f" {with_other:.0%} with that of {other}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
