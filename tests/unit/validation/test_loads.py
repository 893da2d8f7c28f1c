"""Loads of published entries: what is stated is checked against the entry's own figures."""

from __future__ import annotations

import pytest

from simulator.validation.cases import Subject
from simulator.validation.loads import load_of
from simulator.validation.models import IncompleteError
from simulator.validation.published_launches import as_launched
from simulator.validation.read_serving import _copied, _entry_case, _grade
from simulator.validation.rocm_recipes import rocm_launch
from simulator.validation.serving_runs import load_table


def entry(kind: str, metrics: dict[str, float], **workload: object) -> dict[str, object]:
    return {"id": "x", "source": "s", "gpu": "g", "workload": {"kind": kind, **workload}, "metrics": metrics}


def test_a_concurrency_that_littles_law_contradicts_was_not_in_force() -> None:
    """100 requests of 40 s each within 100 s are 40 in the system."""
    figures = {"ttft_ms_mean": 30_100.0, "tpot_ms_mean": 100.0, "duration_s": 100.0}
    stated = {"num_requests": 100, "isl": 32000, "osl": 100}
    kind, settings, assumed = load_of("closed_loop", entry("closed_loop", figures, conc=4, **stated))
    assert (kind, settings["concurrency"]) == ("all_at_once", 0)
    assert "40 requests were there, not 4" in " ".join(assumed)
    kind, settings, _ = load_of("closed_loop", entry("closed_loop", figures, conc=40, **stated))
    assert (kind, settings["concurrency"]) == ("closed_loop", 40)


def test_means_of_a_shipped_workload_are_its_lengths() -> None:
    for isl, osl, like in ((216.4, 197.0, "sharegpt"), (128, 4, ""), (342.1, 281.4, "")):
        _, settings, _ = load_of("all_at_once", entry("all_at_once", {}, num_requests=9, isl_mean=isl, osl_mean=osl))
        assert settings["like"] == like


def test_what_is_not_stated_is_not_guessed() -> None:
    with pytest.raises(IncompleteError, match="isl, osl"):
        load_of("all_at_once", entry("all_at_once", {}))
    with pytest.raises(IncompleteError, match="concurrency"):
        load_of("closed_loop", entry("closed_loop", {}, isl=1, osl=1))


def test_equal_figures_on_two_accelerators_are_a_copy() -> None:
    figures = {"out_tps": 20.02, "total_tps": 1.0, "duration_s": 498.76, "ttft_ms_mean": 2.0, "tpot_ms_mean": 3.0}
    one, other, third = (entry("all_at_once", dict(figures)) for _ in range(3))
    one["id"], other["id"], third["id"] = "a", "b", "c"
    other["gpu"], third["metrics"] = "h", {**figures, "out_tps": 20.03}
    assert _copied([one, other, third]) == {"a": "b", "b": "a"}
    assert _copied([one, {**other, "gpu": "g"}]) == {}  # repeated on the same accelerator


def test_rocm_states_requests_and_sequences() -> None:
    asked = {"kind": "offline_max_load", "isl": 2048, "osl": 2048}
    launch, count = rocm_launch({"source": "amd_vllm", "model": "llama3.1-405b", "workload": asked})
    assert count == launch.fields["max_num_seqs"] == 500
    assert rocm_launch({"source": "other", "model": "llama3.1-405b", "workload": asked})[1] == 0


def test_a_page_mends_what_an_entry_says_of_its_launch() -> None:
    """SGLang switches data-parallel attention off where no degree is given: a plain tensor-parallel run."""
    stated = {"id": "gs_deepseek-r1-0528_h200_sglang_02", "dp": 8, "options": "--enable-dp-attention"}
    mended, words = as_launched(stated)
    assert (mended["dp"], stated["dp"]) == (1, 8)
    assert "--dp-size" in " ".join(words)
    other = {"id": "gs_deepseek-v3.2_h200_sglang_03", "dp": 8}
    assert as_launched(other) == (other, [])


def test_a_page_may_name_another_card_or_contradict_itself() -> None:
    """GLM-4.6 on eight H100: all-reduces took what PCIe takes. What a page and its figures say against each other is
    grade C, and so is a card that the figures tell."""
    told = {"source": "gpustack", "engine": "vLLM 0.11", "dtype": "fp8", "model": "glm-4.6", "n": 8, "verified": "url"}
    run = {"kind": "all_at_once", "num_requests": 10, "isl_mean": 100, "osl_mean": 10}
    entry = told | {"gpu": "h100_sxm", "workload": run, "metrics": {"duration_s": 1.0}}
    grades = {i: _entry_case(entry | {"id": i}, {}, "").labels.grade for i in ("gs_glm-4.6_h100_vllm_01", "another")}
    assert grades == {"gs_glm-4.6_h100_vllm_01": "C", "another": "A"}
    mended, words = as_launched({"id": "gs_glm-4.6_h100_vllm_01", "gpu": "h100_sxm"})
    assert mended["gpu"] == "h100_pcie"
    assert "inferred" in " ".join(words)
    mended, words = as_launched({"id": "gs_qwen3-14b_h100_sglang_01", "gpu": "h100_sxm", "verified": "url"})
    assert (mended["gpu"], _grade(mended["verified"])) == ("h100_sxm", "C")
    assert "contradict" in " ".join(words)


def test_a_page_that_leaves_the_number_of_cards_to_its_scheduler_states_none() -> None:
    stated = {"id": "gs_qwen3-30b-a3b_910b_mindie_01", "n": 1, "workload": {}, "source": "gpustack"}
    words = {"model": "qwen3-30b-a3b", "gpu": "ascend_910b", "engine": "MindIE 2.1RC1", "dtype": "bf16"}
    with pytest.raises(IncompleteError, match="number of accelerators"):
        _entry_case(stated | words, {}, "file")


def test_drawn_lengths_have_the_mean_the_benchmark_printed() -> None:
    """A hundred draws of a long-tailed law miss its mean; the printed mean is that of the requests sent."""
    told = {"count": 100, "isl": 232.6, "osl": 220.6, "like": "sharegpt", "concurrency": 4}
    table = load_table(Subject("serving", None, None, None, tuple(sorted(told.items()))))
    assert float(table.input_tokens.mean()) == pytest.approx(232.6, rel=5e-3)
    assert float(table.output_tokens.mean()) == pytest.approx(220.6, rel=5e-3)
