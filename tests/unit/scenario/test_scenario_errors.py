"""Bad input: every kind of mistake is found at its place, with its cure, and all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulator.errors import ConfigError, Issue
from simulator.scenario.load import load_scenario

GOOD = """\
name: t
cluster:
  nodes: {profile: dgx-h100, count: 2}
  fabric: {topology: rail-optimized, link: ndr400}
  site: {power_price: 0.08 USD/kWh}
workloads:
  - training: pretrain
    model: llama-3.1-8b
    framework: megatron-core-0.8
    batch: {global_batch_size: 64, micro_batch_size: 1, sequence_length: 8192}
    plan: {tensor_parallel: 4, pipeline_parallel: 2, virtual_stages: 2, data_parallel: 2, schedule: interleaved-1f1b}
"""


def issues_of(text: str, folder: Path, overrides: tuple[str, ...] = ()) -> list[Issue]:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_scenario(path, overrides)
    return list(caught.value.issues)


def test_the_good_scenario_has_no_issue(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert str(load_scenario(path).training[0].plan) == "tp4 pp2x2 dp2 interleaved-1f1b zero1 bf16"


MATRIX = [
    # what is written, what it becomes, line, column, dotted path, words of the message
    ("name: t", "nam: t", 1, 1, "nam", ["unknown key 'nam'", "did you mean 'name'?"]),
    ("USD/kWh", "USD", 5, 23, "cluster.site.power_price", ["energy price", "0.08 USD/kWh"]),
    ("0.08 USD/kWh", "0.08", 5, 23, "cluster.site.power_price", ["has no unit", "0.08 USD/kWh"]),
    ("dgx-h100", "dgx-h1000", 3, 20, "cluster.nodes[0].profile", ["unknown node", "did you mean 'dgx-h100'"]),
    ("count: 2", "count: 0", 3, 37, "cluster.nodes[0].count", ["at least 1", "have 0"]),
    ("count: 2", "count: two", 3, 37, "cluster.nodes[0].count", ["whole number", "'two'"]),
    ("rail-optimized", "rail-optimised", 4, 22, "cluster.fabric.topology", ["unknown topology", "'rail-optimized'"]),
    ("ndr400", "ndr40", 4, 44, "cluster.fabric.link", ["unknown network", "'ndr400'"]),
    ("llama-3.1-8b", "llama-3.1-8bb", 8, 12, "workloads[0].model", ["unknown model", "'llama-3.1-8b'"]),
    ("megatron-core-0.8", "megatron-cor", 9, 16, "workloads[0].framework", ["unknown framework", "megatron-core-0.8"]),
    ("megatron-core-0.8", "vllm-0.10", 9, 16, "workloads[0].framework", ["serving framework", "training"]),
    ("schedule: inter", "schedule: intre", 11, 101, "workloads[0].plan.schedule", ["pipeline", "interleaved-1f1b"]),
    ("tensor_parallel: 4", "tp: 4", 11, 12, "workloads[0].plan.tp", ["'tensor_parallel'", "command line"]),
    ("    model: llama-3.1-8b\n", "", 7, 5, "workloads[0].model", ["'model' is missing"]),
    ("data_parallel: 2", "data_parallel: 4", 11, 5, "workloads[0].plan",
     ["tensor_parallel 4 × pipeline_parallel 2 × data_parallel 4 = 32", "2 nodes × 8 = 16", "data_parallel: 2"]),
    ("tensor_parallel: 4, ", "tensor_parallel: 3, ", 11, 29, "workloads[0].plan.tensor_parallel",
     ["32 attention heads are not divisible by 3", "2 or 4"]),
    ("virtual_stages: 2", "virtual_stages: 3", 11, 70, "workloads[0].plan.virtual_stages",
     ["32 layers do not divide into 2 × 3 = 6", "virtual_stages 2 or 4"]),
    ("global_batch_size: 64", "global_batch_size: 63", 10, 32, "workloads[0].batch.global_batch_size",
     ["63 is not divisible by micro_batch_size 1 × data_parallel 2 = 2", "62 or 64"]),
    ("global_batch_size: 64", "global_batch_size: 66", 11, 101, "workloads[0].plan.schedule",
     ["multiple of pipeline_parallel = 2, have 33: use 32 or 34"]),
    ("- training: pretrain\n    model", "- model", 7, 5, "workloads[0]",
     ["'serving: NAME', 'functions: NAME' or 'jobs: NAME'"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "column", "path", "words"), MATRIX, ids=[m[1][:30] for m in MATRIX])
def test_one_mistake(tmp_path: Path, old: str, new: str, line: int, column: int, path: str, words: list[str]) -> None:
    assert GOOD.count(old) == 1
    issues = issues_of(GOOD.replace(old, new), tmp_path)
    found = [i for i in issues if i.path == path]
    assert len(found) == 1, issues
    assert (found[0].file.endswith("s.yaml"), found[0].line, found[0].column) == (True, line, column)
    for word in words:
        assert word in found[0].message


def test_all_mistakes_come_at_once_in_document_order(tmp_path: Path) -> None:
    text = GOOD
    changes = [("name: t", "nam: t"), ("0.08 USD/kWh", "0.08"), ("ndr400", "ndr"), ("llama-3.1-8b", "lama-3.1-8b"),
               ("global_batch_size: 64", "global_batch_size: many")]  # fmt: skip
    for old, new in changes:
        text = text.replace(old, new)
    issues = issues_of(text, tmp_path)
    assert [i.line for i in issues] == [1, 4, 5, 8, 10]


def test_a_wrong_value_does_not_hide_a_wrong_plan_nor_cause_a_false_one(tmp_path: Path) -> None:
    """The price has no unit *and* the product is wrong: two issues. A degree that is no number: one, not two."""
    both = GOOD.replace("0.08 USD/kWh", "0.08").replace("data_parallel: 2", "data_parallel: 4")
    assert [i.path for i in issues_of(both, tmp_path)] == ["cluster.site.power_price", "workloads[0].plan"]
    one = GOOD.replace("tensor_parallel: 4", "tensor_parallel: four")
    assert [i.path for i in issues_of(one, tmp_path)] == ["workloads[0].plan.tensor_parallel"]


def test_errors_of_a_users_own_model_file_carry_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nconfig:\n  model_type: llamma\n", encoding="utf-8")
    issues = issues_of(GOOD.replace("llama-3.1-8b", "mine.yaml"), tmp_path)
    assert {Path(i.file).name for i in issues} == {"mine.yaml"}


SERVING = """\
cluster: {nodes: {profile: dgx-h100, count: 1}}
workloads:
  - serving: chat
    model: llama-3.1-8b
    framework: vllm-0.10
    requests: {trace: trace.csv}
    deployment: {replicas: 2}
