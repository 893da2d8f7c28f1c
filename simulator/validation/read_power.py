"""Published power of training nodes: the ``power`` section of a measurements file.

The records name system and workload only; where the submitter's launch files are published, the layout is taken from
them (``power_layouts.csv`` beside this module, with its sources). The others are listed with the reason.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simulator.validation.cases import Case, Labels, Measurement, Subject
from simulator.validation.hardware import cluster_of
from simulator.validation.labels import scale_label, strategy_label
from simulator.validation.models import IncompleteError
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

__all__ = ["power_case"]

LORA = (("lora_rank", 16), ("lora_targets", "attention"), ("peft", "lora"))
"""Adapters of MLPerf's fine-tuning benchmark."""


@cache
def _layouts() -> list[dict[str, str]]:
    with Path(__file__).with_name("power_layouts.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def power_case(record: Mapping[str, Any], file: str) -> Case:
    """One entry of ``power``.

    Raises
    ------
    IncompleteError
        If it is no reading, or what ran is not stated or published.
    """
    if "node_power_mean_w" not in record:
        words = "an estimate from rated power" if record.get("energy_mwh") else "model, layout and batch not stated"
        raise IncompleteError(f"{words}, not a reading of a known job")
    nodes = int(record["n_nodes"])
    row = next(
        (
            r
            for r in _layouts()
            if r["system"].lower() in str(record["system"]).lower()
            and r["workload"] == record["workload"]
            and int(r["nodes"]) == nodes
        ),
        None,
    )
    if row is None:
        raise IncompleteError("the launch file of this run is not published with the readings")
    accelerators = nodes * int(record["gpus_per_node"])
    degrees = {k: int(row[k]) for k in ("tp", "cp")}
    plan = Plan(
        tensor_parallel=degrees["tp"], context_parallel=degrees["cp"],
        data_parallel=accelerators // (degrees["tp"] * degrees["cp"]), sequence_parallel=True, zero_stage=1,
        precision=row["precision"], options=LORA,
    )  # fmt: skip
    framework = load_framework("nemo-24.07")
    model = load_model(row["model"])
    cluster, assumed = cluster_of("H100", accelerators, int(record["gpus_per_node"]))
    batch = Batch(int(row["global_batch"]), int(row["micro_batch"]), int(row["seq_len"]))
    job = TrainingJob(str(record["id"]), model, framework, batch, plan)
    labels = Labels(
        str(record["source"]), "H100-80GB", model.name, model.family, framework.name, plan.precision,
        scale_label(accelerators, 8), strategy_label(plan), str(record.get("quality", "B")),
    )  # fmt: skip
    measured = (Measurement("power", float(record["node_power_mean_w"]), "node"),)
    about = (*assumed, "LoRA of rank 16 on attention", f"layout: {row['source']}", "the rest of the node as DGX H100")
    return Case(
        str(record["id"]), file, str(record.get("split", "")), labels, Subject("training_power", cluster, job),
        measured, about,
    )  # fmt: skip
