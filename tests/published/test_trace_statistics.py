"""The readers and the shipped workloads against the statistics published of the traces.

Figures are those of the papers and data set pages, or computed from the trace by others before this code existed;
the trace files themselves are not part of the project.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.workload.requests import Quantiles, RequestTable, load_requests, load_workload, read_requests
from simulator.workload.requests.files import workload_names
from simulator.workload.requests.readers.base import RowLog
from simulator.workload.requests.readers.servegen_files import load_clients

DAY = 86400.0


@pytest.fixture(scope="module")
def traces(shared: Path) -> Path:
    return shared / "traces"


@pytest.fixture(scope="module")
def azure(traces: Path) -> RequestTable:
    return read_requests(traces / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv.gz")


@pytest.fixture(scope="module")
def mooncake(traces: Path) -> RequestTable:
    return read_requests(traces / "mooncake_fast25" / "conversation_trace.jsonl.gz")


@pytest.fixture(scope="module")
def reasoning_day(traces: Path) -> RequestTable:
    return read_requests(traces / "servegen" / "reason_deepseek-r1.tar.gz", duration=DAY)


def _assert_statistics(table: RequestTable, expected: dict[str, float], rel: float) -> None:
    found = table.statistics()
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=rel)


def test_azure_conversation_as_published(azure: RequestTable) -> None:
    assert len(azure) == 19_366
    assert azure.provenance.format == "azure"
    assert azure.provenance.dropped == {}
    expected = {
        "duration_s": 3501.7, "rate": 5.5301, "arrival_cv": 1.094,
        "input_tokens_mean": 1154.7, "input_tokens_median": 1020, "input_tokens_p90": 2734.5, "input_tokens_p99": 4142,
        "input_tokens_max": 14050, "output_tokens_mean": 211.1, "output_tokens_median": 129, "output_tokens_p90": 424,
        "output_tokens_p99": 601, "output_tokens_max": 1000,
    }  # fmt: skip
    _assert_statistics(azure, expected, rel=3e-4)


def test_azure_first_rows_are_those_of_the_file(azure: RequestTable) -> None:
    # 18:15:46.6805900, 18:15:50.9951690, 18:15:51.2224670
    np.testing.assert_allclose(azure.arrival[:3], [0.0, 4.314579, 4.541877], atol=5e-8)
    assert azure.input_tokens[:3].tolist() == [374, 396, 879]
    assert azure.output_tokens[:3].tolist() == [44, 109, 55]


def test_mooncake_conversation_as_published(mooncake: RequestTable) -> None:
    assert len(mooncake) == 12_031
    assert mooncake.prefix_block_tokens == 512
    assert mooncake.provenance.time_resolution_s == 3.0
    assert mooncake.provenance.synthetic_fields == ("arrival within the time grid",)
    lengths = {
        "input_tokens_mean": 12035.1, "input_tokens_median": 6909, "input_tokens_p90": 27367,
        "input_tokens_p99": 85400.4, "output_tokens_mean": 342.6, "output_tokens_median": 350,
        "output_tokens_p90": 597, "output_tokens_p99": 1118.5,
    }  # fmt: skip
    _assert_statistics(mooncake, lengths, rel=1e-4)
    _assert_statistics(mooncake, {"rate": 3.40, "arrival_cv": 1.009}, rel=0.02)  # depends on the jitter's draws


def test_mooncake_without_jitter_keeps_the_grid(traces: Path) -> None:
    raw = read_requests(traces / "mooncake_fast25" / "conversation_trace.jsonl.gz", jitter=False)
    assert len(np.unique(raw.arrival)) == 1180
    assert raw.provenance.seed is None
    _assert_statistics(raw, {"rate": 3.4012, "arrival_cv": 3.034}, rel=3e-4)


def test_mooncake_prefix_hits_of_an_infinite_cache(traces: Path) -> None:
    """37.4 % of tokens (the paper: 40 %); every request shares block 0. Order of arrival as recorded."""
    table = read_requests(traces / "mooncake_fast25" / "conversation_trace.jsonl.gz", jitter=False)
    blocks = table.prefix_blocks
    assert blocks is not None
    seen: set[int] = set()
    hit = 0
    for i, tokens in enumerate(table.input_tokens.tolist()):
        ids = blocks[i].tolist()
        assert ids[0] == 0
        known = next((n for n, b in enumerate(ids) if b not in seen), len(ids))
        hit += min(512 * known, tokens)
        seen.update(ids)
    assert hit / table.input_tokens.sum() == pytest.approx(0.3736, abs=5e-4)


def test_mooncake_synthetic_is_fine_grained_and_poisson(traces: Path) -> None:
    table = read_requests(traces / "mooncake_fast25" / "synthetic_trace.jsonl.gz")
    assert len(table) == 3993
    assert table.provenance.synthetic_fields == ()
    expected = {"rate": 3.906, "arrival_cv": 1.011, "input_tokens_mean": 15325.5, "output_tokens_mean": 149.1}
    _assert_statistics(table, expected, rel=5e-4)


def test_burstgpt_samples(traces: Path) -> None:
    folder = traces / "burstgpt_samples"
    old, new = read_requests(folder / "BurstGPT_1_first42.csv"), read_requests(folder / "BurstGPT_3_first4.csv")
    assert (old.provenance.rows_read, len(old)) == (42, 38)
    assert old.provenance.dropped == {"failed request (zero response tokens)": 4}
    assert old.session is None
    assert old.input_tokens[:3].tolist() == [472, 1087, 417]
    np.testing.assert_allclose(old.arrival[:3], [0, 40, 113])
    assert len(new) == 4
    assert new.session is not None and len(set(new.session.tolist())) == 4
    np.testing.assert_allclose(new.arrival, [0, 51, 82, 144])
    assert new.output_tokens.tolist() == [446, 29, 123, 178]


def test_ragpulse_as_published(traces: Path) -> None:
    table = read_requests(traces / "ragpulse" / "0_trace.jsonl.gz")
    assert len(table) == 7106
    assert any("1 rows came before" in t for t in table.provenance.transforms)
    expected = {
        "duration_s": 604603, "arrival_cv": 3.061, "input_tokens_mean": 2943.6, "input_tokens_median": 3139.5,
        "output_tokens_mean": 283.2, "output_tokens_median": 234,
    }  # fmt: skip
    _assert_statistics(table, expected, rel=3e-4)
    assert table.session is not None
    assert len(set(table.session.tolist())) == 3990
    blocks = table.prefix_blocks
    assert blocks is not None and blocks.tokens is not None and table.prefix_block_tokens == 0
    # The parts make up all but a few per cent of the prompts (91 % and 9 % are prompt, passages and history).
    assert blocks.tokens.sum() / table.input_tokens.sum() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("archive", "days", "rate", "clients"),
    [
        ("reason_deepseek-r1", 1, 16.0, 73),
        ("multimodal_mm-image", 1, 9.5, 35),
        ("language_m-small", 14, 1174, 43),
        ("language_m-large", 14, 196, 162),
    ],
)
def test_servegen_mean_rates(traces: Path, archive: str, days: int, rate: float, clients: int) -> None:
    log = RowLog(archive)
    found = load_clients(traces / "servegen" / f"{archive}.tar.gz", 0, days * DAY, log)
    assert log.bad == {}
    assert len(found) == clients
    assert sum(c.expected(0, days * DAY) for c in found) / (days * DAY) == pytest.approx(rate, rel=0.005)


def test_servegen_requests_have_the_published_lengths(reasoning_day: RequestTable) -> None:
    """Client-weighted lengths of the data set, computed without drawing requests."""
    expected = {
        "rate": 16.0, "input_tokens_mean": 1268, "input_tokens_median": 208, "input_tokens_p90": 2092,
        "input_tokens_p99": 23423, "output_tokens_mean": 1527, "output_tokens_median": 792, "output_tokens_p90": 3432,
        "output_tokens_p99": 12607,
    }  # fmt: skip
    _assert_statistics(reasoning_day, expected, rel=0.01)


def test_servegen_lengths_of_a_client_are_independent(reasoning_day: RequestTable) -> None:
    """The authors' sampler gives rank correlation 1 within a client and window."""
    assert reasoning_day.client is not None
    busiest = np.argmax(np.bincount(reasoning_day.client))
    rows = np.flatnonzero(reasoning_day.client == busiest)
    rows = rows[reasoning_day.arrival[rows] < 21600]  # one length table
    ranks = [np.argsort(np.argsort(c[rows])) for c in (reasoning_day.input_tokens, reasoning_day.output_tokens)]
    assert abs(np.corrcoef(*ranks)[0, 1]) < 5 / np.sqrt(len(rows))