"""


def test_bad_rows_of_a_trace_are_named_by_line_and_can_be_skipped(tmp_path: Path) -> None:
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += [f"2023-11-16 18:15:{i:02d}.0000000,{100 + i},10" for i in range(20)]
    rows[7] = "2023-11-16 18:15:06.0000000,many,10"
    (tmp_path / "trace.csv").write_text("\n".join(rows), encoding="utf-8")
    issues = issues_of(SERVING, tmp_path)
    assert any(Path(i.file).name == "trace.csv" and i.line == 8 for i in issues), issues
    scenario = load_scenario(tmp_path / "s.yaml", skip_bad_rows=True)
    assert len(scenario.deployments[0].requests) == 19
    assert any("1 requests left out" in w for w in scenario.warnings)


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ("{}", ["needs one source of requests, have none"]),
        ("{trace: azure-2023-conv, input_tokens: 5}", ["have trace, input_tokens"]),
        ("{input_tokens: 100, output_tokens: 10, count: 5}", ["needs 'rate'"]),
        ("{rate: 5 /s, input_tokens: 100, output_tokens: 10}", ["needs an end"]),
        ("{rate: 5 /s, count: 9, input_tokens: 100}", ["'output_tokens' is missing"]),
        ("{trace: azure-2023-con}", ["did you mean 'azure-2023-conv'"]),
    ],
)
def test_request_sources(tmp_path: Path, requests: str, words: list[str]) -> None:
    (issue,) = issues_of(SERVING.replace("{trace: trace.csv}", requests), tmp_path)
    assert issue.line == 6
    for word in words:
        assert word in issue.message


def test_replicas_that_do_not_fit_say_who_asked_for_what(tmp_path: Path) -> None:
    text = SERVING.replace("{trace: trace.csv}", "{rate: 5 /s, count: 9, input_tokens: 100, output_tokens: 10}")
    (issue,) = issues_of(text.replace("replicas: 2", "replicas: 9"), tmp_path)
    assert "replica 8 of 'chat' needs 1 accelerators but 0 are left of 8" in issue.message


@pytest.mark.parametrize("document", ["- a\n", "just text\n", ""])
def test_not_a_scenario(tmp_path: Path, document: str) -> None:
    assert issues_of(document, tmp_path)


def test_a_checkpoint_goes_to_a_storage_that_the_cluster_has(tmp_path: Path) -> None:
    text = GOOD.replace("  site:", "  storage: {name: lustre, read: 100 GB/s, write: 50 GB/s}\n  site:")
    text = text.replace("    plan:", "    checkpoint: {every: 30 min, to: lustra}\n    plan:")
    (issue,) = issues_of(text, tmp_path)
    assert (issue.line, issue.path) == (12, "workloads[0].checkpoint.to")
    assert "no storage 'lustra', did you mean 'lustre'?" in issue.message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such.yaml", "there is no scenario file 'no/such.yaml'$"),
        ("no/quickstrt.yaml", "there is no scenario file 'no/quickstrt.yaml', did you mean 'quickstart'"),
        ("{folder}/god.yaml", "did you mean 'good.yaml'"),
        ("{folder}", "is a folder: name a scenario file like good.yaml"),
    ],
)
def test_a_file_that_is_not_there(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=said):
        load_scenario(name.format(folder=tmp_path))


def test_a_workload_is_of_one_kind(tmp_path: Path) -> None:
    (issue,) = issues_of(GOOD.replace("    model:", "    serving: chat\n    model:"), tmp_path)
    assert (issue.line, issue.path) == (7, "workloads[0]")
    assert "have training and serving: write a workload for each" in issue.message


def test_numbers_that_no_cluster_has_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    found = issues_of(GOOD.replace("count: 2", "count: 99999999999").replace("size: 64", "size: 99999999999"), tmp_path)
    assert [issue.path for issue in found] == ["cluster.nodes[0].count", "workloads[0].batch.global_batch_size"]
    assert all("needs at most 1,000,000, have 99999999999" in issue.message for issue in found)


def test_a_mapping_is_read_by_the_rules_of_a_file() -> None:
    document: dict[str, Any] = {"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": []}
    with pytest.raises(ConfigError, match="workloads"):
        load_scenario(document)


def test_a_wrong_model_does_not_hide_a_wrong_trace() -> None:
    serving = {"serving": "b", "model": "llama", "framework": "vllm-0.10", "requests": {"trace": "nothere.csv"}}
    document = {"name": "x", "cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [serving]}
    with pytest.raises(ConfigError) as error:
        load_scenario(document)
    paths = [issue.path for issue in error.value.issues]
    assert paths == ["workloads[0].model", "workloads[0].requests.trace"]
