"""Function traces of Azure: both schemas, bad rows, and the round trip of the writer."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.workload.functions.azure import DURATIONS, INVOCATIONS, MEMORY, read_calls, write_azure_2019
from simulator.workload.functions.generate import CallLaw, generate_calls
from simulator.workload.functions.table import FunctionTable

SAMPLE_2021 = """app,func,end_timestamp,duration
a1,f1,10.5,0.5
a1,f2,12.0,4.0
a2,f1,11.0,0.25
"""


def test_a_row_per_call_is_read_by_its_end_and_duration(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(SAMPLE_2021.encode()))
    calls = read_calls(path)
    assert calls.arrival == pytest.approx([0.0, 2.0, 2.75])
    assert calls.duration == pytest.approx([4.0, 0.5, 0.25])
    assert [calls.names[f] for f in calls.function] == ["a1/f2", "a1/f1", "a2/f1"]
    assert calls.owners == ("a1", "a1", "a2")


def day(folder: Path, counts: dict[int, int]) -> None:
    minutes = ",".join(map(str, range(1, 1441)))
    row = ",".join(str(counts.get(m, 0)) for m in range(1, 1441))
    (folder / INVOCATIONS.format(1)).write_text(f"HashOwner,HashApp,HashFunction,Trigger,{minutes}\no,a,f,http,{row}\n")
    heads = ",".join(f"percentile_Average_{p}" for p in (0, 1, 25, 50, 75, 99, 100))
    (folder / DURATIONS.format(1)).write_text(
        f"HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,{heads}\no,a,f,150,9,100,200,100,100,100,200,200,200,200\n"
    )
    (folder / MEMORY.format(1)).write_text("HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,5,128\n")


def test_counts_per_minute_stay_in_their_minute_and_durations_in_their_percentiles(tmp_path: Path) -> None:
    day(tmp_path, {1: 3, 61: 40})
    calls = read_calls(tmp_path, seed=1)
    assert np.bincount((calls.arrival // 60).astype(int)).nonzero()[0].tolist() == [0, 60]
    assert len(calls) == 43
    assert calls.duration.min() >= 0.1
    assert calls.duration.max() <= 0.2
    assert calls.memory == pytest.approx([128 * 2**20])
    assert (read_calls(tmp_path, seed=1).arrival == calls.arrival).all()
    assert (read_calls(tmp_path, seed=2).arrival != calls.arrival).any()


def test_what_is_written_reads_back_with_the_same_counts(tmp_path: Path) -> None:
    calls = generate_calls(CallLaw(0.05, functions=7, owners=3, skew=1.2, seconds=0.2, sigma=0.8), 100_000, seed=3)
    files = write_azure_2019(calls, tmp_path)
    assert len(files) == 4, "two days of two files"
    back = read_calls(tmp_path)
    assert len(back) == len(calls)
    for one in range(7):
        mine = calls.arrival[calls.function == one], back.arrival[back.function == _number(calls, one)]
        before, after = (np.bincount((times // 60).astype(int), minlength=1700) for times in mine)
        assert (before == after).all()
    assert np.median(back.duration) == pytest.approx(np.median(calls.duration), rel=0.1)


def _number(calls: FunctionTable, one: int) -> int:
    """Functions are numbered by their first appearance in the files: by day, then by number."""
    order: list[int] = []
    for start in (0.0, 86400.0):
        here = calls.function[(calls.arrival >= start) & (calls.arrival < start + 86400)]
        order += [int(f) for f in np.unique(here) if int(f) not in order]
    return order.index(one)


def test_bad_rows_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(SAMPLE_2021 + "a3,f1,oops,1\na3,f1,20,-1\n")
    with pytest.raises(ConfigError) as caught:
        read_calls(path)
    assert [(i.file, i.line) for i in caught.value.issues] == [("bad.csv", 5), ("bad.csv", 6)]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "app,func\nx,y\n"])
def test_other_files_are_told_what_is_needed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="end_timestamp"):
        read_calls(path)
    with pytest.raises(ConfigError, match="no file"):
        read_calls(tmp_path)
    with pytest.raises(ConfigError, match="there is no function trace"):
        read_calls(tmp_path / "absent.csv")


def test_popularity_follows_zipf() -> None:
    calls = generate_calls(CallLaw(10, functions=3, skew=1.0), 10_000, seed=0)
    shares = np.bincount(calls.function) / len(calls)
    assert shares == pytest.approx(np.array([6, 3, 2]) / 11, abs=0.01)
