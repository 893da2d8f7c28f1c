"""Options of published runs as their scripts compute them (SemiAnalysisAI/InferenceX benchmarks/*.sh)."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.validation.inferencex_recipes import Recipe, recipe
from simulator.validation.read import read_file


def launched(measured: str, image: str, *, ranks: int = 1, conc: int = 64, isl: int = 1024, **more: str) -> Recipe:
    row = {"system": "b200_sxm", "precision": "fp8", "isl": str(isl), "osl": "1024", "conc": str(conc), **more}
    return recipe("deepseek-v3", "trtllm", {**row, "measured": measured, "image": image}, 8, ranks)


@pytest.mark.parametrize(
    ("measured", "image", "conc", "isl", "budget"),
    [
        ("2025-11-02", "wip=False", 64, 1024, (64 + 1024 + 64 + 63) // 64 * 64),  # dsr1_fp8_b200_trt_slurm.sh
        ("2025-11-02", "wip=False", 128, 8192, (128 + 8192 + 64 + 63) // 64 * 64),
        ("2026-01-29", "release:1.2.0rc6.post2", 64, 1024, 8192),  # dsr1_fp8_b200_trt.sh, 8192 at least
        ("2026-02-05", "release:1.2.0rc6.post3", 64, 1024, (4 * 64 + 1024 + 64 + 63) // 64 * 64),  # ..._trt_mtp.sh
    ],
)
def test_budgets_of_each_era(measured: str, image: str, conc: int, isl: int, budget: int) -> None:
    found = launched(measured, image, conc=conc, isl=isl)
    assert found.fields["max_num_batched_tokens"] == budget
    assert ("max_num_seqs" in found.fields) is image.endswith("post3")


def test_ranks_have_budgets_of_their_own_and_wait_for_each_other() -> None:
    found = launched("2026-02-05", "release:1.2.0rc6.post3", ranks=8, conc=256)
    assert found.fields["max_num_seqs"] == 256
    assert found.fields["max_num_batched_tokens"] == 8 * ((2 * 32 + 1024 + 64 + 63) // 64 * 64)
    assert found.fields["batching"] == "rank-balance"
    # 60 iterations of 1.79 tokens each with one draft
    assert dict(found.options)["batching"] == (("ranks", 8), ("iterations", 107))


def test_no_script_of_tensorrt_llm_cuts_prompts() -> None:
    for model in ("llama-3.1-70b", "gpt-oss-120b", "deepseek-v3"):
        row = {"system": "h200_sxm", "precision": "fp8", "isl": "8192", "osl": "1024", "conc": "16", "measured": ""}
        assert recipe(model, "trtllm", row, 8, 1).fields["batching"] == "in-flight"


@pytest.mark.parametrize(
    ("system", "precision", "conc", "measured", "drafts", "told", "interval"),
    [
        ("b200_sxm", "fp8", 128, "2026-03-25", True, True, 68),  # dsr1_fp8_b200_mtp.sh alone: 30 iterations of 2.27
        ("b200_sxm", "fp8", 64, "2026-03-25", False, False, 30),  # both scripts
        ("b200_sxm", "fp8", 8, "2026-03-25", False, False, 10),
        ("b200_sxm", "fp8", 64, "2025-11-18", False, True, 30),  # before there were drafts
        ("b200_sxm", "fp4", 128, "2026-03-25", False, True, 30),
    ],
)
def test_what_the_sweeps_of_sglang_drafted(
    system: str, precision: str, conc: int, measured: str, drafts: bool, told: bool, interval: int
) -> None:
    row = {"system": system, "precision": precision, "isl": "1024", "osl": "1024", "conc": str(conc), "image": ""}
    found = recipe("deepseek-v3", "sglang", {**row, "measured": measured}, 8, 1)
    options = dict(found.options)
    assert ("speculation" in options) is drafts and (not found.doubt) is told
    assert dict(options["batching"])["iterations"] == interval


def test_first_rounds_pay_for_compiling_until_clients_warm_engines_up(shared: Path) -> None:
    """Why they are grade C: with clients that send warm-ups first the same runs take a tenth."""
    cases = read_file(shared / "reference/serving_peers/inferencex_runs.csv.gz").cases
    times: dict[str, list[float]] = {"C": [], "": []}
    for case in cases:
        setting = {**dict(case.subject.settings), "gpu": case.labels.gpu, "precision": case.labels.precision}
        wanted = {"isl": 1024.0, "osl": 1024.0, "concurrency": 128, "gpu": "b200_sxm", "precision": "fp4"}
        if case.labels.framework == "sglang-0.4" and wanted.items() <= setting.items():
            first = case.measured[0]
            times[first.grade].append(first.value)
    assert min(times["C"]) > 9 * max(times[""])
    graded = [c for c in cases if c.measured[0].grade == "C"]
    assert {c.labels.model for c in graded} == {"deepseek-v3"} and all("warm up" in "".join(c.assumed) for c in graded)
    assert all(m.grade == "" for c in graded for m in c.measured[1:])


@pytest.mark.parametrize(
    ("precision", "image", "conc", "lengths", "ranks", "experts", "replayed"),
    [
        ("fp8", "release:1.2.0rc6.post3", 4, "1024 1024", 1, 1, 0),  # dsr1_fp8_b200_trt_mtp.sh: narrow
        ("fp8", "release:1.2.0rc6.post3", 8, "1024 1024", 1, 1, 1152),
        ("fp8", "release:1.2.0rc6.post3", 128, "1024 1024", 8, 8, 0),  # and data-parallel attention
        ("fp8", "release:1.2.0rc6.post2", 64, "8192 1024", 1, 1, 8320),  # dsr1_fp8_b200_trt.sh
        ("fp8", "release:1.2.0rc6.post2", 64, "1024 8192", 1, 1, 0),
        ("fp4", "release:1.2.0rc6.post3", 64, "1024 8192", 1, 1, 1344),  # dsr1_fp4_b200_trt_mtp.sh
        ("fp4", "release:1.2.0rc6.post3", 32, "1024 8192", 1, 1, 0),
        ("fp4", "release:1.1.0rc2.post2", 64, "1024 8192", 1, 1, 0),  # before
    ],
)
def test_which_prompts_are_replayed_piece_by_piece(
    precision: str, image: str, conc: int, lengths: str, ranks: int, experts: int, replayed: int
) -> None:
    isl, osl = lengths.split()
    more = {"osl": osl, "precision": precision, "moe_ep_size": str(experts)}
    found = launched("2026-02-06", image, ranks=ranks, conc=conc, isl=int(isl), **more)
    assert found.replayed == replayed


def test_ranks_of_data_parallel_attention_have_experts_whole(shared: Path) -> None:
    """Every sweep with it states ranks of experts: none takes slices of all of them."""
    cases = read_file(shared / "reference/serving_peers/inferencex_runs.csv.gz").cases
    plans = [c.subject.deployment.plan for c in cases if c.subject.deployment]
    ranked = [plan for plan in plans if plan.data_parallel > 1]
    assert ranked
    assert all(plan.expert_parallel == plan.data_parallel and not dict(plan.options) for plan in ranked)
