"""Options of published runs as their scripts compute them (SemiAnalysisAI/InferenceX benchmarks/*.sh)."""

from __future__ import annotations

import pytest

from simulator.validation.inferencex_recipes import Recipe, recipe


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