def test_servegen_multimodal_counts_image_tokens(traces: Path) -> None:
    table = read_requests(traces / "servegen" / "multimodal_mm-image.tar.gz", duration=DAY)
    # Text mean 572 and image tokens on top: 650 per image, 1.6 images.
    assert table.input_tokens.mean() > 572 + 650
    assert any("images" in t for t in table.provenance.transforms)
    _assert_statistics(table, {"output_tokens_mean": 130, "output_tokens_median": 100, "output_tokens_p99": 587}, 0.02)


def test_servegen_refuses_what_cannot_be_meant(traces: Path) -> None:
    with pytest.raises(ConfigError, match="shorter duration"):
        read_requests(traces / "servegen" / "language_m-small.tar.gz", duration=14 * DAY)


@pytest.mark.parametrize("name", workload_names())
def test_shipped_workload_has_its_published_statistics(name: str) -> None:
    """With 200,000 requests, so that the tolerance in the file is about the law and not about luck."""
    workload = load_workload(name)
    assert workload.published and workload.source
    # Sessions have dozens of requests each, and documents are drawn one by one.
    count = 250 if workload.sessions else 20_000 if workload.documents else 200_000
    found = load_requests(name, seed=11, count=count).statistics()
    for statistic, value in workload.published.items():
        tolerance = workload.tolerance.get(statistic, workload.tolerance["default"])
        assert found[statistic] == pytest.approx(value, rel=tolerance), statistic


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("azure-2023-conv", "azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"),
        ("mooncake-conversation", "mooncake_fast25/conversation_trace.jsonl.gz"),
        ("mooncake-synthetic", "mooncake_fast25/synthetic_trace.jsonl.gz"),
        ("rag", "ragpulse/0_trace.jsonl.gz"),
    ],
)
def test_shipped_quantiles_are_those_of_the_trace(traces: Path, name: str, file: str) -> None:
    """The rerunnable fit behind the quantile tables."""
    table, workload = read_requests(traces / file), load_workload(name)
    assert workload.input_tokens == Quantiles.from_values(table.input_tokens)
    assert workload.output_tokens == Quantiles.from_values(table.output_tokens)


