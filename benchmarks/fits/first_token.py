"""Time before the first token that is not spent in kernels: the process in front of an engine, and launching kernels.

From InferenceX: closed loops of 4 and 8 clients without speculation or data-parallel attention. Prompts of 1,024 tokens
take kernels so short that the host decides; prompts of 8,192 tell the work per token apart from that per request.

1. ``front_end_per_request`` and ``front_end_per_token``: one pair for all engines, whose servers are the same kind of
   program (an HTTP server in Python, a tokenizer of Hugging Face);
2. ``host_per_launch``: one per engine; kernels are counted from the lowered model, so that a mixture of experts and a
   dense model share it. Left out model by model to see whether it holds. InferenceX ran SGLang on DeepSeek-R1 alone:
   its launches are those of GPUStack's closed loops of one and four clients (Qwen3-8B);
3. what a layer takes beyond its launches, from runs whose prompts no graph replays: ``host_per_latent_layer`` of
   TensorRT-LLM 1.2 (its gpt-oss-120b, a mixture, shows none: it is the attention), closed loops of up to 16 clients
   with DeepSeek-R1; ``host_per_expert_layer`` of SGLang from the same and from GPUStack's mixtures without latent
   attention with equal weight, printed for each alone (those in mxfp4 have a start inside their times: decision 47);
   ``host_per_unpacked_expert_layer`` of TensorRT-LLM, whose experts in MXFP4 are Triton kernels on Hopper, from
   gpt-oss-120b on H200, degrees with equal weight;
4. ``front_end_per_request`` of SGLang and TensorRT-LLM: a few clients hardly show it, so every third run of up to 128
   clients and GPUStack's thousand requests at once decide (the medians and 90th percentiles of both). That of vLLM,
   with what only takes time and what a chat costs, is fitted in ``front_end.py``;
5. the share of the usual compute efficiency that experts in fp4 have where they are unpacked: prompts of 8,192 tokens
   of gpt-oss-120b on vLLM, up to 64 clients, H100 and H200 with equal weight.

The first three minimise the median absolute error of the mean time to first token, the engines with equal weight, on a
grid.

    python benchmarks/fits/first_token.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from simulator.cost.kernels import UNPACKED_EXPERTS
from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.validation.trials import first_token_errors, published_first

MOST = 8
ENGINES = {
    "vllm": ("vllm-latest", "vllm-0.10-async"),
    "sglang": ("sglang-0.4",),
    "tensorrt-llm": ("tensorrt-llm-1.0", "tensorrt-llm-1.2"),
}
REQUEST = (0.006, 0.008, 0.010)
TOKEN = (2e-6, 4e-6, 6e-6)
LAUNCH = {
    "vllm": (15e-6, 20e-6, 25e-6, 30e-6, 40e-6, 50e-6),
    "sglang": (15e-6, 20e-6, 25e-6, 30e-6, 40e-6, 60e-6, 80e-6),
    "tensorrt-llm": (20e-6, 25e-6, 30e-6, 40e-6, 50e-6),
}
START, ROUNDS = (0.006, 4e-6), 1

LAYER = (0.0, 0.6e-3, 0.8e-3, 1.0e-3, 1.2e-3, 1.4e-3, 1.6e-3, 1.8e-3, 2.0e-3)
SEVERAL = 16

MANY_REQUESTS = (0.005, 0.006, 0.008)
MANY, EVERY = 128, 3

UNPACKED = (0.2, 0.24, 0.26, 0.28, 0.3, 0.32, 0.36, 0.4)
SOME, LONG = 64, 8192

Errors = list[tuple[str, float]]


def chosen(cases: Sequence[Case], most: int, latent: bool, answers: float = 0.0) -> list[Case]:
    """Development runs of few clients, one replica of whole ranks, no drafts, with latent attention or without; of
    ``answers`` of one length where it is given."""
    found = []
    for case in cases:
        deployment = case.subject.deployment
        assert deployment is not None
        plain = "speculation" not in dict(deployment.options) and deployment.plan.data_parallel == 1
        mixers = {layer.attention.kind for layer, _ in deployment.model.layers if layer.attention}
        few = 0 < _of(case, "concurrency") <= most and _of(case, "osl") in (answers or _of(case, "osl"),)
        plain &= deployment.framework.cuda_graph_batches == "decode" or not latent
        if published_first(case) and plain and few and latent == ("latent" in mixers):
            found.append(case)
    return found


def spread(found: Errors) -> float:
    """Median absolute error."""
    return statistics.median(abs(e) for _, e in found)


class Fit:
    """Coordinate descent: launches per engine for a front end, then the front end for these launches."""

    def __init__(self, cases: Sequence[Case]) -> None:
        """``cases``: runs of few clients of models without latent attention."""
        self.runs = {n: [c for c in cases if c.labels.framework in presets] for n, presets in ENGINES.items()}
        self.known: dict[tuple[str, float, float, float], Errors] = {}

    def errors(self, name: str, pair: tuple[float, float], launch: float) -> Errors:
        """Errors of an engine's runs."""
        key = (name, *pair, launch)
        if key not in self.known:
            names = "front_end_per_request", "front_end_per_token", "host_per_launch"
            values: dict[str, float] = dict(zip(names, (*pair, launch), strict=True))
            self.known[key] = first_token_errors(self.runs[name], values)
        return self.known[key]

    def launch(self, name: str, pair: tuple[float, float], without: str = "") -> float:
        """The best of an engine, perhaps without one model."""

        def left(launch: float) -> float:
            return spread([e for e in self.errors(name, pair, launch) if e[0] != without])

        return min(LAUNCH[name], key=left)

    def together(self, pair: tuple[float, float], launches: dict[str, float]) -> float:
        """Over the engines that InferenceX ran, each with the same weight."""
        return statistics.fmean(spread(self.errors(name, pair, launch)) for name, launch in launches.items())

    def pair(self) -> tuple[float, float]:
        """The front end of all engines."""
        pair = START
        for _ in range(ROUNDS):
            launches = {name: self.launch(name, pair) for name in self.runs if name != "sglang"}
            request = min(REQUEST, key=lambda r: self.together((r, pair[1]), launches))
            pair = request, min(TOKEN, key=lambda t: self.together((request, t), launches))
        return pair


