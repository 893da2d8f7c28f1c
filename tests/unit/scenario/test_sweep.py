"""Sweeps: order, isolation of failures, resumption after a kill, equal tables on every executor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError
from simulator.scenario import sweep as sweeping
from simulator.scenario.sweep import sweep
from simulator.scenario.sweep_journal import JOURNAL
from simulator.scenario.sweep_points import Answer, Recipe
from simulator.scenario.sweep_table import load_sweep

TP = "workloads.chat.deployment.plan.tp"
NODES = "cluster.nodes.profile"
SMALL = ["workloads.chat.requests.count=150", "workloads.finetune.steps=1"]


def by_point(found: Any) -> dict[int, Mapping[str, Any]]:
    return {row["point"]: row for row in found.rows}


def test_bad_and_infeasible_points_are_rows_with_their_reason_among_the_good_ones() -> None:
    found = sweep("llama3-70b-chat", {TP: [1, 3, 8]}, depth="estimate", jobs=1)
    rows = by_point(found)
    assert [rows[i]["status"] for i in range(3)] == ["infeasible", "error", "ok"]
    assert "out of memory" in rows[0]["reason"]
    assert "not divisible by 3" in rows[1]["reason"]
    assert rows[2][TP] == 8
    frame = found.frame()
    assert list(frame.columns[:3]) == ["point", TP, "status"]
    assert list(frame["point"]) == [0, 1, 2]


def test_a_row_equals_the_same_change_made_by_hand() -> None:
    found = sweep("quickstart", {"workloads.finetune.batch.global_batch_size": [64, 128]}, depth="step", jobs=1)
    for row in found.rows:
        size = row["workloads.finetune.batch.global_batch_size"]
        alone = simulator.estimate("quickstart", [f"workloads.finetune.batch.global_batch_size={size}"])
        want = alone.of(row["workload"])
        assert {k: row[k] for k in want if want[k] == want[k]} == {k: v for k, v in want.items() if v == v}


def test_processes_threads_and_this_process_give_equal_tables() -> None:
    vary = [*SMALL, f"{NODES}=dgx-h100,hgx-h200", "seed=1,2"]
    alone = sweep("quickstart", vary, jobs=1)
    with ThreadPoolExecutor(2) as pool:
        threads = sweep("quickstart", vary, executor=pool)
    assert repr(sweep("quickstart", vary, jobs=2).rows) == repr(alone.rows) == repr(threads.rows)


def test_a_saved_sweep_reads_back_and_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vary = {TP: [1, 3, 4, 8], "workloads.chat.requests.count": [100, 200]}
    first = sweep("llama3-70b-chat", vary, depth="step", jobs=1, output=tmp_path)
    loaded = load_sweep(tmp_path)
    assert (loaded.axes, loaded.points, loaded.depth) == (first.axes, first.points, first.depth)
    for read, made in zip(loaded.rows, first.rows, strict=True):
        assert repr({k: read.get(k, v) for k, v in made.items()}) == repr(dict(made))
        assert not any(read[k] for k in set(read) - set(made))
    computed: list[Any] = []

    def count(recipe: Recipe, point: Any) -> Answer:
        computed.append(point)
        return original(recipe, point)

    original = sweeping.answer_point
    monkeypatch.setattr(sweeping, "answer_point", count)
    again = sweep("llama3-70b-chat", vary, depth="step", jobs=1, output=tmp_path)
    assert (repr(again.rows), computed) == (repr(first.rows), [])
    sweep("llama3-70b-chat", {**vary, TP: [2, 8]}, depth="step", jobs=1, output=tmp_path)
    assert computed == [{TP: 2, "workloads.chat.requests.count": n} for n in (100, 200)]
    sweep("llama3-70b-chat", {TP: [8]}, depth="estimate", jobs=1, output=tmp_path)
    assert len(computed) == 3


def test_a_changed_file_is_computed_anew(tmp_path: Path) -> None:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens", *(f"2023-11-16 18:15:{i:02}.0,{100 + i},20" for i in range(40))]
    trace, out = tmp_path / "trace.csv", tmp_path / "out"
    vary = [f"workloads.chat.requests={{trace: {trace}}}", f"{TP}=4,8"]
    trace.write_text("\n".join(lines))
    before = sweep("llama3-70b-chat", vary, jobs=1, output=out)
    trace.write_text("\n".join(lines[:21]))
    after = sweep("llama3-70b-chat", vary, jobs=1, output=out)
    assert [row["requests"] for row in (*before.rows, *after.rows)] == [40, 40, 20, 20]


def test_killed_in_the_middle_no_finished_point_is_computed_twice(tmp_path: Path) -> None:
    counts = "workloads.chat.requests.count=400:407"
    command = [sys.executable, "-m", "simulator.cli", "sweep", "quickstart", "-s", counts, "-j", "2", "-o"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = killed / JOURNAL
    until = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = [json.loads(line)["key"] for line in journal.read_bytes().split(b"\n")[:-1]]
    assert 2 <= len(finished) < 8
    assert not (killed / "sweep.csv").exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "cut sho')
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert keys[: len(finished)] == finished
    assert len(keys) == len(set(keys)) == 8
    assert (killed / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()


def die_at_two(recipe: Recipe, point: Mapping[str, Any]) -> Answer:
    if point["seed"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"status": "ok", "reason": "", "rows": [{"workload": "w", "feasible": True, "value": point["seed"]}]}


def test_a_point_that_kills_its_worker_is_an_error_and_the_rest_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "answer_point", die_at_two)
    rows = by_point(sweep("quickstart", {"seed": [0, 1, 2, 3, 4, 5]}, jobs=2))
    assert [rows[i]["status"] for i in range(6)] == ["ok", "ok", "error", "ok", "ok", "ok"]
    assert "worker process died" in rows[2]["reason"]


class GivesUp(ThreadPoolExecutor):
    """An executor that loses one task for good, as Ray does after its retries."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future = super().submit(fn, *args, **kwargs)
        if args[1]["seed"] == 2:
            future.result = lambda timeout=None: (_ for _ in ()).throw(RuntimeError("worker crashed\nat ..."))  # type: ignore[method-assign]
        return future


