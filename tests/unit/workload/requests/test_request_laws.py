"""Superposed clients, documents that prompts share, tenants side by side, and workload files that say so."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.workload.requests import load_requests, load_workload
from simulator.workload.requests.arrivals import Gamma, Poisson, Superposed
from simulator.workload.requests.documents import DocumentLaw, generate_with_documents
from simulator.workload.requests.lengths import Fixed
from simulator.workload.requests.sessions import SessionLaw, generate_sessions
from simulator.workload.requests.table import RequestTable


def dispersion(times: np.ndarray, window: float) -> float:
    """Variance over mean of the counts in windows."""
    counts = np.bincount((times / window).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def test_bursts_of_superposed_clients_last() -> None:
    """Index of dispersion of a sum of renewal processes: cv² of the gaps in long windows, as of one (Cox 1962). From
    one request to the next the sum is more even than one process of the same burstiness."""
    law = Superposed(100.0, clients=50, cv=3.0)
    times = law.sample(np.random.default_rng(5), 20_000.0)
    assert len(times) / 20_000 == pytest.approx(100.0, rel=0.02)
    assert dispersion(times, 200.0) == pytest.approx(9.0, rel=0.35)
    one = Gamma(100.0, 3.0).sample(np.random.default_rng(5), 20_000.0)
    assert dispersion(one, 200.0) == pytest.approx(9.0, rel=0.35)
    assert dispersion(one, 0.1) > 1.5 * dispersion(times, 0.1)
    gaps, alone = np.diff(times), np.diff(one)
    assert alone.std() / alone.mean() == pytest.approx(3.0, rel=0.05)
    assert gaps.std() / gaps.mean() < 2.0


def test_one_client_is_a_gamma_process_and_many_even_ones_are_poisson() -> None:
    gaps = np.diff(Superposed(10.0, clients=1, cv=2.0).sample(np.random.default_rng(1), 20_000.0))
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.03)
    gaps = np.diff(Superposed(10.0, clients=400, cv=0.2).sample(np.random.default_rng(1), 5_000.0))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


def test_shares_fall_with_the_rank_and_more_time_only_appends() -> None:
    law = Superposed(16.0, clients=73, skew=1.15)
    assert law.rates().sum() == pytest.approx(16.0)
    assert law.rates()[0] / law.rates()[9] == pytest.approx(10**1.15)
    short, long = (law.sample(np.random.default_rng(2), end) for end in (100.0, 300.0))
    assert (long[: len(short)] == short).all()
    few, many = (law.sample(np.random.default_rng(2), count=n) for n in (100, 4000))
    assert len(many) == 4000
    assert (many[:100] == few).all()
    with pytest.raises(ConfigError, match="skew"):
        Superposed(1.0, clients=2, skew=-1.0)


def test_documents_are_shared_behind_the_same_documents_only() -> None:
    law = DocumentLaw(100, Fixed(50), Fixed(3), 1.0, system_tokens=200)
    table = generate_with_documents(Poisson(1.0), law, Fixed(20), Fixed(5), count=2000, seed=4)
    assert (table.input_tokens == 200 + 3 * 50 + 20).all()
    blocks = table.prefix_blocks
    assert blocks is not None and blocks.tokens is not None
    assert all(len(set(blocks[i].tolist())) == 4 for i in range(50))
    assert len({int(blocks[i][0]) for i in range(len(table))}) == 1
    # An id belongs to one chain: what stands before it is always the same.
    before: dict[int, int] = {}
    for i in range(len(table)):
        ids = blocks[i].tolist()
        for first, second in itertools.pairwise(ids):
            assert before.setdefault(second, first) == first


def test_what_follows_a_prompts_own_text_is_new() -> None:
    """Of an unlimited cache every prompt but the first finds the head of the instruction, and nothing behind."""
    law = DocumentLaw(10, Fixed(50), Fixed(3), 1.0, system_tokens=200, own_tokens=30)
    table = generate_with_documents(Poisson(1.0), law, Fixed(20), Fixed(5), count=200, seed=4)
    assert (table.input_tokens == 200 + 30 + 3 * 50 + 20).all()
    assert table.prefix_blocks is not None
    chains = [table.prefix_blocks[i].tolist() for i in range(len(table))]
    assert len({chain[0] for chain in chains}) == 1
    behind = [block for chain in chains for block in chain[1:]]
    assert len(set(behind)) == len(behind) == 4 * 200
    assert unlimited_hits(table) == pytest.approx(199 * 200 / (200 * 400))


def unlimited_hits(table: RequestTable) -> float:
    """Share of the prompt tokens that a prefix cache without limit finds."""
    blocks, seen, hit = table.prefix_blocks, set[int](), 0
    assert blocks is not None
    for i in range(len(table)):
        ids = blocks[i].tolist()
        known = next((n for n, block in enumerate(ids) if block not in seen), len(ids))
        sizes = blocks.tokens[blocks.offsets[i] : blocks.offsets[i + 1]] if blocks.tokens is not None else None
        hit += known * table.prefix_block_tokens if sizes is None else int(sizes[:known].sum())
        seen.update(ids)
    return hit / float(table.input_tokens.sum())


def test_a_cache_finds_of_retrieval_what_it_finds_of_the_trace() -> None:
    """31.5 % of the tokens of RAGPulse, counted over its 7,106 prompts with all their parts."""
    assert unlimited_hits(load_requests("rag-documents", seed=3)) == pytest.approx(0.315, abs=0.01)


def test_sessions_may_begin_with_a_history() -> None:
    law = SessionLaw(Fixed(3), 1.0, system_tokens=1280, first_tokens=Fixed(5000))
    table = generate_sessions(Poisson(1.0), law, Fixed(100), Fixed(50), count=20)
    assert table.turn is not None
    assert table.input_tokens[table.turn == 1].tolist() == [6280] * 20
    assert table.input_tokens[table.turn == 3].tolist() == [6280 + 2 * 150] * 20


def test_popularity_follows_its_law() -> None:
    """With one document per prompt, document r has a share of r^-s / Σ i^-s; a skew of 0 makes all alike."""
    for skew in (0.0, 1.0):
        law = DocumentLaw(20, Fixed(10), Fixed(1), skew)
        table = generate_with_documents(Poisson(1.0), law, Fixed(1), Fixed(1), count=40_000, seed=1)
        assert table.prefix_blocks is not None
        found = np.sort(np.bincount(table.prefix_blocks.ids))[::-1] / 40_000
        expected = np.arange(1, 21) ** -skew / (np.arange(1, 21) ** -skew).sum()
        assert found == pytest.approx(expected, abs=0.006)
    everything = DocumentLaw(4, Fixed(10), Fixed(9), 3.0)
    table = generate_with_documents(Poisson(1.0), everything, Fixed(1), Fixed(1), count=50, seed=1)
    assert (table.input_tokens == 41).all()


def test_sessions_begin_with_what_all_share() -> None:
    law = SessionLaw(Fixed(3), 1.0, system_tokens=1280)
    table = generate_sessions(Poisson(1.0), law, Fixed(100), Fixed(50), count=20)
    assert table.prefix_blocks is not None and table.turn is not None and table.session is not None
    assert table.input_tokens[table.turn == 1].tolist() == [1380] * 20
    assert table.input_tokens[table.turn == 3].tolist() == [1280 + 3 * 100 + 2 * 50] * 20
    heads = {tuple(table.prefix_blocks[i][:10].tolist()) for i in range(len(table))}
    assert len(heads) == 1
    tails = {int(b) for i in np.flatnonzero(table.session == 0) for b in table.prefix_blocks[i][10:]}
    others = {int(b) for i in np.flatnonzero(table.session == 1) for b in table.prefix_blocks[i][10:]}
    assert tails and not tails & others


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\n{text}", encoding="utf-8")
    return str(path)


def test_files_have_sessions_documents_and_mixes(tmp_path: Path) -> None:
    talk = write(
        tmp_path, "talk", "arrival: {process: poisson, rate: 1 /s}\ninput_tokens: 64\noutput_tokens: 64\ncount: 30\n"
        "sessions: {turns: 4, think_time: 5 s}\n",
    )  # fmt: skip
    table = load_requests(talk, seed=2, rate=0.5)
    assert len(table) == 120
    assert table.name == "talk"
    assert load_workload(talk).sessions == SessionLaw(Fixed(4), 5.0)
    look = write(
        tmp_path, "look", "arrival: {process: poisson, rate: 1 /s}\ninput_tokens: 8\noutput_tokens: 8\ncount: 30\n"
        "documents: {count: 9, tokens: 32, skew: 1}\n",
    )  # fmt: skip
    assert (load_requests(look).input_tokens == 40).all()
    both = write(tmp_path, "both", f"rate: 10 /s\ncount: 400\nmix:\n  - {{workload: '{talk}', share: 1}}\n"
                 f"  - {{workload: '{look}', share: 3, priority: 2}}\n")  # fmt: skip
    table = load_requests(both, seed=3)
    assert table.client is not None and table.parent is not None and table.priority is not None
    assert (np.diff(table.arrival) >= 0).all()
    assert len(table) == 400
    children = np.flatnonzero(table.parent >= 0)
    assert (table.client[table.parent[children]] == 0).all()
    assert (table.client[children] == 0).all()
    assert set(table.priority[table.client == 1]) == {2}
    # 7.5 requests of documents per second, 2.5 sessions of four turns.
    alone = table.arrival[table.client == 1]
    assert len(alone) / alone[-1] == pytest.approx(7.5, rel=0.25)


def test_mistakes_in_a_file_are_all_named(tmp_path: Path) -> None:
    path = write(
        tmp_path, "bad", "arrival: {process: superposed, rate: 1 /s, clients: 0}\ninput_tokens: 64\noutput_tokens: 64\n"
        "count: 30\nsessions: {turns: 4, think_time: 5, pauses: 3}\n",
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_workload(path)
    messages = [str(issue) for issue in caught.value.issues]
    assert len(messages) == 3
    assert any("'pauses'" in m for m in messages)
    assert any("5 s" in m or "unit" in m for m in messages)
    mixed = write(tmp_path, "mixed", "rate: 3 /s\ncount: 5\nmix:\n  - {workload: rag, share: 0}\n  - {share: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_workload(mixed)
    assert len(caught.value.issues) == 2
