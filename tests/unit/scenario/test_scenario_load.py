"""What a scenario resolves to: shipped files, changes from the command line, defaults, placement."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import data
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.scenario.checks import divisors_near
from simulator.scenario.load import load_scenario
from simulator.scenario.placement import Demand, place
from simulator.scenario.schema import json_schema
from simulator.scenario.types import Scenario, part_of
from simulator.yaml_marks import load_yaml

SHIPPED = data.names("scenarios")


def change(*overrides: str, name: str = "template") -> Scenario:
    return load_scenario(name, ["workloads.chat.requests.duration=5 s", *overrides])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scenarios_load_and_open_with_a_question(name: str) -> None:
    scenario = load_scenario(name)
    assert sum(p.accelerators for p in scenario.placements) <= scenario.cluster.accelerator_count
    text = data.find_file("scenarios", name, "scenario").read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line says what is asked"


def test_the_design_page_loads_as_written() -> None:
    scenario = load_scenario("design")
    job, chat = scenario.training[0], scenario.deployments[0]
    assert (job.plan.accelerators, job.batch.microbatches(job.plan), job.steps) == (512, 64, 10000)
    assert (scenario.cluster.accelerator_count, scenario.until, scenario.record) == (1024, 7 * 86400, "summary")
    assert scenario.cluster.site.power_price == pytest.approx(0.08 / 3.6e6)
    assert scenario.cluster.fabric.link.bandwidth == pytest.approx(50e9)
    assert (chat.max_num_batched_tokens, chat.slo.ttft, chat.slo.percentile) == (2048, 0.3, 90)
    (store,) = scenario.cluster.storage
    assert (store.name, store.write) == ("parallel-fs", pytest.approx(2e12 / 16))
    assert any("cluster.storage 'parallel-fs' is not described: assumed" in w for w in scenario.warnings)
    assert scenario.failures is not None
    assert scenario.failures.name == "llama3-2024"
    assert any("failures: detection 1 min" in w for w in scenario.warnings)
    assert any("requests of a failed replica of chat begin again" in w for w in scenario.warnings)


def test_request_rate_scales_time() -> None:
    requests = load_scenario("design").deployments[0].requests
    assert len(requests) / requests.arrival[-1] == pytest.approx(20, rel=0.02)


def test_changes_reach_their_place_by_number_name_and_short_form() -> None:
    scenario = change("workloads.0.plan.tp=2", "workloads.pretrain.plan.dp=4", "workloads[1].slo.ttft=1 s", "seed=9")
    assert (scenario.training[0].plan.tensor_parallel, scenario.training[0].plan.data_parallel) == (2, 4)
    assert (scenario.deployments[0].slo.ttft, scenario.seed) == (1.0, 9)
    assert scenario.document["workloads"][0]["plan"]["tensor_parallel"] == 2


def test_a_change_may_be_a_whole_section() -> None:
    scenario = change("cluster.storage=[{name: fs, read: 100 GB/s, write: 50 GB/s}]")
    assert (scenario.cluster.storage[0].name, scenario.cluster.storage[0].write) == ("fs", 50e9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "path=value"),
        ("workloads.7.plan.tp=2", "no item '7'"),
        ("workloads.chatt.slo.ttft=1 s", "did you mean 'chat'"),
        ("name.x=1", "single value"),
        ("workloads.0.plan.tpp=2", "unknown key 'tpp'"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_a_wrong_change_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")) as caught:
        load_scenario("template", [override])
    assert str(caught.value).startswith(f"-s {override}")


def test_data_parallel_left_out_takes_what_remains() -> None:
    scenario = load_scenario("gpt3-175b-selene", ["cluster.nodes.count=16", "workloads.0.plan.data_parallel="])
    assert scenario.training[0].plan.data_parallel == 2


def test_nodes_of_a_job_are_binding() -> None:
    with pytest.raises(ConfigError, match="the job has 2 nodes × 8 = 16"):
        change("workloads.0.nodes=2", "cluster.nodes.count=3")


def test_defaults_come_from_the_framework() -> None:
    from simulator.workload.framework_files import load_framework

    vllm, megatron = load_framework("vllm-0.10"), load_framework("megatron-core-0.8")
    scenario = change("workloads.0.plan.zero_stage=")
    deployment = scenario.deployments[0]
    assert deployment.max_num_seqs == vllm.max_num_seqs
    assert deployment.max_num_batched_tokens == vllm.max_num_batched_tokens
    assert scenario.training[0].plan.zero_stage == megatron.distributed_optimizer_default


def test_a_named_cluster_and_what_replaces_its_parts() -> None:
    base = {"cluster": {"profile": "selene"}, "workloads": [chat()]}
    named = load_scenario(base)
    assert named.cluster.accelerator_count == 4480
    smaller = load_scenario(base, ["cluster.nodes={profile: dgx-a100-640, count: 2}"])
    assert (smaller.cluster.accelerator_count, smaller.cluster.fabric) == (16, named.cluster.fabric)


def test_what_is_assumed_is_said() -> None:
    document = {"cluster": {"nodes": {"profile": "dgx-h100", "count": 2}}, "workloads": [chat()]}
    warnings = " ".join(load_scenario(document).warnings)
    for words in ("fabric is not given", "power_price is not given", "15 of 16 accelerators have no work"):
        assert words in warnings


def chat() -> dict[str, Any]:
    requests = {"rate": "5 /s", "count": 3, "input_tokens": 10, "output_tokens": 10}
    return {"serving": "chat", "model": "llama-3.1-8b", "framework": "vllm-0.10", "requests": requests}


def test_one_name_for_two_workloads_is_refused() -> None:
    document = {"cluster": {"nodes": {"profile": "dgx-h100", "count": 2}}, "workloads": [chat(), chat()]}
    with pytest.raises(ConfigError, match="the name 'chat' is taken"):
        load_scenario(document)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_divisors_near_divide_and_enclose(number: int, wanted: int) -> None:
    found = divisors_near(number, wanted)
    assert found
    assert all(number % d == 0 for d in found)
    between = range(min(found) + 1, max(found))
    assert not any(number % d == 0 for d in between)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 8, 16, 24]), st.integers(1, 3)), max_size=5), st.integers(1, 12))
def test_placement_never_overlaps_and_small_groups_stay_in_a_node(wanted: list[tuple[int, int]], nodes: int) -> None:
    node = load_node("dgx-h100")
    cluster = Cluster("c", (NodeGroup(node, nodes),), Fabric("fat-tree", node.nic))
    demands = [Demand(f"w{i}", size, replicas) for i, (size, replicas) in enumerate(wanted)]
    answer = place(cluster, demands)
    if isinstance(answer, str):
        # Refused only when it is too much, or when whole nodes leave gaps beside the small groups.
        gaps = sum(size % 8 != 0 for size, replicas in wanted for _ in range(replicas)) * 7
        assert sum(d.total for d in demands) + gaps > cluster.accelerator_count
        return
    taken: set[int] = set()
    for p in answer:
        mine = set(range(p.first, p.first + p.accelerators))
        assert not mine & taken
        assert max(mine) < cluster.accelerator_count
        taken |= mine
        assert (p.first_node, p.nodes) == (p.first // 8, (p.first + p.accelerators - 1) // 8 - p.first // 8 + 1)
        assert p.accelerators >= 8 or p.nodes == 1
        assert part_of(cluster, p.first_node, p.nodes).node_count == p.nodes
    assert len(answer) == sum(d.replicas for d in demands)


@pytest.mark.parametrize("name", SHIPPED)
def test_json_schema_accepts_shipped_scenarios(name: str) -> None:
    import jsonschema

    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    document = load_yaml(Path(data.find_file("scenarios", name, "scenario"))).to_plain()
    jsonschema.Draft202012Validator(schema).validate(document)


def test_json_schema_refuses_what_the_loader_refuses() -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(json_schema())
    document = load_yaml(data.find_file("scenarios", "quickstart", "scenario")).to_plain()
    for path, value in (("seed", -1), ("nam", 1), ("until", 5), ("record", "ful")):
        assert not validator.is_valid({**document, path: value}), path
    document["workloads"][0]["plan"]["recompute"] = "sometimes"
    assert not validator.is_valid(document)


def test_the_published_layouts_use_every_accelerator() -> None:
    for name, gpus in (("gpt3-175b-selene", 64), ("gpt-1t-selene", 3072)):
        scenario = load_scenario(name)
        plan = scenario.training[0].plan
        degrees = (plan.tensor_parallel, plan.pipeline_parallel, plan.data_parallel)
        assert prod(degrees) == gpus == scenario.cluster.accelerator_count