def test_a_point_that_an_executor_gives_up_is_an_error_and_the_rest_is_computed() -> None:
    with GivesUp(2) as pool:
        rows = by_point(sweep("quickstart", {"seed": [1, 2, 3]}, depth="estimate", executor=pool))
    assert [rows[i]["status"] for i in range(3)] == ["ok", "error", "ok"]
    assert rows[1]["reason"] == "the executor failed: RuntimeError: worker crashed"


def test_what_if_of_a_scenario_is_swept_and_the_command_line_wins() -> None:
    document = {**simulator.load("llama3-70b-chat").document, "what_if": {NODES: ["dgx-h100", "hgx-h200"], TP: [4, 8]}}
    assert len(sweep(document, depth="estimate", jobs=1).points) == 4
    fewer = sweep(document, [f"{TP}=8", f"{NODES}=dgx-b200,dgx-h100"], depth="estimate", jobs=1)
    assert [p[NODES] for p in fewer.points] == ["dgx-b200", "dgx-h100"]
    assert {row["plan"] for row in fewer.rows} == {"tp8 pp1 dp1 bf16"}


def test_a_sweep_of_mistakes_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the 2 points is a valid scenario"):
        sweep("quickstart", {"cluster.nodes.cuont": [1, 2]}, depth="estimate", jobs=1)
    with pytest.raises(ConfigError, match="not a finished sweep"):
        load_sweep(tmp_path)


def test_two_sweeps_do_not_write_in_one_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another sweep"):
            sweep("quickstart", {"seed": [1]}, depth="estimate", output=tmp_path)


def test_ray_without_ray_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"fmsim\[distributed\]"):
        sweep("quickstart", {"seed": [1, 2]}, depth="estimate", executor="ray")


@pytest.mark.slow
def test_two_ray_nodes_give_the_table_of_this_process_though_one_node_dies() -> None:
    ray = pytest.importorskip("ray", reason="needs the extra 'distributed'")
    from ray.cluster_utils import Cluster

    vary = [*SMALL, "seed=1:12"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False)

        def lose_a_node(done: int, total: int) -> None:
            if done == 3:
                cluster.remove_node(second, allow_graceful=False)

        distributed = sweep("quickstart", vary, executor="ray", progress=lose_a_node)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert repr(distributed.rows) == repr(sweep("quickstart", vary, jobs=1).rows)
