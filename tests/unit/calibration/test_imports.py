"""Other people's timings: nccl-tests, Kineto traces, run logs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.calibration import aiconfigurator
from simulator.calibration.learning import Observation, learn
from simulator.calibration.traces import read_kineto
from simulator.calibration.user_logs import fit_logs
from simulator.cli import main
from simulator.constants import Constant, Trust
from simulator.errors import ConfigError


def test_kineto_trace(tmp_path: Path) -> None:
    def event(name: str, category: str, start: float, duration: float, **args: object) -> dict[str, object]:
        return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": duration, "tid": 1, "args": args}

    events = [
        event(
            "aten::mm", "cpu_op", 0, 10, **{"External id": 7, "Input Dims": [[64, 32], [32, 128]],
                                             "Input type": ["c10::BFloat16", "c10::BFloat16"]}
        ),
        event("sm90_xmma_gemm_bf16", "kernel", 20, 50, **{"External id": 7}),
        event("flash_fwd_kernel", "kernel", 100, 100),
    ]  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    found = read_kineto(path)
    assert found.seconds == {"gemm": pytest.approx(50e-6), "attention": pytest.approx(100e-6)}
    assert found.span == pytest.approx(180e-6) and found.host_gap == pytest.approx(30 / 180)
    (row,) = found.gemms
    assert (row.work.m, row.work.n, row.work.k, row.work.dtype) == (64, 128, 32, "bf16")
    assert row.seconds == pytest.approx(50e-6)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a trace"):
        read_kineto(path)


def test_learning_recovers_constants_and_narrows_the_interval() -> None:
    """Two constants, one of which the runs cannot see: t = a·n + b with b known to have been doubled."""
    constants = {
        "a": Constant("a", 1.0, "s", 0.2, Trust.ASSUMED, ""), "b": Constant("b", 5.0, "s", 0.8, Trust.ASSUMED, ""),
        "unseen": Constant("unseen", 1.0, "", 0.3, Trust.ASSUMED, ""),
    }  # fmt: skip

    def run(n: int) -> Observation:
        return Observation(str(n), n * 1.0 + 10.0, lambda s: n * s.get("a", 1.0) + 5.0 * s.get("b", 1.0))

    found = learn([run(n) for n in (1, 5, 20, 100, 400)], constants)
    assert found.constants["b"].value == pytest.approx(10.0, rel=0.05)
    assert found.constants["a"].value == pytest.approx(1.0, rel=0.03)
    assert found.constants["unseen"].sigma == pytest.approx(0.3)
    assert found.constants["unseen"].value == pytest.approx(1.0)
    assert found.width_after < 0.3 * found.width_before
    assert found.errors(True) < 0.02 < found.errors(False)


def test_training_logs_teach_the_host_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of a machine that is the model with another host time: the fit finds it back."""
    from dataclasses import replace

    from simulator.calibration.user_logs import _cluster
    from simulator.cost.host import OPERATOR
    from simulator.hardware.profiles import load_node
    from simulator.training.pipelined import PipelinedJob
    from simulator.workload.framework_files import load_framework
    from simulator.workload.jobs import Batch, TrainingJob
    from simulator.workload.model_files import load_model
    from simulator.workload.plan import Plan

    node, framework = load_node("dgx-a100-640"), load_framework("fsdp")
    truth = 1.4 * OPERATOR.value
    lines = ["model,global_batch_size,micro_batch_size,sequence_length,dp,zero_stage,step_time"]
    for batch, sequence in ((8, 512), (32, 2048)):
        job = TrainingJob(
            "x",
            load_model("gpt3-125m"),
            framework,
            Batch(batch, 1, sequence),
            Plan().with_(data_parallel=8, zero_stage=3),
        )
        scale = {OPERATOR.id: 1.4}
        seconds = PipelinedJob(job, _cluster(node, 8), scale).run().seconds
        lines.append(f"gpt3-125m,{batch},1,{sequence},8,3,{seconds}")
    log = tmp_path / "runs.csv"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "mine.yaml"
    found = fit_logs([log], "dgx-a100-640", "fsdp", out)
    assert found.errors(True) < 0.01 < found.errors(False)
    assert found.width_after < found.width_before
    learnt = load_framework(str(out))
    assert learnt.constants["host_per_operator"].value == pytest.approx(truth, rel=0.25)
    assert replace(learnt, constants={}, name="") == replace(framework, constants={}, name="")
    log.write_text("model,batchsize\ngpt3-125m,1\n", encoding="utf-8")
    assert main(["fit", str(log), "--node", "dgx-a100-640", "--framework", "fsdp"]) == 2
    assert "needs global_batch_size" in capsys.readouterr().err
    assert np.isfinite(found.width_after)