def test_reasoning_quantiles_are_those_of_the_drawn_day(reasoning_day: RequestTable) -> None:
    workload = load_workload("reasoning")
    assert workload.input_tokens == Quantiles.from_values(reasoning_day.input_tokens)
    assert workload.output_tokens == Quantiles.from_values(reasoning_day.output_tokens)


def test_quantiles_of_passages_and_of_steps_are_those_of_the_traces(traces: Path) -> None:
    with gzip.open(traces / "ragpulse" / "2_passages.jsonl.gz", "rt") as file:
        passages = np.array([json.loads(line)["token_length"] for line in file if line.strip()])
    with gzip.open(traces / "alibaba_genai_2026" / "lora_request_trace.csv.gz", "rt") as file:
        steps = [row["num_inference_steps"] for row in csv.DictReader(file)]
    assert load_workload("embeddings").input_tokens == Quantiles.from_values(passages)
    documents = load_workload("rag-documents").documents
    assert documents is not None and documents.tokens == Quantiles.from_values(passages)
    images = load_workload("image-generation").output_tokens
    assert images == Quantiles.from_values(np.array([float(s) for s in steps if s]).astype(int))


def test_agent_sessions_as_published(traces: Path) -> None:
    """Figures of all 692 sessions, here for the first 60 of the sample; hits of an unlimited cache in a session."""
    table = read_requests(traces / "weka_claude_code" / "traces_sample.jsonl.gz", sessions=60, rate=0.1)
    assert table.prefix_block_tokens == 64
    assert table.parent is not None and table.session is not None and table.think_time is not None
    assert (table.parent < 0).sum() == 60 == len(np.unique(table.session))
    assert np.isnan(table.think_time).sum() == 60
    assert np.nanmedian(table.think_time) == pytest.approx(10, rel=0.25)
    assert np.median(table.output_tokens) == pytest.approx(217, rel=0.15)
    blocks, seen, hit = table.prefix_blocks, set[int](), 0
    assert blocks is not None
    for i in range(len(table)):
        ids = blocks[i].tolist()
        hit += 64 * next((n for n, b in enumerate(ids) if b not in seen), len(ids))
        seen.update(ids)
    assert hit / table.input_tokens.sum() == pytest.approx(0.966, abs=0.01)
    # A request follows the one before it, or a sub-agent the request that sent it out.
    assert (table.session[table.parent[table.parent >= 0]] == table.session[table.parent >= 0]).all()
    assert (table.arrival == table.arrival[np.searchsorted(table.arrival, table.arrival)]).all()


