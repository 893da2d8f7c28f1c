from __future__ import annotations

import matplotlib
import pytest
import yaml

import simulator as sim
from simulator.data import find_file
from simulator.results.tables import Result
from simulator.training.tables import timeline_tables

matplotlib.use("Agg")


def with_timeline(source: str, *overrides: str) -> Result:
    """An estimate with the tables of its executed step, whatever the scenario asks to record."""
    result = sim.estimate(source, overrides)
    tables = dict(result.tables)
    for name, estimate in result.details.items():
        pipeline = estimate.details["pipeline"]
        for table, columns in timeline_tables(pipeline, pipeline.run()).items():
            tables[table] = {"workload": [name] * len(next(iter(columns.values()))), **columns}
    return Result(tables, result.document, result.provenance, result.warnings, {}, result.details)


@pytest.fixture(scope="session")
def one_f_one_b() -> Result:
    changes = ("plan.schedule=1f1b", "plan.virtual_stages=1", "batch.global_batch_size=24")
    return with_timeline("gpt3-175b-selene", *(f"workloads.0.{c}" for c in changes))


@pytest.fixture(scope="session")
def interleaved() -> Result:
    return with_timeline("gpt3-175b-selene")


@pytest.fixture(scope="session")
def trillion() -> Result:
    return with_timeline("gpt-1t-selene")


@pytest.fixture(scope="session")
def served() -> Result:
    """Every kind of workload at once, and failures: something to draw for every figure of a run."""
    document = yaml.safe_load(find_file("scenarios", "quickstart", "scenario").read_text(encoding="utf-8"))
    tune, chat = document["workloads"]
    tune |= {"steps": 600, "checkpoint": {"every": "20 s", "to": "nvme"}}
    chat["requests"]["count"] = 300
    mix = {"classes": {"a": {"sizes": 8, "run": "10 min"}}}
    document["cluster"]["nodes"]["count"] += 1
    document["workloads"] += [{"jobs": "lab", "mix": mix, "rate": "10 /h", "count": 20, "nodes": 1}]
    document["failures"] = {"mtbf": "3 h", "detection": "1 s", "restart": "5 s", "repair": "10 s"}
    return sim.run(document)
