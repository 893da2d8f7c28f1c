"""Published failure records: rates by size, effective time, and the traces behind the shipped repair times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import simulator
from simulator.validation.cluster_runs import LLAMA3
from simulator.workload.failures import failure_records, load_failures, read_node_events

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, Any]:
    data = yaml.safe_load((shared / "reference/published_training.yaml").read_text(encoding="utf-8"))
    return {record["id"]: record for record in data["failures"]}


@pytest.mark.parametrize("name", failure_records())
def test_shipped_records_load_with_a_source(name: str) -> None:
    model = load_failures(name)
    assert model.source
    assert model.assumes, "detection and restart times are never published: they are assumed, and said to be"
    assert model.rate > 0


def test_llama3_54_days(published: dict[str, Any]) -> None:
    record, model = published["llama3_405b_54days"], load_failures("llama3-2024")
    exposure = record["cluster"]["n_gpus"] * record["window_days"] * DAY
    counts = {kind.name: exposure / kind.mtbf for kind in model.kinds}
    assert counts.pop("planned_maintenance") == pytest.approx(record["planned"])
    assert counts == pytest.approx(record["categories"])
    assert sum(counts.values()) == pytest.approx(record["unexpected"])
    job = simulator.run(LLAMA).of("pretrain")
    print(f"\nLlama 3, 54 days: interruptions {job['interruptions']} (published 466), effective time "
          f"{job['effective_time_ratio']:.3f} (published > 0.90)")  # fmt: skip
    assert job["interruptions"] == pytest.approx(466, abs=3 * math.sqrt(466))
    assert job["effective_time_ratio"] > 0.90
    without = simulator.run({**LLAMA, "until": "1 d", "failures": "meta-rsc-1"}).of("pretrain")
    assert without["interruptions"] == pytest.approx(24 / 1.8, abs=3 * math.sqrt(24 / 1.8))


LLAMA: dict[str, Any] = {**LLAMA3, "failures": "llama3-2024"}


def test_meta_rsc_mean_time_to_failure_by_size(published: dict[str, Any]) -> None:
    record = published["meta_rsc"]
    rsc1 = load_failures("meta-rsc-1")
    for accelerators in (16384, 131072):
        hours = record["mttf_hours"][f"gpus_{accelerators}_projected"]
        print(f"\nMeta RSC-1, {accelerators} GPUs: {rsc1.mttf(accelerators) / HOUR:.3g} h (projected {hours} h)")
        assert rsc1.mttf(accelerators) / HOUR == pytest.approx(hours, rel=0.03)
    for name in ("rsc1", "rsc2"):
        per_node = record["failure_rate_per_1000_node_days"][name] / 1000 / DAY
        assert load_failures(f"meta-rsc-{name[-1]}").mttf(8) == pytest.approx(1 / per_node, rel=1e-4)


def test_stepfun_trace_gives_the_shipped_rate_and_repair_times(shared: Path) -> None:
    trace = read_node_events(shared / "traces/stepfun_faults_2024/fault_trace.json.gz")
    model = load_failures("stepfun-2024")
    assert (len(trace), trace.read, trace.dropped, trace.nodes) == (584, 1168, (), 400)
    assert trace.node_mtbf / DAY == pytest.approx(239, rel=0.01)
    assert model.mttf(8) / DAY == pytest.approx(trace.node_mtbf / DAY, rel=0.01)
    repair = np.array(trace.end) - np.array(trace.start)
    assert model.repair.median == pytest.approx(np.median(repair), rel=0.05)
    assert model.repair.mean == pytest.approx(repair.mean(), rel=0.05)


@pytest.mark.parametrize(("system", "shape"), [("18", 0.817), ("19", 0.889), ("20", 0.647)])
def test_lanl_gaps_have_the_published_weibull_shape(shared: Path, system: str, shape: float) -> None:
    from scipy.stats import weibull_min

    path = next((shared / "traces/lanl_failures").glob("*.csv.gz"))
    trace = read_node_events(path, system=system)
    gaps = np.diff(trace.start)
    found, _, _ = weibull_min.fit(gaps[gaps > 0], floc=0)
    assert found == pytest.approx(shape, rel=0.03)
    assert trace.read == len(trace) + sum(count for _, count in trace.dropped)
    with pytest.raises(simulator.errors.ConfigError, match="name one with 'system'"):
        read_node_events(path)


def test_the_spread_between_sites_is_that_of_the_published_rates(shared: Path) -> None:
    """Failures per 1,000 nodes and day of eight clusters, as their records state or count them."""
    from simulator.workload.failures.uncertainty import SITE_SPREAD

    text = (shared / "reference/published_training.yaml").read_text()
    record = {r["id"]: r for r in yaml.load(text, yaml.CSafeLoader)["failures"]}
    rates = [
        record["llama3_405b_54days"]["failure_rate_per_1000_node_days"],
        record["infinitehbd_trace"]["failure_rate_per_1000_node_days"],
        *record["meta_rsc"]["failure_rate_per_1000_node_days"].values(),
        record["bloom176b"]["hardware_failures_per_week"] / 7 / record["bloom176b"]["cluster"]["nodes"] * 1000,
        record["opt175b"]["hardware_failures_per_day"] / (record["opt175b"]["cluster"]["n_gpus"] / 8) * 1000,
        0.03 / 7 * 1000,  # Imbue: about 3 % of machines a week
        record["ft_hsdp"]["interruptions_per_1000_servers_per_day"],
    ]
    assert np.exp(np.std(np.log(rates), ddof=1)) == pytest.approx(SITE_SPREAD, rel=0.02)
