"""Classes of records that no file here has: other names, other devices, broken cells, other packings."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.hardware import accelerator_names
from simulator.validation.engines import engine_of
from simulator.validation.hardware import node_of
from simulator.validation.loads import idle_clients
from simulator.validation.model_names import FORMATS, TUNING, shipped_name
from simulator.validation.read import measurement_files, read_file
from simulator.validation.read_inferencex import read_runs
from simulator.validation.read_serving import read_serving_file
from simulator.validation.read_tables import TABLES, read_table
from simulator.validation.read_training import read_training_file
from simulator.validation.run import answer_case, validate
from simulator.workload.model_files import model_aliases, model_names

RUN = {
    "id": "x_agg_1024x1024_c8_tp8_ep1_1", "backend": "sglang", "backend_version": "0.5.9", "mode": "agg",
    "model_path": "meta-llama/Llama-3.1-8B", "system": "h200_sxm", "precision": "fp8", "isl": "1024", "osl": "128",
    "conc": "8", "tp_size": "8.0", "pp_size": "1.0", "attention_dp_size": "1.0", "ttft_ms": "100", "tpot_ms": "5",
}  # fmt: skip

STEPS = {
    "vtrain": {"gpus": "8", "global_batch": "32", "micro_batch": "4", "hidden": "1024", "heads": "16", "layers": "24",
               "seq_len": "1024", "tp": "2", "dp": "2", "pp": "2", "step_ms": "220"},
    "nanotron": {"params_b": "1.34", "layers": "16", "hidden": "2048", "heads": "32", "kv_heads": "32",
                 "vocab": "131072", "gpus": "8", "dp": "8", "tp": "1", "pp": "1", "zero_stage": "0",
                 "micro_batch": "1", "grad_accum": "32", "status": "Success", "tokens_per_s_per_gpu": "39273.41"},
    "simumax": {"case": "a", "model": "llama3-8b", "layers": "12", "tp": "1", "pp": "2", "cp": "1", "ep": "1",
                "dp": "4", "micro_batch": "1", "micro_batches": "4", "seq_len": "4096", "step_ms": "843",
                "peak_alloc_gib": "66", "peak_reserved_gib": "70"},
    "rapid": {"variant": "FSDP", "tp": "1", "pp": "1", "cp": "1", "dp": "4", "step_s": "10"},
}  # fmt: skip

RECORD = {
    "id": "run", "split": "dev", "quality": "A", "source": {"name": "Somebody on Megatron-Core"},
    "model": {"name": "GPT-1.7B", "family": "gpt", "layers": 24, "hidden": 2304, "ffn_hidden": 9216, "heads": 24,
              "vocab": 51200, "seq_len": 2048, "mlp": "gelu", "tied_embeddings": True},
    "hardware": {"gpu": "A100-80GB", "n_gpus": 8, "gpus_per_node": 8, "inter_node": "-"}, "precision": "bf16",
    "parallelism": {"tp": 2, "pp": 1, "dp": 4, "zero_stage": 1},
    "batch": {"micro_batch": 2, "global_batch": 16}, "recompute": "full", "offload": "none",
    "measured": {"tokens_per_s_per_gpu": 9000, "memory_alloc_gib": 30},
}  # fmt: skip

ENTRY = {
    "id": "e", "source": "somebody", "verified": "url", "model": "llama3.1-8b", "engine": "vLLM 0.11.0",
    "gpu": "h100_sxm", "n": 1, "tp": 1, "dtype": "bf16",
    "workload": {"kind": "closed_loop", "num_requests": 100, "isl_mean": 1000, "osl_mean": 100, "conc": 16},
    "metrics": {"out_tps": 1000.0, "ttft_ms_mean": 100.0, "tpot_ms_mean": 10.0, "duration_s": 10.0},
}  # fmt: skip

CELLS = st.one_of(
    st.sampled_from(["", "NaN", "-1", "0", "1.5", "1e400", "8x", "true", "None", "∞", "-", "[]", " 8 "]),
    st.text(max_size=6), st.integers(-3, 10**6).map(str),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


def lost_nothing(reading, records: int) -> None:  # type: ignore[no-untyped-def]
    """Every record is a case or on the list with a reason."""
    assert len(reading.cases) + len(reading.skipped) == records
    assert all(s.reason.strip() for s in reading.skipped)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(RUN)), st.sampled_from(sorted(RUN)), CELLS, CELLS)
def test_any_cells_of_a_serving_run(one: str, other: str, first: str, second: str) -> None:
    broken = {**RUN, one: first, other: second}
    lost_nothing(read_runs([RUN, broken, {k: v for k, v in RUN.items() if k != one} | {"mode": "agg"}], "f"), 3)


@pytest.mark.parametrize("table", sorted(STEPS))
def test_any_cells_of_a_table_of_steps(table: str) -> None:
    row = STEPS[table]
    make = next(make for columns, make in TABLES if columns <= set(row))

    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(sorted(row)), st.sampled_from(sorted(row)), CELLS, CELLS)
    def check(one: str, other: str, first: str, second: str) -> None:
        rows = [row, {**row, one: first, other: second}, {k: v for k, v in row.items() if k != one}]
        lost_nothing(read_table(rows, make, "f"), 3)

    check()
    assert not read_table([row], make, "f").skipped


def broken(record: dict, draw: st.DrawFn) -> dict:
    """The record with one key, at the top or one below, gone or holding anything."""
    key = draw(st.sampled_from(sorted(record)))
    inner = record[key]
    if isinstance(inner, dict) and draw(st.booleans()):
        return {**record, key: broken(inner, draw)}
    if draw(st.booleans()):
        return {k: v for k, v in record.items() if k != key}
    return {**record, key: draw(VALUES)}


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_anything_in_a_training_record(data: st.DataObject) -> None:
    record = broken(RECORD, data.draw)
    reading = read_training_file({"runs": [RECORD, record, data.draw(VALUES)]}, "f")
    lost_nothing(reading, 3)
    assert reading.cases[0].id == "run"


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_anything_in_a_serving_entry(data: st.DataObject) -> None:
    entries = [ENTRY, broken(ENTRY, data.draw), data.draw(VALUES)]
    lost_nothing(read_serving_file({"entries": entries, "models": {}}, "f"), 3)


def as_csv(rows: list[dict[str, str]], end: str = "\n") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def test_packing_marks_ends_of_lines_and_order_of_columns_change_nothing(tmp_path: Path) -> None:
    turned = dict(reversed(RUN.items())) | {"extra": 'a,"b'}
    files = {
        "plain.csv": as_csv([RUN]), "packed.csv.gz": gzip.compress(as_csv([RUN])), "misnamed.csv.gz": as_csv([RUN]),
        "marked.csv": b"\xef\xbb\xbf" + as_csv([RUN], "\r\n"), "turned.csv": as_csv([turned]),
        "wide.csv": as_csv([RUN]).replace(b",8,", b", 8 ,"),
    }  # fmt: skip
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    readings = [read_file(tmp_path / name).cases[0] for name in files]
    assert len(measurement_files([tmp_path])) == len(files)
    assert len({repr((c.id, c.subject, c.measured, c.assumed)) for c in readings}) == 1


def test_what_is_wrong_with_files_is_said_of_all_at_once(tmp_path: Path) -> None:
    texts = {"a.yaml": "runs: [\n  {id: 1", "b.yaml": "runs: 7\n", "c.csv": "x,y\n1,2\n", "d.csv.gz": "\x1f\x8bno"}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        validate([tmp_path / name for name in texts], workers=1)
    words = str(caught.value)
    assert len(caught.value.issues) == 4 and "a.yaml:3:1" in words and "must be a list of records" in words
    assert "cannot be read as text" in words and "no known format has the columns x, y" in words


PLAIN = sorted(n for n in (*model_names(), *model_aliases()) if not {*TUNING, *FORMATS} & set(n.split("-")))
PLAIN = [n for n in PLAIN if not any(w.isdigit() and len(w) != 2 for w in n.split("-")) and "v0" not in n]


@given(st.sampled_from(PLAIN), st.sampled_from(["", "-Instruct", "-chat-hf", "-FP8", "-it-AWQ-4bit", "-2507"]))
def test_a_model_is_found_however_an_engine_spells_it(name: str, tail: str) -> None:
    meant = model_aliases().get(name, name)
    for words in (f"{name}{tail}", f"Some-Org/{name.upper()}{tail}", f"{name.replace('-', ' ')}{tail}"):
        assert shipped_name(words) == meant, words


def test_unknown_models_stay_unknown() -> None:
    assert not any(map(shipped_name, ("", "some-7b", "llama", "gpt-9-1.3t", "instruct", "fp8", "7b")))


@given(st.sampled_from(["vLLM", "vllm/vllm-openai:v", "TensorRT-LLM v", "trtllm-", "sglang=="]), st.data())
def test_later_versions_never_take_earlier_presets(engine: str, data: st.DataObject) -> None:
    versions = sorted(data.draw(st.tuples(st.tuples(*[st.integers(0, 30)] * 2), st.tuples(*[st.integers(0, 30)] * 2))))
    presets = [engine_of(f"{engine}{' ' if engine[-1].isalpha() and engine[0] == 'v' else ''}{a}.{b}.post1")[0].name
               for a, b in versions]  # fmt: skip
    order = ["vllm-0.2", "vllm-0.5", "vllm-0.6", "vllm-0.10", "vllm-latest", "tensorrt-llm-0.20", "tensorrt-llm-1.0",
             "tensorrt-llm-1.2", "sglang-0.4"]  # fmt: skip
    assert order.index(presets[0]) <= order.index(presets[1])


NO_CARD = ("cpu-xeon-amx-1t", "rubin")
"""Not named by measurements of this kind."""


@pytest.mark.parametrize("name", [n for n in accelerator_names() if n not in NO_CARD])
def test_every_accelerator_is_found_by_its_name(name: str) -> None:
    for words in (name, name.upper(), name.replace("-", "_"), f"NVIDIA {name}"):
        assert node_of(words).accelerator.name == name, words


ENGINE = {"tp_size": "8", "pp_size": "1", "attention_dp_size": "1", "num_workers": "1"}
APART = {f"{stage}_{key}": value for stage in ("prefill", "decode") for key, value in ENGINE.items()}


def figures(**changes: str) -> dict[str, float]:
    [case] = read_runs([{**RUN, **changes}], "f").cases
    answer, note = answer_case(case)
    assert not note
    return answer


def test_a_lone_request_in_pools_is_that_of_one_engine_and_a_transfer() -> None:
    whole, apart = figures(conc="1"), figures(conc="1", mode="disagg", **APART)
    assert apart["ttft_mean"] == pytest.approx(whole["ttft_mean"], rel=0.02)
    assert whole["tpot_mean"] <= apart["tpot_mean"] * 1.001 and apart["tpot_mean"] < 1.2 * whole["tpot_mean"]
    assert whole["tpot_mean"] > whole["baseline.tpot_mean"]  # never below the plain roofline


def test_more_workers_for_prompts_shorten_their_queue() -> None:
    firsts = [
        figures(conc="64", isl="8192", mode="disagg", **{**APART, "prefill_num_workers": n})["ttft_mean"]
        for n in ("1", "2", "4")
    ]
    assert firsts[0] > 1.5 * firsts[1] > 1.5 * firsts[2]


def test_pools_without_their_numbers_of_workers_are_listed() -> None:
    [skipped] = read_runs([{**RUN, "mode": "disagg", **APART, "decode_num_workers": ""}], "f").skipped
    assert "number of workers is not stated" in skipped.reason


def test_data_parallelism_of_a_dense_model_is_replicas_and_of_a_mixture_is_that_of_its_attention() -> None:
    row = {**RUN, "id": "r", "tp_size": "1", "attention_dp_size": "4"}
    plans = {}
    for name in ("Llama-3.1-8B", "gpt-oss-20b"):
        [case] = read_runs([{**row, "model_path": name}], "f").cases
        assert case.subject.deployment is not None
        plans[name] = (case.subject.deployment.replicas, case.subject.deployment.plan.data_parallel)
    assert plans == {"Llama-3.1-8B": (4, 1), "gpt-oss-20b": (1, 4)}


def test_a_loop_whose_own_times_leave_its_clients_idle_was_not_in_force() -> None:
    workload = {"kind": "closed_loop", "num_requests": 1000, "isl_mean": 342, "osl_mean": 281, "conc": 512}
    metrics = {"ttft_ms_mean": 1604.0, "tpot_ms_mean": 15.12, "duration_s": 54.74}
    assert "107 of 512" in idle_clients({"workload": workload, "metrics": metrics})
    steady = {**metrics, "tpot_ms_mean": 85.0}  # 24 s in the system, as the page's own latency says
    assert not idle_clients({"workload": workload, "metrics": steady})
    assert not idle_clients({"workload": {**workload, "kind": "online"}, "metrics": metrics})


@pytest.mark.parametrize(
    ("layout", "changes", "stage", "options"),
    [
        ({"zero_stage": "FSDP2"}, {}, 3, {"sharding": "fsdp"}),
        ({"zero_stage": "full shard"}, {}, 3, {"sharding": "fsdp"}),
        ({"zero_stage": "SHARD_GRAD_OP"}, {}, 3, {"sharding": "fsdp", "reshard_after_forward": False}),
        ({"zero_stage": 3, "pp": 2, "dp": 2}, {}, 3, {"reshard_after_forward": False}),
        ({"zero_stage": None}, {"offload": "optimizer states to CPU"}, 2, {}),
        ({"zero_stage": None}, {"offload": "parameters to NVMe"}, 3, {"offload_tier": "nvme"}),
        ({"zero_stage": 1, "schedule": "1F1B-interleaved", "pp": 2, "dp": 2, "vpp": 1}, {}, 1, {}),
        ({"zero_stage": 1, "schedule": "ZB-V", "pp": 2, "dp": 2}, {}, 1, {}),
    ],
)
def test_layouts_in_words_are_plans_that_run(layout: dict, changes: dict, stage: int, options: dict) -> None:
    record = {**RECORD, **changes, "parallelism": {**RECORD["parallelism"], **layout}}
    [case] = read_training_file({"runs": [record]}, "f").cases
    assert case.subject.job is not None
    plan = case.subject.job.plan
    assert plan.zero_stage == stage
    assert {k: plan.option(k) for k in options} == options
    answer, note = answer_case(case)
    assert answer["step"] > 0.0 and not note


@pytest.mark.parametrize("words", ["MXFP4", "fp4", "tf32", "int8"])
def test_formats_that_no_pass_trains_in_are_not_taken_for_others(words: str) -> None:
    [skipped] = read_training_file({"runs": [{**RECORD, "precision": words}]}, "f").skipped
    assert "is not modelled" in skipped.reason


def test_a_record_of_a_named_public_model_is_complete(tmp_path: Path) -> None:
    record = {**RECORD, "model": {"name": "Qwen3-8B", "seq_len": 4096}}
    path = tmp_path / "runs.yaml"
    path.write_text(yaml.safe_dump({"runs": [record, {**record, "model": {"name": "Secret-8B", "seq_len": 4096}}]}))
    reading = read_file(path)
    assert reading.cases[0].labels.model == "qwen3-8b"
    assert any("public configuration" in words for words in reading.cases[0].assumed)
    assert "dimensions missing" in reading.skipped[0].reason