def layers(name: str, constant: str, fixed: dict[str, float], runs: Mapping[str, Sequence[Case]]) -> str:
    """The best time per layer over the sources with equal weight, and that of each alone."""
    known: dict[float, dict[str, float]] = {
        seconds: {
            source: spread(first_token_errors(mine, fixed | {constant: seconds})) for source, mine in runs.items()
        }
        for seconds in LAYER
    }
    best = min(LAYER, key=lambda s: statistics.fmean(known[s].values()))
    told = [f"{name}: {constant} {best * 1e3:.1f} ms"]
    for source, mine in runs.items():
        alone = min(LAYER, key=lambda s: known[s][source])
        told.append(
            f"    {source} ({len(mine)} runs): median |error| {known[best][source]:.0%}, "
            f"without {known[0.0][source]:.0%}; alone {alone * 1e3:.1f} ms, {known[alone][source]:.0%}"
        )
    return "\n".join(told)


def many_clients(runs: Sequence[Case], per_request: float) -> str:
    """Median and 90th percentile of the absolute errors."""
    sizes = sorted(abs(e) for _, e in first_token_errors(runs, {"front_end_per_request": per_request}))
    return f"{statistics.median(sizes):.1%}, p90 {sizes[int(0.9 * len(sizes))]:.0%} ({len(sizes)} runs)"


def unpacked(cases: Sequence[Case]) -> str:
    """The best share, and that of each device alone."""
    chosen = [c for c in cases if c.labels.precision == "fp4" and c.labels.gpu[:4] in ("h100", "h200")]
    chosen = [
        c
        for c in chosen
        if c.labels.model.startswith("gpt-oss") and _of(c, "isl") == LONG and _of(c, "concurrency") <= SOME
    ]
    devices = {gpu: [c for c in chosen if c.labels.gpu == gpu] for gpu in sorted({c.labels.gpu for c in chosen})}
    known = {
        share: {
            g: spread(first_token_errors(mine, {}, {UNPACKED_EXPERTS.id: share / UNPACKED_EXPERTS.value}))
            for g, mine in devices.items()
        }
        for share in UNPACKED
    }
    best = min(UNPACKED, key=lambda s: statistics.fmean(known[s].values()))
    alone = ", ".join(f"{g} {min(UNPACKED, key=lambda s: known[s][g]):.2f}" for g in devices)
    return f"unpacked experts: {best:.2f}, median |error| {statistics.fmean(known[best].values()):.0%}; alone {alone}"