def test_what_agents_begin_with_is_what_the_trace_begins_with(traces: Path) -> None:
    """The rerunnable fit behind ``first_tokens`` of agents: first prompts less tools and instructions."""
    table, workload = read_requests(traces / "weka_claude_code" / "traces_sample.jsonl.gz"), load_workload("agents")
    assert table.parent is not None and workload.sessions is not None
    assert np.median(table.input_tokens) == pytest.approx(workload.published["input_tokens_median"], rel=1e-4)
    assert table.input_tokens.mean() == pytest.approx(workload.published["input_tokens_mean"], rel=1e-4)
    begin = np.maximum(1, table.input_tokens[table.parent < 0].astype(int) - workload.sessions.system_tokens)
    assert workload.sessions.first_tokens == Quantiles.from_values(begin)


def test_arxiv_quantiles_are_those_of_the_sample(shared: Path) -> None:
    sample = read_requests_of_vidur(shared)
    workload = load_workload("arxiv-summarization")
    assert workload.input_tokens == Quantiles.from_values(sample[0])
    assert workload.output_tokens == Quantiles.from_values(sample[1])


def read_requests_of_vidur(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = np.loadtxt(shared / "reference" / "vidur" / "requests__arxiv1000.csv.gz", delimiter=",", skiprows=1)
    return rows[:, 2], rows[:, 3]


@pytest.mark.parametrize(
    "file",
    [
        "azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz",
        "mooncake_fast25/conversation_trace.jsonl.gz",
        "burstgpt_samples/BurstGPT_1_first42.csv",
        "ragpulse/0_trace.jsonl.gz",
        "servegen/multimodal_mm-image.tar.gz",
    ],
)
def test_every_row_is_accounted_for(traces: Path, file: str) -> None:
    table = read_requests(traces / file)
    for version in (table, table.window(0, table.span / 2), table.with_rate(10.0).head(20)):
        record = version.provenance
        assert record.rows_read == table.provenance.rows_read
        assert record.rows_emitted == len(version)
        assert record.rows_read == record.rows_emitted + sum(record.dropped.values())
