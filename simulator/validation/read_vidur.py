"""Vidur's reference runs: a summary table beside request lists, runs and operation times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject

__all__ = ["COLUMNS", "read_summary"]

COLUMNS = frozenset({"name", "cfg", "workload", "sched", "qps", "kv_blocks", "batch_cap", "replay_max_de2e_s"})


def read_summary(rows: Sequence[Mapping[str, str]], path: Path) -> Reading:
    """One case per run: the largest difference of any request's end from Vidur's, given its operation times."""
    reading, folder = Reading(), path.parent
    for row in rows:
        name, config = row["name"], row["cfg"]
        needed = (folder / f"runs/{name}.csv.gz", folder / f"ops/ops__{config}.csv.gz")
        if missing := [str(p.relative_to(folder)) for p in needed if not p.is_file()]:
            reading.skipped.append(
                Skipped(name, path.name, "dev", "Vidur", "runs", f"{', '.join(missing)} is not there")
            )
            continue
        gpu, model, layout = config.split("_")
        labels = Labels("Vidur", gpu, model, "llama", f"vidur {row['sched']}", "", "", layout, "A")
        settings = (("folder", str(folder)), ("name", name), *sorted((k, v) for k, v in row.items() if k in COLUMNS))
        measured = (
            Measurement("request_replay", 0.0, "max_difference"),
            Measurement("serving_latency", float(row["e2e_p50_s"]), "e2e_p50"),
        )
        reading.cases.append(Case(name, path.name, "dev", labels, Subject("vidur", None, settings=settings), measured))
    return reading