def by_degree(cases: Sequence[Case]) -> dict[str, Sequence[Case]]:
    """Runs by how they are split over devices."""
    return {
        degree: [c for c in cases if c.labels.degree == degree] for degree in sorted({c.labels.degree for c in cases})
    }


def _mixture(case: Case) -> bool:
    """Whether the model has experts and no latent attention."""
    deployment = case.subject.deployment
    assert deployment is not None
    kinds = [(layer.attention, layer.mlp) for layer, _ in deployment.model.layers]
    latent = any(attention and attention.kind == "latent" for attention, _ in kinds)
    return not latent and any(mlp and mlp.num_experts for _, mlp in kinds)


def _of(case: Case, setting: str) -> float:
    return float(str(dict(case.subject.settings)[setting]))


def of_engine(path: Path, source: str, engine: str) -> list[Case]:
    """Development runs of the source on any version of the engine that have times to first token."""
    known = [c for c in read_file(path).cases if c.labels.source == source and published_first(c)]
    return [c for c in known if engine in c.labels.framework]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    reference = parser.parse_args().shared / "reference"
    path = reference / "serving_peers/inferencex_runs.csv.gz"
    cases = read_file(path).cases
    few = of_engine(reference / "published_serving.yaml", "gpustack", "sglang")
    fit = Fit([*chosen(cases, MOST, False, 1024), *chosen(few, MOST, False)])
    pair = fit.pair()
    print(f"front end: {pair[0] * 1e3:.0f} ms per request, {pair[1] * 1e6:.0f} us per token", flush=True)
    for name, runs in fit.runs.items():
        launch = fit.launch(name, pair)
        print(
            f"{name}: host_per_launch {launch * 1e6:.0f} us, median |error| "
            f"{spread(fit.errors(name, pair, launch)):.0%} ({len(runs)} runs)"
        )
        models = sorted({c.labels.model for c in runs})
        for model in models if len(models) > 1 else ():
            other = fit.launch(name, pair, model)
            mine = [e for e in fit.errors(name, pair, other) if e[0] == model]
            print(f"    without {model}: {other * 1e6:.0f} us, its error {spread(mine):.0%} ({len(mine)} runs)")
    latent = chosen(cases, SEVERAL, True)
    mixtures = [c for c in few if c.labels.precision != "mxfp4" and _mixture(c)]
    unpacking = [c for c in chosen(cases, SEVERAL, False) if "gpt-oss" in c.labels.model and c.labels.gpu[:2] == "h2"]
    for name, presets, constant, kinds in (
        ("tensorrt-llm", ("tensorrt-llm-1.2",), "host_per_latent_layer", {"InferenceX": latent}),
        ("sglang", ("sglang-0.4",), "host_per_expert_layer", {"InferenceX": latent, "GPUStack": mixtures}),
        ("tensorrt-llm", ENGINES["tensorrt-llm"], "host_per_unpacked_expert_layer", by_degree(unpacking)),
    ):
        fixed = {"front_end_per_request": pair[0], "front_end_per_token": pair[1]}
        fixed["host_per_launch"] = fit.launch(name, pair)
        known = {source: [c for c in mine if c.labels.framework in presets] for source, mine in kinds.items()}
        print(layers(name, constant, fixed, known), flush=True)
    print(unpacked(of_engine(path, "InferenceX", "vllm")), flush=True)
    for engine in ("sglang", "tensorrt-llm"):
        runs = [c for c in of_engine(path, "InferenceX", engine) if _of(c, "concurrency") <= MANY][::EVERY]
        many = of_engine(reference / "published_serving.yaml", "gpustack", engine)
        for per_request in MANY_REQUESTS:
            told = f"InferenceX {many_clients(runs, per_request)}; GPUStack {many_clients(many, per_request)}"
            print(f"{engine}, {per_request * 1e3:.0f} ms per request: {told}", flush=True)


if __name__ == "__main__":
    main()
