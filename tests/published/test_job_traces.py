"""Generated jobs against the published statistics of their clusters, and the readers of published job traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.workload.job_mixes import job_mixes, load_mix
from simulator.workload.job_traces import read_jobs

PUBLISHED = {
    # mean and median run time [s], share of jobs with one accelerator
    "acme-seren": (1414.3, 122.0, 0.54),
    "philly-2017": (13135.9, 1144.0, 0.93),
}


@pytest.mark.parametrize("name", job_mixes())
def test_mixes_have_the_run_times_of_their_cluster(name: str) -> None:
    mix = load_mix(name)
    jobs = mix.sample(3, count=100_000)
    mean, median, single = PUBLISHED[name]
    print(f"\n{name}: mean {jobs.run.mean():.0f} s (published {mean:.0f}), median {np.median(jobs.run):.0f} s "
          f"(published {median:.0f})")  # fmt: skip
    assert mix.source
    assert mix.assumes
    assert jobs.run.mean() == pytest.approx(mean, rel=0.2)
    assert np.median(jobs.run) == pytest.approx(median, rel=0.15)
    assert (jobs.gpus == 1).mean() == pytest.approx(single, abs=0.08)
    again = mix.sample(3, count=1000, rate=2 / 3600)
    assert again.submit[-1] / 1000 == pytest.approx(1800, rel=0.15)


def test_most_accelerator_time_of_an_llm_cluster_is_pretraining() -> None:
    jobs = load_mix("acme-seren").sample(5, count=200_000)
    time = jobs.run * jobs.gpus
    share = time[np.array(jobs.kind) == "pretrain"].sum() / time.sum()
    print(f"\npre-training: {share:.2f} of the accelerator time (published 0.695, with the joint law of size and time)")
    assert 0.6 < share < 0.9


def test_published_traces_are_read_and_every_row_is_accounted_for(shared: Path) -> None:
    pods = read_jobs(shared / "traces/alibaba_gpu_2023/openb_pod_list_default.csv.gz")
    assert pods.read == 8152 == len(pods) + sum(count for _, count in pods.dropped)
    assert set(np.unique(pods.gpus)) == {1, 2, 4, 8}
    models = read_jobs(shared / "traces/alibaba_dlrm_2025/disaggregated_DLRM_trace.csv.gz")
    assert models.read == 23871 == len(models) + sum(count for _, count in models.dropped)
    assert dict(models.dropped)["no accelerators"] == 16485


def test_acme_rows_as_published_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace_seren.csv"
    path.write_text(
        "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue,gpu_time\n"
        "1,u5907,1,8,128,Other,FAILED,2023-03-01 00:18:22+08:00,,,117,32,936.0\n"
        "2,u5907,1,0,128,Eval,COMPLETED,2023-03-01 00:20:22+08:00,,,60,32,0\n"
        "3,u1,1,8,128,SFT,COMPLETED,2023-03-01 00:23:58+08:00,,,2693,13,21544.0\n"
    )
    jobs = read_jobs(path)
    assert jobs.submit.tolist() == [0.0, 336.0]
    assert (jobs.run.tolist(), jobs.gpus.tolist(), jobs.kind) == ([117.0, 2693.0], [8, 8], ["other", "sft"])
    assert jobs.tenants == ("u5907", "u1")
    assert jobs.dropped == (("no accelerators", 1),)
