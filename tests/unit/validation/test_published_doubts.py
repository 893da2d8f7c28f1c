"""Figures that their own source contradicts are compared apart."""

from __future__ import annotations

from simulator.validation.published_doubts import doubts_of
from simulator.validation.read_serving import read_serving_file

ENTRY = {
    "split": "dev", "source": "llamacpp", "verified": "url", "model": "llama3.1-8b", "gpu": "l40s", "n": 1,
    "engine": "llama.cpp 2024 (layer split = pipeline, one layer group at a time)", "dtype": "fp16",
    "workload": {"kind": "static_batch", "batch": 1, "isl": 1024, "osl": 1024},
    "metrics": {"decode_tps": 43.42, "prefill_tps": 2491.65},
}  # fmt: skip


def test_one_figure_of_a_run_is_of_grade_c_and_the_other_is_not() -> None:
    entries = [{**ENTRY, "id": "llamacpp_llama3.1-8b_fp16_l40sx1"}, {**ENTRY, "id": "another"}]
    doubted, other = read_serving_file({"models": {}, "entries": entries}, "file").cases
    assert {m.quantity: m.grade for m in doubted.measured} == {"decode_tokens_per_s": "", "prefill_tokens_per_s": "C"}
    assert doubted.labels.grade == "A"
    assert doubted.assumed[-1].startswith("prefill_tokens_per_s of grade C: 2,254, 2,492")
    assert not any(m.grade for m in other.measured)


def test_the_rates_that_are_quoted_rise_with_the_prompt() -> None:
    """On such runs alone: attention grows with the prompt, so that rates fall."""
    for entry in ("llamacpp_llama3.1-8b_fp16_a100_sxm_80x1", "llamacpp_llama3.1-70b_q4_k_m_a40x4"):
        words = doubts_of(entry)["prefill_tps"].split(" tokens/s")[0].replace(" ± 32", "").replace(",", "")
        rates = [float(word) for word in words.split()]
        assert len(rates) == 4 and rates == sorted(rates)