def test_serving_logs_narrow_the_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON with the fields of vLLM's benchmark, of an engine whose host takes three times as long."""
    from simulator.calibration.user_logs import _cluster
    from simulator.hardware.profiles import load_node
    from simulator.serving.iteration import ReplicaCost
    from simulator.strategies.protocols import BatchShape
    from simulator.workload.framework_files import load_framework
    from simulator.workload.model_files import load_model
    from simulator.workload.plan import Plan

    node, framework = load_node("dgx-h100"), load_framework("vllm-0.10")
    scale = {c.id: 3.0 for key, c in framework.constants.items() if key.startswith("host")}
    assert scale
    logs = []
    for concurrency in (1, 8, 64):
        plan, fabric = Plan(tensor_parallel=2), _cluster(node, 2).fabric
        cost = ReplicaCost(load_model("llama-3.1-8b"), plan, framework, node, fabric, scale=scale)
        context = round(concurrency * (1000 + 200 / 2))
        seconds = cost.iteration(BatchShape((), concurrency, context))
        mixed = cost.iteration(BatchShape(((1000, 0),), concurrency, context))
        seconds += (concurrency - 1) / 200 * (mixed - seconds)  # each other slot starts a prompt in 200 tokens
        log = tmp_path / f"c{concurrency}.json"
        run = {
            "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "max_concurrency": concurrency,
            "completed": 100, "total_input_tokens": 100_000, "total_output_tokens": 20_000,
            "mean_tpot_ms": 1e3 * seconds, "tensor_parallel_size": 2,
        }  # fmt: skip
        log.write_text(json.dumps(run), encoding="utf-8")
        logs.append(log)
    found = fit_logs(logs, "dgx-h100", "vllm-0.10")
    assert found.errors(True) < found.errors(False)
    assert found.width_after < 0.6 * found.width_before
    lines = tmp_path / "sglang.jsonl"  # sglang.bench_serving appends a line per run and does not name the model
    runs = [{**json.loads(log.read_text(encoding="utf-8")), "model": "meta-llama/Llama-3.1-8B"} for log in logs]
    lines.write_text("".join(json.dumps(run) + "\n" for run in runs), encoding="utf-8")
    again = fit_logs([lines], "dgx-h100", "vllm-0.10")
    assert [x for p in again.points for x in p[1:]] == pytest.approx([x for p in found.points for x in p[1:]])
    run = {**runs[0], "mean_tpot_ms": 0.01}
    logs[1].write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(ConfigError, match="that peak rates allow"):
        fit_logs([logs[1]], "dgx-h100", "vllm-0.10")
    logs[0].write_text(json.dumps({"model_id": "llama-3.1-8b", "completed": 3}), encoding="utf-8")
    assert main(["fit", str(logs[0]), "--node", "dgx-h100", "--framework", "vllm-0.10"]) == 2
    assert "needs mean_tpot_ms, max_concurrency" in capsys.readouterr().err


def test_without_torch_calibrate_says_how_to_install_it() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from simulator.cli import main\n"
        "sys.exit(main(['calibrate', '--device', 'cpu']) * 10 + main(['list', 'accelerators', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 20 and "pip install 'fmsim[calibrate]'" in done.stderr
    assert "Traceback" not in done.stderr and "h100-sxm" in done.stdout


def test_real_trace_of_the_profiler(tmp_path: Path) -> None:
    """A trace that torch.profiler writes here: the products with their shapes, and every kind of kernel."""
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile

    a, b, bias = torch.randn(64, 32), torch.randn(32, 48), torch.randn(48)
    heads = torch.randn(1, 2, 16, 32)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        torch.addmm(bias, a, b)
        (a.bfloat16() @ b.bfloat16()).sum()
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        torch.nn.functional.gelu(a)
    path = tmp_path / "trace.json"
    recorded.export_chrome_trace(str(path))
    found = read_kineto(path)
    assert {(r.work.m, r.work.n, r.work.k, r.work.dtype) for r in found.gemms} == {
        (64, 48, 32, "fp32"), (64, 48, 32, "bf16"),
    }  # fmt: skip
    assert all(r.seconds > 0 for r in found.gemms) and sum(found.seconds.values()) <= found.span * 1.001
    assert found.seconds.keys() >= {"gemm", "attention", "elementwise"} and 0 <= found.host_gap < 1


@pytest.mark.parametrize(("factor", "kept"), [(3.0, 1e-3), (1.2, 1.2e-3)])
def test_experts_of_a_format_that_another_shows_to_be_an_outlier_are_left_out(
    factor: float, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiconfigurator, "_not_gated", frozenset)
    sizes = {
        "hidden_size": 1024, "inter_size": 512, "topk": 2, "num_experts": 8, "moe_tp_size": 1, "moe_ep_size": 1,
        "distribution": "balanced",
    }  # fmt: skip
    rows = [
        {**sizes, "moe_dtype": name, "num_tokens": tokens, "latency": latency}
        for tokens in (64, 128, 256)
        for name, latency in (("fp8", factor), ("fp8_block", 1.0), ("bfloat16", 2.0))
    ]
    notes: list[str] = []
    found = aiconfigurator._experts(pd.DataFrame(rows), notes)
    assert {row.work.dtype: row.seconds for row in found} == pytest.approx({"fp8": kept, "bf16": 2e-3})
    assert bool(notes) == (factor > aiconfigurator.OUTLIER)
