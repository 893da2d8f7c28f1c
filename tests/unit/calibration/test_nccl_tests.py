"""The text of nccl-tests in the forms of its versions; rows made up in the columns that each version prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.calibration.nccl_tests import operation_of, read_nccl_tests
from simulator.cli import main
from simulator.errors import ConfigError

RANKS = """\
# nThread 1 nGpus 8 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20
# Using devices
#  Rank  0 Group  0 Pid  1 on host device  0 [0x00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  1 on host device  1 [0x00] NVIDIA H100 80GB HBM3
"""
HEAD = """\
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
"""
ROWS = """\
           0             0     float     sum      -1     5.70    0.00    0.00      0     5.54    0.00    0.00      0
        1024           256     float     sum      -1    12.30    0.08    0.08      0    12.10    0.08    0.08      0
  1073741824     268435456     float     sum      -1    10094  106.37  106.37    N/A    10141  105.88  105.88    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 11.5
"""
NCCL = RANKS + HEAD + ROWS


def test_current_columns() -> None:
    """Since 2.13: reduction and root everywhere, #wrong; long times without decimals, N/A where nothing was checked."""
    test = read_nccl_tests("# all_reduce_perf -b 1K\n" + NCCL)
    assert (test.operation, test.ranks) == ("all_reduce", 2)
    assert test.points == ((1024.0, pytest.approx(12.3e-6)), (2.0**30, pytest.approx(10094e-6)))
    with pytest.raises(ConfigError, match="does not name its tool"):
        read_nccl_tests(NCCL)
    with pytest.raises(ConfigError, match="no timings"):
        read_nccl_tests("nothing here")


@pytest.mark.parametrize("header", [True, False], ids=["whole", "cut off"])
@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("size count type redop time algbw busbw error", "1310720000 327680000 float sum 2097152 0.62 0.62 4e-07"),
        ("size count type time algbw busbw error", "1310720000 163840000 float 2097152 0.62 0.62 0e+00"),
        ("size count type root time algbw busbw error", "1310720000 327680000 float 0 2097152 0.62 0.62 N/A"),
        ("size count type redop root time algbw busbw #wrong", "1310720000 3 float none -1 2097152 0.62 0.00 0"),
    ],
    ids=["all_reduce 2.0", "all_gather 2.0", "broadcast 2.0", "alltoall 2.13"],
)
def test_columns_of_versions(columns: str, row: str, header: bool) -> None:
    """Which columns stand between type and time differs by version and tool."""
    place, measured = columns.partition("time")[2], " ".join(row.split()[-4:])
    text = f"#  {columns} time{place}\n" if header else ""
    test = read_nccl_tests(text + f"  {row}  {measured}\n", "all_reduce")
    assert test.points == ((1310720000.0, pytest.approx(2.097152)),)


def test_tags_logs_and_repeats() -> None:
    """mpirun's tags, NCCL's own lines between the rows, copies without '#', and a size that was run three times."""
    noisy = "server1:117950:118334 [6] NCCL INFO comm 0x7f5780001ca0 rank 15 nranks 32 - Init COMPLETE\n"
    rows = "".join(f"  64  16  float  sum  -1  {t}  0.0  0.0  0  9.0  0.0  0.0  0\n" for t in (7.0, 30.0, 8.0))
    tagged = "".join(f"[1,0]<stdout>:{line}\n" for line in (RANKS + HEAD).splitlines()) + noisy + rows
    assert read_nccl_tests(tagged, "all_gather").points == ((64.0, pytest.approx(8e-6)),)
    bare = "\n".join(line.removeprefix("#") for line in NCCL.splitlines())
    assert read_nccl_tests(bare, "all_reduce") == read_nccl_tests(NCCL, "all_reduce")
    neuron = "     size(B)    count(elems)     type    time(us)    algbw(GB/s)    busbw(GB/s)\n"
    neuron += "    33554432        33554432    uint8         768          40.69          40.69\n"
    assert read_nccl_tests(neuron, "all_reduce").points == ((33554432.0, pytest.approx(768e-6)),)


def test_processes_that_ran_alone_are_refused() -> None:
    """Without MPI=1 every process is rank 0 of its own run, and the times are those of a copy."""
    alone = RANKS.replace("Rank  1", "Rank  0") + HEAD + ROWS
    with pytest.raises(ConfigError, match="MPI=1"):
        read_nccl_tests(alone, "all_reduce")


def test_files_say_the_operation(tmp_path: Path) -> None:
    from simulator.hardware.profiles import load_network

    assert operation_of("reduce-scatter_8gpu") == "reduce_scatter" and operation_of("log") == ""
    text = tmp_path / "all_reduce.txt"
    text.write_text(NCCL, encoding="utf-8")
    arguments = ["import", "nccl-tests", str(text), "--base", "h100-sxm", "--out", str(tmp_path), "--name", "own"]
    assert main(arguments) == 0
    profile = load_network(tmp_path / "networks" / "own.yaml")
    assert profile.curves["all_reduce"][2].seconds == pytest.approx((12.3e-6, 10094e-6))
