"""Bad profiles: everything wrong is reported at once, each with its place and its cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulator.errors import ConfigError, Issue
from simulator.hardware import load_accelerator, load_cluster, load_network, load_node

GOOD = """\
name: chip
vendor: nobody
architecture: none
year: 2024
peak_flops: {bf16: 100 TFLOP/s}
memory: {type: HBM3, capacity: 80 GB, bandwidth: 3 TB/s}
scale_up: {name: wire, bandwidth: 100 GB/s, domain: 8, topology: switch}
power: {idle: 50 W, peak: 500 W}
efficiency:
  gemm.bf16: {launch: 4 us, compute: 0.8, memory: 0.9, sharpness: 2, sigma: 0.05, trust: fitted, source: here}
sources: [a test]
"""


def issues(tmp_path: Path, text: str) -> list[Issue]:
    (tmp_path / "chip.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_accelerator(tmp_path / "chip.yaml")
    return list(caught.value.issues)


def test_the_good_one_loads(tmp_path: Path) -> None:
    (tmp_path / "chip.yaml").write_text(GOOD)
    chip = load_accelerator(tmp_path / "chip.yaml")
    assert chip.efficiency["gemm.bf16.launch"].value == pytest.approx(4e-6)
    assert chip.efficiency["gemm.bf16.launch"].id == "chip.gemm.bf16.launch"


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("bandwidth: 3 TB/s", "bandwidth: 3", "3}", "3 has no unit"),
        ("bandwidth: 3 TB/s", "bandwidth: 3 TB", "3 TB}", "is of kind data, not bandwidth"),
        ("peak: 500 W", "peak: 500 w", "500 w", "did you mean 'W'"),
        ("peak: 500 W", "peek: 500 W", "peek", "unknown key 'peek', did you mean 'peak'"),
        ("idle: 50 W", "idle: 5000 W", "5000 W", "idle power is above peak power"),
        ("vendor: nobody\n", "", "name: chip", "'vendor' is missing"),
        ("vendor:", "vendr:", "vendr", "did you mean 'vendor'"),
        ("name: chip", "name: other", "other", "must agree"),
        ("topology: switch", "topology: ring", "ring", "'ring' is not one of switch"),
        ("domain: 8", "domain: 0", "0,", "whole number of at least 1"),
        ("compute: 0.8", "compute: 1.2", "gemm.bf16", "at most 1"),
        ("sharpness: 2", "sharpness: 0.5", "gemm.bf16", "at least 1"),
        ("sigma: 0.05, ", "", "4 us", "needs 'sigma'"),
        ("trust: fitted", "trust: sure", "sure", "not one of measured, fitted"),
        ("compute: 0.8", "compte: 0.8", "compte", "did you mean 'compute'"),
        ("{bf16: 100 TFLOP/s}", "{bf16: 100 TFLOP/s, bf61: 1 TFLOP/s}", "bf61", "did you mean 'bf16'"),
        ("{bf16: 100 TFLOP/s}", "{fp64: 100 TFLOP/s}", "{fp64", "needs the dense peak of bf16 or fp16"),
        ("capacity: 80 GB", "capacity: 80 GB, usable: 90 GiB", "90 GiB", "more than the capacity"),
        ("bandwidth: 100 GB/s", "bandwidth: 100 GB/s, achievable: 120 GB/s", "120 GB/s", "above the bandwidth"),
        ("sources: [a test]\n", "", "name: chip", "say where the figures come from"),
        ("memory: {", "memory: [] #", "[]", "must be a mapping"),
        ("year: 2024", "year: 2024\nprice: {purchase: [3 USD, 2 USD], as_of: x, source: y}", "purchase", "low end"),
    ],
)  # fmt: skip
def test_one_error(tmp_path: Path, old: str, new: str, at: str, message: str) -> None:
    """The message is there, and its place is where ``at`` begins in the file."""
    assert old in GOOD
    text = GOOD.replace(old, new)
    found = [i for i in issues(tmp_path, text) if re.search(message, i.message)]
    assert found
    assert text.splitlines()[found[0].line - 1][found[0].column - 1 :].startswith(at)
    assert found[0].file.endswith("chip.yaml")


def test_all_errors_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("3 TB/s", "3").replace("vendor", "vendr").replace("500 W", "500 V").replace("0.8", "1.8")
    found = issues(tmp_path, text)
    assert [i.line for i in found] == sorted(i.line for i in found)
    assert {i.line for i in found} >= {2, 6, 8, 10}
    assert {i.path for i in found} >= {"memory.bandwidth", "power.peak", "efficiency.gemm.bf16"}


def test_unknown_names_suggest_the_near_ones() -> None:
    with pytest.raises(ConfigError, match="unknown accelerator 'h100-sxn', did you mean 'h100-sxm'"):
        load_accelerator("h100-sxn")
    with pytest.raises(ConfigError, match="there is no node file"):
        load_node("nowhere/node.yaml")


def test_references_are_checked_where_they_are_made(tmp_path: Path) -> None:
    (tmp_path / "box.yaml").write_text(
        "name: box\naccelerator: h100-smx\naccelerators: 8\nnic: {link: ndr40, count: 8}\n"
        "host_memory: 1 TB\nhost_memory_bandwidth: 400 GB/s\nsources: [a test]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_node(tmp_path / "box.yaml")
    assert [(i.line, i.path) for i in caught.value.issues] == [(2, "accelerator"), (4, "nic.link")]
    assert "h100-sxm" in caught.value.issues[0].message
    assert "ndr400" in caught.value.issues[1].message


def test_errors_of_a_referenced_file_carry_its_name(tmp_path: Path) -> None:
    (tmp_path / "chip.yaml").write_text(GOOD.replace("3 TB/s", "3"))
    (tmp_path / "box.yaml").write_text(
        f"name: box\naccelerator: {tmp_path}/chip.yaml\naccelerators: 8\n"
        "host_memory: 1 TB\nhost_memory_bandwidth: 400 GB/s\nsources: [a test]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_node(tmp_path / "box.yaml")
    assert [(Path(i.file).name, i.line) for i in caught.value.issues] == [("chip.yaml", 6)]


def test_bad_curves_and_fabrics(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        "name: net\nscope: scale_up\nlink: {bandwidth: 1 GB/s}\nsources: [a test]\ncurves:\n"
        "  all_reduce: {bytes: [1 KiB, 1 B], unit: us, 2: [1, 2], 4: [1]}\n"
        "constants: {all_reduce: {2: {latency: 3 parsecs, sigma: 0.1, trust: fitted, source: x}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_network(tmp_path / "net.yaml")
    assert {i.path for i in caught.value.issues} == {
        "curves.all_reduce.bytes", "curves.all_reduce.4", "constants.all_reduce.2.latency",
    }  # fmt: skip
    (tmp_path / "lot.yaml").write_text(
        "name: lot\ngroups: [{profile: dgx-h100, count: none}]\n"
        "fabric: {topology: fat-tree, link: ndr400, oversubscription: 0.5}\nsources: [a test]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_cluster(tmp_path / "lot.yaml")
    assert {i.path for i in caught.value.issues} == {"groups[0].count", "fabric.oversubscription"}
