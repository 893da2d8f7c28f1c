"""Reinforcement learning: what an iteration is made of, where it runs, and its limits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.data import data_root
from simulator.errors import ConfigError
from simulator.results.estimate import Estimate
from simulator.scenario.load import load_scenario
from simulator.scenario.run import estimate_scenario, run_scenario
from simulator.workload.counting import parameters
from simulator.workload.model_files import load_model

BASE: dict[str, Any] = {
    "cluster": {"nodes": {"profile": "dgx-h100", "count": 2}},
    "workloads": [
        {
            "training": "rl", "model": "llama-3.2-1b", "framework": "megatron-core-0.8",
            "batch": {"global_batch_size": 64, "micro_batch_size": 2, "sequence_length": 1024},
            "plan": {"tensor_parallel": 2, "zero_stage": 1},
            "rollout": {"method": "grpo", "framework": "vllm-0.10", "prompt_tokens": 256, "response_tokens": 512,
                        "plan": {"tensor_parallel": 1}},
        }
    ],
}  # fmt: skip


def scenario(tmp_path: Path, **rollout: Any) -> Any:
    document = copy.deepcopy(BASE)
    document["workloads"][0]["rollout"] |= rollout
    path = tmp_path / "rl.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_scenario(path)


def answer(tmp_path: Path, **rollout: Any) -> Estimate:
    found = estimate_scenario(scenario(tmp_path, **rollout)).details["rl"]
    assert isinstance(found, Estimate) and found.feasible, found.reason
    return found


def test_an_iteration_is_the_sum_of_its_stages(tmp_path: Path) -> None:
    found = answer(tmp_path)
    stages = [found.metrics[f"{name}_time"] for name in ("rollout", "scoring", "update", "resharding")]
    assert found.seconds == pytest.approx(sum(stages)) == pytest.approx(found.time.total)
    result = run_scenario(scenario(tmp_path))
    row = result.rows("summary")[0]
    assert row["seconds"] == pytest.approx(found.seconds)
    assert row["generated_tokens_per_s"] == pytest.approx(64 * 512 / found.seconds)


def test_generation_is_that_of_the_engine_served_alone(tmp_path: Path) -> None:
    # An independent scenario: the same 64 requests at once, on 16 replicas of the same engine, without the server that
    # clients would talk to.
    engine = yaml.safe_load((data_root() / "workloads/frameworks/vllm-0.10.yaml").read_text(encoding="utf-8"))
    engine["constants"] = {k: v for k, v in engine["constants"].items() if not k.startswith("front_end")}
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(engine), encoding="utf-8")
    document = {
        "cluster": BASE["cluster"],
        "workloads": [
            {
                "serving": "engine", "model": "llama-3.2-1b", "framework": str(tmp_path / "engine.yaml"),
                "requests": {"concurrency": 64, "count": 64, "input_tokens": 256, "output_tokens": 512},
                "deployment": {"replicas": 16},
            }
        ],
    }  # fmt: skip
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    served = run_scenario(load_scenario(path)).rows("summary")[0]
    assert answer(tmp_path).metrics["rollout_time"] == pytest.approx(served["duration"], rel=1e-6)


def test_the_longest_answer_decides(tmp_path: Path) -> None:
    same = answer(tmp_path, response_tokens=300).metrics
    tail = answer(tmp_path, response_tokens={"law": "lognormal", "median": 200, "sigma": 0.9, "max": 700}).metrics
    assert tail["rollout_time"] > 1.5 * same["rollout_time"]  # few long answers keep the rest waiting
    assert tail["update_time"] == pytest.approx(same["update_time"])


def test_ppo_scores_with_four_models_and_trains_two(tmp_path: Path) -> None:
    grpo, ppo = answer(tmp_path).metrics, answer(tmp_path, method="ppo").metrics
    assert ppo["scoring_time"] == pytest.approx(2 * grpo["scoring_time"])
    assert ppo["update_time"] == pytest.approx(2 * grpo["update_time"])
    assert ppo["rollout_time"] == grpo["rollout_time"]


def test_apart_and_ahead_the_slower_side_decides(tmp_path: Path) -> None:
    waits, ahead = (answer(tmp_path, placement="disaggregated", nodes=1, lag=lag) for lag in (0, 1))
    m = waits.metrics
    assert waits.seconds == pytest.approx(
        m["rollout_time"] + m["scoring_time"] + m["update_time"] + m["resharding_time"]
    )
    longer = max(m["rollout_time"], m["scoring_time"] + m["update_time"])
    assert ahead.seconds == pytest.approx(longer + m["resharding_time"])
    assert any("old" in w for w in ahead.warnings) and not any("old" in w for w in waits.warnings)
    assert waits.traffic.by_link["scale_out"] > 0  # weights go to other nodes


def test_states_that_stay_take_the_cache_or_the_engine(tmp_path: Path) -> None:
    assert answer(tmp_path).traffic.by_link["host"] > 0
    stays = answer(tmp_path, offload=False)
    assert stays.traffic.by_link["host"] == 0
    assert stays.metrics["resharding_time"] < answer(tmp_path).metrics["resharding_time"]


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        ({"placement": "disaggregated"}, "needs 'nodes'"),
        ({"nodes": 1}, "leave nodes out"),
        ({"lag": 1}, "use lag 0"),
        ({"plan": {"tensor_parallel": 3}}, "do not divide"),
        ({"response_tokens": 1000}, "sequence_length is 1024"),
        ({"framework": "megatron-core-0.8"}, "needs one for serving"),
        ({"method": "dpo"}, "dpo"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, rollout: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        scenario(tmp_path, **rollout)
    assert words in str(error.value)


@pytest.mark.parametrize(("method", "learning", "frozen"), [("ppo", 2, 2), ("grpo", 1, 1)])
def test_states_of_the_models_that_learn_and_of_those_that_only_score(
    tmp_path: Path, method: str, learning: int, frozen: int
) -> None:
    """PPO: actor and critic learn, reference and reward score (HybridFlow, arXiv 2409.19256, section 2.1).

    GRPO needs no critic and takes rewards from rules (DeepSeekMath, arXiv 2402.03300): actor and reference. With fp32
    gradients a model that learns takes 2 + 4 + 12 B per parameter, one that scores 2.
    """
    found = answer(tmp_path, method=method)
    size = parameters(load_model("llama-3.2-1b")) / 2  # two tensor-parallel ranks
    held = found.memory.worst.by_class
    ranks = 8  # data-parallel ranks share the optimizer states
    assert held["param"] == pytest.approx(2 * size * (learning + frozen), rel=2e-3)
    assert held["grad"] == pytest.approx(4 * size * learning, rel=2e-3)
    assert held["optim"] == pytest.approx(12 * size * learning / ranks, rel=2e-3)
