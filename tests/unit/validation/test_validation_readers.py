"""Files in the known formats, made by hand: what is read, what is listed, and that runs resume and repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from simulator.errors import ConfigError
from simulator.validation.hardware import UnknownHardwareError, cluster_of, node_of, port_of
from simulator.validation.models import IncompleteError, model_of
from simulator.validation.plans import plan_of, precision_of
from simulator.validation.read import measurement_files, read_file
from simulator.validation.rows import write_rows
from simulator.validation.run import validate
from simulator.workload.counting import parameters
from simulator.workload.framework_files import load_framework

RUN = {
    "id": "run", "split": "dev", "quality": "A", "source": {"name": "Somebody on Megatron-Core"},
    "model": {"name": "GPT-1.7B", "family": "gpt", "layers": 24, "hidden": 2304, "ffn_hidden": 9216, "heads": 24,
              "vocab": 51200, "seq_len": 2048, "mlp": "gelu", "tied_embeddings": True},
    "hardware": {"gpu": "A100-80GB", "n_gpus": 8, "gpus_per_node": 8, "inter_node": "-"}, "precision": "bf16",
    "parallelism": {"tp": 2, "pp": 1, "dp": 4, "zero_stage": "1 (distributed optimizer)"},
    "batch": {"micro_batch": 2, "global_batch": 16}, "recompute": "full", "offload": "none",
    "measured": {"tokens_per_s_per_gpu": 9000, "memory_alloc_gib": 30},
}  # fmt: skip


def training_file(folder: Path, *runs: dict) -> Path:
    path = folder / "measured.yaml"
    path.write_text(yaml.safe_dump({"meta": {}, "runs": list(runs), "failures": [{"id": "broken", "source": "log"}]}))
    return path


def test_a_run_becomes_a_job_and_its_figures(tmp_path: Path) -> None:
    [case] = read_file(training_file(tmp_path, RUN)).cases
    job, cluster = case.subject.job, case.subject.cluster
    assert job is not None and cluster is not None
    assert str(job.plan) == "tp2 pp1 dp4 zero1 recompute=full bf16" and cluster.accelerator_count == 8
    assert {(m.kind, m.quantity): round(m.value, 6) for m in case.measured} == {
        ("training_step_time", "step"): round(16 * 2048 / 9000 / 8, 6), ("fits", ""): 1.0,
        ("training_memory", "allocated"): 30 * 2**30,
    }  # fmt: skip
    assert any("sequence parallelism" in words for words in case.assumed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"batch": {}}, "batch"),
        ({"hardware": {**RUN["hardware"], "gpu": "Abacus"}}, "no hardware profile"),
        ({"model": {"name": "secret", "seq_len": 2048}}, "dimensions missing"),
        ({"hardware": {**RUN["hardware"], "n_gpus": 16}}, "the layout needs 8"),
        ({"measured": {"mfu": 0.4}}, "neither a step time"),
    ],
)
def test_what_is_incomplete_is_listed_with_the_reason(tmp_path: Path, change: dict, why: str) -> None:
    reading = read_file(training_file(tmp_path, {**RUN, **change}))
    assert not reading.cases
    assert why in reading.skipped[0].reason
    assert "neither a count of failures" in reading.skipped[1].reason


def test_words_about_chunks_gradients_and_experts_become_options(tmp_path: Path) -> None:
    moe = {**RUN["model"], "num_experts": 8}
    layout = {"tp": 2, "pp": 2, "dp": 8, "schedule": "interleaved",
              "pipeline_layout": "embedding takes the place of one layer",
              "zero_stage": "FSDP: optimizer+gradients sharded, parameters not resharded"}  # fmt: skip
    hardware = {**RUN["hardware"], "n_gpus": 32}
    run = {**RUN, "model": {**moe, "layers": 22}, "parallelism": layout, "hardware": hardware, "recompute": "norm, act"}
    [case] = read_file(training_file(tmp_path, run)).cases
    plan = case.subject.job.plan if case.subject.job else None
    assert plan is not None and plan.virtual_stages == 12  # 22 layers and two ends over 2 ranks, one to a chunk
    assert plan.option("shard_gradients") == 2 and plan.recompute == "elementwise"
    folded = {**layout, "zero_stage": 1, "ep": 16, "etp": 1}
    [case] = read_file(training_file(tmp_path, {**run, "parallelism": folded, "notes": "dispatcher DeepEP"})).cases
    plan = case.subject.job.plan if case.subject.job else None
    assert plan is not None and plan.folds_experts and plan.option("expert") == "node-limited"
    assert (plan.option("expert_group"), plan.option("node_limit"), plan.mesh["edp"]) == (8, 2, 1)


def test_a_table_is_recognised_by_its_header_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "anything.csv"
    path.write_text(
        "gpus,global_batch,micro_batch,hidden,heads,layers,seq_len,tp,dp,pp,step_ms\n8,32,4,1024,16,24,1024,2,2,2,220\n8,32,4,1024,16,24,1024,2,2,1,220\n"
    )
    reading = read_file(path)
    assert [c.labels.source for c in reading.cases] == ["vTrain one node"] and len(reading.skipped) == 1
    assert measurement_files([tmp_path]) == [path]


def test_unknown_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.yaml").write_text("x: 1\n")
    for name in ("a.csv", "b.yaml"):
        with pytest.raises(ConfigError):
            read_file(tmp_path / name)
    assert measurement_files([tmp_path]) == []
    with pytest.raises(ConfigError, match="there is no file"):
        measurement_files([tmp_path / "missing"])


def test_the_answer_is_the_same_kept_or_computed(tmp_path: Path) -> None:
    path, kept = training_file(tmp_path, RUN, {**RUN, "id": "again"}), tmp_path / "kept"
    counts: list[tuple[int, int]] = []
    for name in ("first", "second"):
        outcome = validate(
            [path], cache_folder=kept, workers=1, progress=lambda done, total: counts.append((done, total))
        )
        write_rows(outcome.rows, tmp_path / name)
    assert counts == [(0, 1), (1, 1), (1, 1)]  # equal configurations are run once, and not again
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert {r.configuration for r in outcome.rows} == {outcome.rows[0].configuration}


@pytest.mark.parametrize(
    ("words", "total"),  # GB/s per node and direction
    [
        ("8x 200 Gb/s HDR InfiniBand per node, fat tree (2 more HCAs for storage)", 200),
        ("1600 Gb/s per node RoCE", 200),
        ("4x 100 Gb/s RoCE per node", 50),
        ("400 Gb/s RoCE per GPU (pods of 3072)", 400),
        ("Storage: 2x ConnectX-7 IB NDR 400Gb/s, Compute: 8x ConnectX-7 IB NDR 400Gb/s, Management: 100Gb/s NIC", 400),
    ],
)
def test_networks_in_words(words: str, total: float) -> None:
    found = port_of(words, 8)
    assert found is not None and found[0].bandwidth * found[1] == pytest.approx(total * 1e9)


def test_nodes_in_words() -> None:
    assert node_of("A100-40GB").accelerator.name == "a100-sxm-40gb"
    assert node_of("a100_sxm_80").accelerator.name == "a100-sxm-80gb"
    assert node_of("V100", 16).name == "dgx-2" and node_of("h200_sxm").accelerator.name == "h200-sxm"
    assert cluster_of("H100-80GB", 64)[0].node_count == 8
    with pytest.raises(UnknownHardwareError):
        node_of("Abacus")


def test_parameters_of_a_model_in_words() -> None:
    gpt = model_of(RUN["model"])  # 12·L·h²(1 + 13/12h) + (V + s)·h + 2h
    h, layers = 2304, 24
    assert parameters(gpt) == 12 * layers * h * h + 13 * layers * h + (51200 + 2048) * h + 2 * h
    with pytest.raises(IncompleteError, match="layers, vocab"):
        model_of({"hidden": 8, "heads": 2, "ffn_hidden": 32})


@pytest.mark.parametrize(("stages", "taken"), [(8, True), (16, True), (9, False)])
def test_embedding_and_head_take_places_where_layers_do_not_divide(stages: int, taken: bool) -> None:
    """126 layers on 8 stages of 8 chunks, on 16 of 8, and on 9 of 7, as NVIDIA's recipes run Llama 3.1 405B."""
    record = {
        "model": {"layers": 126}, "hardware": {"gpus_per_node": 8}, "recompute": "none",
        "parallelism": {"tp": 4, "pp": stages, "dp": 2, "vpp": 7 if stages == 9 else 8, "schedule": "1F1B-interleaved"},
    }  # fmt: skip
    plan, assumed = plan_of(record, load_framework("nemo-24.07"))
    for end in ("embedding", "loss"):
        assert bool(plan.option(f"account_for_{end}_in_pipeline_split", False)) is taken
    assert any("as layers do not divide" in words for words in assumed) is taken


def test_nvfp4_is_not_fp4_of_some_16_bits() -> None:
    assert [precision_of(w) for w in ("NVFP4", "MXFP8", "FP8-CS", "bf16")] == ["nvfp4", "fp8", "fp8", "bf16"]


@pytest.mark.parametrize(("layers", "stages", "chunks"), [(96, 12, 2), (105, 35, 3), (100, 20, 5)])
def test_chunks_that_a_record_does_not_count_hold_equally_many_layers(layers: int, stages: int, chunks: int) -> None:
    """Megatron refuses others (num_layers_per_virtual_pipeline_stage); 105 layers on 35 stages ran as 3 in SC21."""
    record = {
        "model": {"layers": layers}, "hardware": {"gpus_per_node": 8}, "recompute": "full",
        "parallelism": {"tp": 8, "pp": stages, "dp": 2, "schedule": "1F1B-interleaved (depth not stated)"},
    }  # fmt: skip
    plan, assumed = plan_of(record, load_framework("megatron-lm-2021"))
    assert plan.virtual_stages == chunks
    assert f"{chunks} virtual stages" in assumed
