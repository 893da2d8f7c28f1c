"""What a decode of latent attention takes beyond the Ops that are counted for it, from timings of aiconfigurator-core
(extra ``measured``): ``LATENT_DECODE`` of simulator/cost/kernels.py.

In absorbed form queries are multiplied into the latent space and results out of it, one product per head each, where
one product of the same FLOPs is counted; between them queries are joined, the latent is rotated and put into the cache,
and the keys' parts of a split kernel are summed. Timed: everything from the input of the first projection to the output
of the last, DeepSeek-V3 with 16 heads on a rank (8 ranks), fp8 in blocks. The time is the median of timed less counted
over up to 64 sequences of up to 8,192 tokens, of TensorRT-LLM on six devices; beside each device the errors without it
and with that of the others. vLLM is left out of the fit: on B200 and GB300 it takes the same, on the others 50 to 60 us
more, Hopper and Blackwell alike.

    python benchmarks/fits/latent_attention.py
"""

from __future__ import annotations

import statistics

from simulator.calibration import aiconfigurator
from simulator.calibration.aiconfigurator import LatentTiming
from simulator.cost.device import DeviceCost
from simulator.cost.kernels import LATENT_DECODE
from simulator.hardware.profiles import load_accelerator
from simulator.serving.attention_terms import attention_term
from simulator.serving.token_costs import served_block
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

ENGINES = {"vllm": "vllm-latest", "trtllm": "tensorrt-llm-1.0"}
FITTED = "trtllm"
ARCHITECTURES = ("hopper", "blackwell")
RANKS, HEADS = 8, 16
MOST, LONGEST = 64, 8192


def counted(device: DeviceCost, engine: Framework, timing: LatentTiming) -> float:
    """Seconds of the Ops that the simulator has for it, without the time that is fitted."""
    model, plan = load_model("deepseek-v3"), Plan(tensor_parallel=RANKS, precision="fp8")
    layer = list(model.layers)[-1][0]
    assert layer.attention is not None
    seconds = 0.0
    for op in served_block(layer, model, plan, engine, timing.batch).forward:
        mine = op.name.startswith("attention.") and op.name not in ("attention.norm", "attention.add")
        if mine and op.kind not in (OpKind.COLLECTIVE, OpKind.ATTENTION):
            seconds += device.price(work_of(op, plan.mesh)).seconds
    term = attention_term(layer.attention, device, RANKS, timing.kv_dtype, precision="fp8")
    return seconds + term.decode(timing.batch, timing.batch * timing.context)[0]


def main() -> None:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in aiconfigurator.devices():
        accelerator = load_accelerator(aiconfigurator.ACCELERATORS[name])
        if accelerator.architecture.partition("+")[0] not in ARCHITECTURES:
            continue
        for engine, framework in ENGINES.items():
            known = load_framework(framework)
            device = DeviceCost(accelerator, known, {LATENT_DECODE.id: 1e-9})
            few = [t for t in aiconfigurator.read_latent_decodes(name, engine) if t.heads == HEADS]
            few = [t for t in few if t.batch <= MOST and t.context <= LONGEST]
            if few:
                found[name, engine] = [(t.seconds, counted(device, known, t)) for t in few]
    beyond = {key: statistics.median(s - c for s, c in pairs) for key, pairs in found.items()}
    fitted = {key: value for key, value in beyond.items() if key[1] == FITTED}
    print(f"latent decode: {statistics.median(fitted.values()) * 1e6:.1f} us")
    for key, value in beyond.items():
        more = statistics.median(v for k, v in fitted.items() if k != key)
        errors = [statistics.median(abs((c + extra) / s - 1) for s, c in found[key]) for extra in (0.0, more)]
        left = f"error {errors[0]:.0%} without, {errors[1]:.0%} with that of {FITTED} on other devices"
        print(f"    {key[0]} {key[1]}: {value * 1e6:.1f} us; {left}", flush=True)


if __name__ == "__main__":
    main()
